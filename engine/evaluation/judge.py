"""The judge: decides about generated code from outside of the process that runs it.

code that does not parse ──► SyntaxError, nothing started
tests      judge process ◄── stand-ins ──► subject process        strength verified
cases      engine        ◄── plain data ──► subject process       strength verified
in_process one process for both                                   strength verified-in-process
own tests  one process                                            strength self-checked
"""

from __future__ import annotations

import asyncio
import dataclasses
import secrets
from dataclasses import dataclass

from engine.api_models import CaseSuite
from engine.evaluation import programs
from engine.evaluation.cases import check_cases
from engine.evaluation.channel import FrameReader, Pipe, close_after
from engine.evaluation.inside import wire
from engine.evaluation.outcome import Runs, Tally, both, conclude, syntax_verdict
from engine.evaluation.programs import Solution
from engine.evaluation.verdict import Strength, Verdict
from engine.sandbox.run import Running, Sandbox
from engine.sandbox.types import Limits

__all__ = ["Checks", "Judge", "Solution"]

GRACE_S = 2.0
"""What the judge's process may live longer than the subject's, to report that the subject was too slow."""

JUDGE_MEMORY_MB = 1024
"""For pytest and the tests' own data; the judge runs no generated code."""

MAX_REPORT_FRAME = 64 << 10
MAX_REPORT_FRAMES = 200_000
"""Bounds of a report: a test source with more outcomes than that is cut off."""


@dataclass(frozen=True)
class Checks:
    """What decides about the code: given tests, given cases, or both."""

    tests: str | None = None
    cases: CaseSuite | None = None
    in_process: bool = False
    """The tests must share the process with the code: a weaker verdict."""


class Judge:
    """Judges code in a sandbox. Holds no state between judgements; several may run at once."""

    def __init__(self, sandbox: Sandbox) -> None:
        self._sandbox = sandbox

    async def check(self, solution: Solution, checks: Checks) -> Verdict:
        """The verdict of the given tests and cases.

        Raises:
            SandboxUnavailableError: the required level of isolation is not there.
        """
        await asyncio.to_thread(programs.prepare)
        level = str(self._sandbox.level)
        if (broken := syntax_verdict(solution.code, level)) is not None:
            return broken
        by_tests = await self._check_tests(solution, checks) if checks.tests is not None else None
        by_cases = await check_cases(self._sandbox, solution, checks.cases) if checks.cases is not None else None
        if by_tests is not None and by_cases is not None:
            return both(by_tests, by_cases)
        return by_tests or by_cases or _nothing_given(level)

    async def self_check(self, solution: Solution) -> Verdict:
        """The verdict of the tests that the code brings along: weak, the code under test wrote them.

        Raises:
            SandboxUnavailableError: the required level of isolation is not there.
        """
        await asyncio.to_thread(programs.prepare)
        if (broken := syntax_verdict(solution.code, str(self._sandbox.level))) is not None:
            return broken
        return await self._together(solution, None, Strength.SELF_CHECKED)

    async def _check_tests(self, solution: Solution, checks: Checks) -> Verdict:
        assert checks.tests is not None
        if checks.in_process:
            return await self._together(solution, checks.tests, Strength.IN_PROCESS)
        return await self._apart(solution, checks.tests)

    async def _apart(self, solution: Solution, tests: str) -> Verdict:
        """Tests in the judge's process, code in the subject's, two pipes between them."""
        limits = self._sandbox.limits
        nonce = secrets.token_hex(16)
        with Pipe() as requests, Pipe() as answers, Pipe() as report:
            subject = programs.subject(solution, (requests.read_fd, answers.write_fd), limits)
            channel = (answers.read_fd, requests.write_fd)
            judge = programs.judge(tests, solution, channel, (report.write_fd, nonce), _judge_limits(limits))
            async with self._sandbox.start(subject) as code, self._sandbox.start(judge) as reporter:
                async with asyncio.TaskGroup() as group:
                    group.create_task(close_after(code, answers), name="subject's end")
                    tally = await _follow(reporter, report, nonce)
                    code.kill()
                runs = Runs(await reporter.wait(), await code.wait())
        return conclude(tally, runs, Strength.VERIFIED)

    async def _together(self, solution: Solution, tests: str | None, strength: Strength) -> Verdict:
        nonce = secrets.token_hex(16)
        with Pipe() as report:
            program = programs.together(solution, tests, (report.write_fd, nonce), self._sandbox.limits)
            async with self._sandbox.start(program) as running:
                tally = await _follow(running, report, nonce)
                runs = Runs(await running.wait())
        return conclude(tally, runs, strength)


async def _follow(reporter: Running, report: Pipe, nonce: str) -> Tally:
    """Read the report until its process has ended."""
    tally = Tally(nonce)
    reader = await FrameReader.open(report.read_fd, MAX_REPORT_FRAME)
    try:
        async with asyncio.TaskGroup() as group:
            group.create_task(close_after(reporter, report), name="reporter's end")
            await _read_report(reader, tally)
            if tally.garbage:
                reporter.kill()
    finally:
        reader.close()
    return tally


async def _read_report(reader: FrameReader, tally: Tally) -> None:
    for _ in range(MAX_REPORT_FRAMES):
        try:
            frame = await reader.read()
        except wire.WireError as error:
            tally.garbage = f"the report cannot be read: {error}"
            return
        if frame is None:
            return
        tally.take(frame)
        if tally.garbage:
            return
    tally.garbage = "the report is longer than allowed"


def _judge_limits(limits: Limits) -> Limits:
    return dataclasses.replace(
        limits, timeout_s=limits.timeout_s + GRACE_S, memory_mb=max(limits.memory_mb, JUDGE_MEMORY_MB)
    )


def _nothing_given(level: str) -> Verdict:
    return Verdict(False, Strength.NONE, error="no tests and no cases were given", sandbox_level=level)
