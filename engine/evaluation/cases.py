"""Input-output cases: inputs go into the subject, plain data comes out, the engine compares.

case ──► answer ──► compare
  │        └─ exception ──► failure with the solution's line
  ├─ no answer in time ──► timeout ──► new subject for the rest
  └─ end of channel, garbage ──► crash ──► new subject for the rest (a few times)
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from engine.api_models import Case, CaseSuite
from engine.evaluation import compare, programs
from engine.evaluation.channel import FrameReader, FrameWriter, Pipe, close_after
from engine.evaluation.inside import wire
from engine.evaluation.outcome import MAX_FAILURES
from engine.evaluation.programs import Solution
from engine.evaluation.verdict import Strength, TestFailure, Verdict
from engine.sandbox.run import Sandbox
from engine.sandbox.types import SandboxResult

MAX_ANSWER = 1 << 20
"""Bytes of what one case may return."""

MAX_RESTARTS = 3
"""New subjects after a hang or a crash; cases after that are not run, and count as failed."""

CASE_SHARE = 0.4
"""Part of the time limit that one case may take: one hanging case leaves time for the others."""

START_S = 10.0
"""For a subject to stand, before any generated code runs: a machine under load, not the code."""


class _Lost(Exception):
    """The subject gave no answer: `kind` is `timeout` or `crash`."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


class _NeverStarted(Exception):
    """The subject did not come up: the machine's fault, not the code's."""


@dataclass
class _Progress:
    """What is known so far."""

    ran: int = 0
    failed: int = 0
    failures: list[TestFailure] = field(default_factory=list[TestFailure])
    timed_out: bool = False
    error: str = ""
    infrastructure: bool = False
    runs: list[SandboxResult] = field(default_factory=list[SandboxResult])

    def add(self, failure: TestFailure | None) -> None:
        self.ran += 1
        if failure is None:
            return
        self.failed += 1
        self.timed_out = self.timed_out or failure.kind == "timeout"
        if len(self.failures) < MAX_FAILURES:
            self.failures.append(failure)


class _Subject:
    """The engine's side of one running subject."""

    def __init__(self, reader: FrameReader, writer: FrameWriter) -> None:
        self._reader = reader
        self._writer = writer

    async def ready(self) -> None:
        try:
            async with asyncio.timeout(START_S):
                frame = await self._reader.read()
        except (TimeoutError, wire.WireError):
            frame = None
        if frame is None or frame.get("ready") is not True:
            raise _NeverStarted

    async def ask(self, seconds: float, **message: Any) -> dict[str, Any]:
        """Ask and await the answer that carries the question's nonce."""
        nonce = secrets.token_hex(8)
        try:
            async with asyncio.timeout(seconds):
                await self._writer.write({"id": 1, "n": nonce, **message})
                frame = await self._reader.read()
        except TimeoutError:
            raise _Lost("timeout", f"no answer within {seconds:.1f} s") from None
        except wire.WireError as error:
            raise _Lost("crash", f"the process sent garbage: {error}") from None
        if frame is None:
            raise _Lost("crash", "the process ended instead of answering")
        if frame.get("n") != nonce:
            raise _Lost("crash", "the process answered what nobody asked")
        return frame


async def check_cases(sandbox: Sandbox, solution: Solution, suite: CaseSuite) -> Verdict:
    """Judge the solution by its cases. One bad case does not hide the others."""
    loop = asyncio.get_running_loop()
    progress = _Progress()
    started = loop.time()
    deadline = started + sandbox.limits.timeout_s
    following = 0
    for _ in range(MAX_RESTARTS + 1):
        if following >= len(suite.items) or progress.error or loop.time() >= deadline:
            break
        following = await _run_some(sandbox, solution, suite, following, deadline, progress)
    if not progress.error:
        for index in range(following, len(suite.items)):
            kind = "timeout" if loop.time() >= deadline else "crash"
            progress.add(TestFailure(_name(suite, index), kind, "not run: earlier cases hung or ended the process"))
    return _verdict(progress, sandbox, loop.time() - started)


async def _run_some(
    sandbox: Sandbox, solution: Solution, suite: CaseSuite, first: int, deadline: float, progress: _Progress
) -> int:
    """Run cases from `first` on in one subject; returns the index of the first that still has to run."""
    with Pipe() as requests, Pipe() as answers:
        program = programs.subject(solution, (requests.read_fd, answers.write_fd), sandbox.limits)
        async with sandbox.start(program) as running:
            async with asyncio.TaskGroup() as group:
                reader = await FrameReader.open(answers.read_fd, MAX_ANSWER)
                writer = await FrameWriter.open(requests.write_fd)
                group.create_task(close_after(running, answers), name="case subject's end")
                try:
                    following = await _converse(_Subject(reader, writer), suite, first, deadline, progress)
                finally:
                    writer.close()
                    reader.close()
                    running.kill()
            progress.runs.append(await running.wait())
    return following


async def _converse(subject: _Subject, suite: CaseSuite, first: int, deadline: float, progress: _Progress) -> int:
    loop = asyncio.get_running_loop()
    try:
        await subject.ready()
        loaded = await subject.ask(max(0.0, deadline - loop.time()), op="load")
    except _NeverStarted:
        progress.error, progress.infrastructure = "the solution's process did not start", True
        return first
    except _Lost as lost:
        progress.error = f"the solution cannot be imported: {lost}"
        progress.timed_out = lost.kind == "timeout"
        progress.failures.append(TestFailure("import", lost.kind, str(lost)))
        return first
    if "exc" in loaded:
        failure = _raised("import", loaded)
        progress.error = f"the solution cannot be imported: {failure.kind}: {failure.message}"
        progress.failures.append(failure)
        return first
    for index in range(first, len(suite.items)):
        seconds = min(deadline - loop.time(), CASE_SHARE * (deadline - loop.time()) + 1.0)
        name = _name(suite, index)
        if seconds <= 0:
            return index
        try:
            frame = await subject.ask(seconds, **_question(suite.function, suite.items[index]))
        except _Lost as lost:
            progress.add(TestFailure(name, lost.kind, str(lost)))
            return index + 1
        progress.add(_judge(name, suite.items[index], frame))
    return len(suite.items)


def _question(function: str, case: Case) -> dict[str, Any]:
    return {
        "op": "case",
        "name": function,
        "args": [wire.encode(value) for value in case.args],
        "kwargs": {name: wire.encode(value) for name, value in case.kwargs.items()},
    }


def _judge(name: str, case: Case, frame: dict[str, Any]) -> TestFailure | None:
    if "exc" in frame:
        return _raised(name, frame)
    try:
        got = compare.json_value(frame["ok"])
    except (ValueError, TypeError, IndexError, KeyError, RecursionError):
        return TestFailure(name, "crash", "the answer cannot be read")
    expected = _plain(case.expected)
    if compare.same(expected, got):
        return None
    message = compare.difference(expected, got)
    return TestFailure(name, "mismatch", message, expected=compare.shown(expected), got=compare.shown(got))


def _plain(value: Any) -> Any:
    """A validated JSON value in plain built-in containers."""
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return value


def _raised(name: str, frame: dict[str, Any]) -> TestFailure:
    """The failure of a case in which the solution raised; every part of it is the opponent's word, so bounded."""
    described = frame["exc"] if isinstance(frame["exc"], dict) else {}
    line = described.get("line")
    value: Sequence[Any] = described.get("value") or ()
    return TestFailure(
        name,
        str(described.get("name", "Exception"))[:100],
        " ".join(str(value[4]).split())[:600] if len(value) > 4 else "",
        line=line if type(line) is int else None,
        source_line=str(described.get("source", ""))[:200],
    )


def _name(suite: CaseSuite, index: int) -> str:
    case = suite.items[index]
    shown = [compare.shown(value) for value in case.args] + [f"{k}={compare.shown(v)}" for k, v in case.kwargs.items()]
    text = f"case {index + 1}: {suite.function}({', '.join(shown)})"
    return text if len(text) <= 200 else f"{text[:200]}..."


def _verdict(progress: _Progress, sandbox: Sandbox, seconds: float) -> Verdict:
    passed = progress.ran > 0 and progress.failed == 0 and not progress.error and not progress.timed_out
    return Verdict(
        passed=passed,
        strength=Strength.VERIFIED if progress.ran else Strength.NONE,
        ran=progress.ran,
        failed=progress.failed,
        failures=tuple(progress.failures),
        error=" ".join(progress.error.split())[:1000],
        infrastructure=progress.infrastructure,
        timed_out=progress.timed_out,
        truncated=any(run.truncated for run in progress.runs),
        stdout="".join(run.stdout for run in progress.runs),
        stderr="".join(run.stderr for run in progress.runs),
        exit_code=0 if passed else 1,
        duration_s=seconds,
        sandbox_level=str(sandbox.level),
    )
