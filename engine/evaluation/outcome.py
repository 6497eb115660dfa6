"""From what the judge process reported to a verdict. Pure: frames in, verdict out."""

from __future__ import annotations

import ast
from dataclasses import dataclass, field
from typing import Any

from engine.evaluation.verdict import Strength, TestFailure, Verdict
from engine.sandbox.types import SandboxResult

MAX_FAILURES = 20
"""Failures told in full; the count is complete."""


@dataclass
class Tally:
    """Outcomes of one run of tests, as they come in."""

    nonce: str
    ran: int = 0
    failed: int = 0
    skipped: int = 0
    expected_failures: int = 0
    failures: list[TestFailure] = field(default_factory=list[TestFailure])
    current: str = ""
    """The test that began last and has not ended."""
    ready: bool = False
    ended: bool = False
    dead: str = ""
    stopped: str = ""
    garbage: str = ""

    def take(self, frame: dict[str, Any]) -> None:
        """Take in one frame; one without the nonce spoils the report."""
        if frame.get("n") != self.nonce or self.ended:
            self.garbage = "the report has a frame that is not the judge's"
            return
        match frame.get("kind"):
            case "ready":
                self.ready = True
            case "start":
                self.current = str(frame.get("name", ""))
            case "test":
                self._test(frame)
            case "stopped":
                self.stopped = str(frame.get("reason", ""))
                if "error" in frame:
                    self.add(_failure("import", frame))
            case "end":
                self.ended = True
                self.dead = str(frame.get("dead", ""))
            case _:
                self.garbage = "the report has a frame of no known kind"

    def _test(self, frame: dict[str, Any]) -> None:
        self.current = ""
        count = int(frame.get("count", 1))
        match frame.get("outcome"):
            case "passed":
                self.ran += count
            case "failed":
                self.ran += 1
                self.failed += 1
                if "error" in frame:
                    self.add(_failure(str(frame.get("name", "")), frame))
            case "expected-failure":
                self.expected_failures += 1
                self.skipped += 1
            case _:
                self.skipped += count

    def fail(self, failure: TestFailure) -> None:
        """Count a failure that the report itself does not tell."""
        self.ran += 1
        self.failed += 1
        self.add(failure)

    def add(self, failure: TestFailure) -> None:
        """Keep a failure, while there is room."""
        if len(self.failures) < MAX_FAILURES:
            self.failures.append(failure)


def _failure(name: str, frame: dict[str, Any]) -> TestFailure:
    line = frame.get("line")
    return TestFailure(
        name=name,
        kind=str(frame.get("error", "")),
        message=str(frame.get("message", "")),
        expected=_optional(frame.get("expected")),
        got=_optional(frame.get("got")),
        line=line if type(line) is int else None,
        source_line=str(frame.get("source", "")),
    )


def _optional(value: Any) -> str | None:
    return None if value is None else str(value)


@dataclass(frozen=True)
class Runs:
    """What the sandbox says of the processes of a judgement."""

    reporter: SandboxResult
    """The process that reported."""
    subject: SandboxResult | None = None
    """The process of the generated code, where it has one of its own."""

    @property
    def code(self) -> SandboxResult:
        """The run in which the generated code was."""
        return self.subject or self.reporter

    @property
    def timed_out(self) -> bool:
        """A deadline ended one of them."""
        return self.reporter.timed_out or (self.subject is not None and self.subject.timed_out)


def conclude(tally: Tally, runs: Runs, strength: Strength) -> Verdict:
    """The verdict on a finished run."""
    infrastructure = _infrastructure(tally, runs)
    error = infrastructure or tally.stopped or tally.garbage
    if not error and not tally.ended:
        _unfinished(tally, runs)
    elif tally.dead and not tally.failed:
        tally.fail(TestFailure("subject", "crash", tally.dead))
    if not error and tally.ran == 0 and not runs.timed_out:
        error = "no test ran" + (f" ({tally.skipped} skipped)" if tally.skipped else "")
    clean = tally.ended and not error and not tally.dead and not runs.timed_out
    passed = clean and tally.ran > 0 and tally.failed == 0
    return _verdict(tally, runs, strength, passed, error, bool(infrastructure))


def _verdict(tally: Tally, runs: Runs, strength: Strength, passed: bool, error: str, infrastructure: bool) -> Verdict:
    code = runs.code
    stopped = code.killed == "stopped"
    notes = (f"{tally.expected_failures} expected failure(s)",) if tally.expected_failures else ()
    return Verdict(
        passed=passed,
        strength=strength if tally.ran else Strength.NONE,
        ran=tally.ran,
        failed=tally.failed,
        skipped=tally.skipped,
        failures=tuple(tally.failures),
        error=" ".join(error.split())[:1000],
        infrastructure=infrastructure,
        timed_out=runs.timed_out,
        truncated=code.truncated,
        stdout=code.stdout,
        stderr=code.stderr,
        exit_code=0 if passed else 1 if stopped or code.exit_code == 0 else code.exit_code,
        duration_s=max(runs.reporter.duration_s, code.duration_s),
        sandbox_level=str(runs.reporter.level),
        notes=notes,
    )


def _infrastructure(tally: Tally, runs: Runs) -> str:
    """Why the judge itself failed, or empty. Nothing that generated code does may look like it."""
    if not tally.ready:
        return f"the judge did not start: {runs.reporter.stderr[-300:]}"
    if runs.subject is not None and not tally.ended and not runs.timed_out:
        return f"the judge's process ended early (exit {runs.reporter.exit_code}): {runs.reporter.stderr[-300:]}"
    return ""


def _unfinished(tally: Tally, runs: Runs) -> None:
    """The run ended before the report did: name the test that it ended in."""
    name = tally.current or "module"
    if runs.timed_out:
        tally.fail(TestFailure(name, "timeout", "still running at the deadline"))
    else:
        code = runs.code
        tally.fail(TestFailure(name, "crash", f"the process ended (exit {code.exit_code}) before the tests did"))


def syntax_verdict(code: str, level: str) -> Verdict | None:
    """The verdict on code that does not parse; None when it does."""
    try:
        ast.parse(code)
    except SyntaxError as error:
        failure = TestFailure(
            "syntax", "SyntaxError", error.msg or "", line=error.lineno, source_line=(error.text or "").strip()[:200]
        )
        text = f"SyntaxError: {error.msg} (line {error.lineno})"
    except (ValueError, RecursionError, MemoryError) as error:  # NUL bytes, nesting that no parser takes
        failure = TestFailure("syntax", "SyntaxError", str(error))
        text = f"SyntaxError: {error}"
    else:
        return None
    return Verdict(False, Strength.NONE, failures=(failure,), error=text, exit_code=1, sandbox_level=level)


def both(tests: Verdict, cases: Verdict) -> Verdict:
    """The verdict where tests and cases are given: both must pass, counts add up."""
    passed = tests.passed and cases.passed
    weaker = min(tests.strength, cases.strength, key=_RANK.index)
    return Verdict(
        passed=passed,
        strength=weaker,
        ran=tests.ran + cases.ran,
        failed=tests.failed + cases.failed,
        skipped=tests.skipped + cases.skipped,
        failures=(*tests.failures, *cases.failures)[:MAX_FAILURES],
        error=tests.error or cases.error,
        infrastructure=tests.infrastructure or cases.infrastructure,
        timed_out=tests.timed_out or cases.timed_out,
        truncated=tests.truncated or cases.truncated,
        stdout=tests.stdout + cases.stdout,
        stderr=tests.stderr + cases.stderr,
        exit_code=tests.exit_code or cases.exit_code,
        duration_s=tests.duration_s + cases.duration_s,
        sandbox_level=tests.sandbox_level,
        notes=(*tests.notes, *cases.notes),
    )


_RANK = (Strength.NONE, Strength.SELF_CHECKED, Strength.IN_PROCESS, Strength.VERIFIED)
