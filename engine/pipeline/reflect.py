"""Turns a verdict into a short diagnosis for the next attempt: no model call where the failure says it all.

A failure says it all when it names what was expected and what came, or the exception with the line it came from, or why
nothing could be judged. A model is asked only for the rest: a bare `assert` on a name, an opaque crash.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from engine.evaluation.verdict import TestFailure, Verdict
from engine.pipeline.score import ran_without_tests

MAX_FAILING_NAMES = 5
MAX_DIAGNOSIS_CHARS = 300
"""The diagnosis' budget in the prompts."""
MAX_VALUE_CHARS = 80
"""Of one expected or received value: what is longer does not help a small model."""
FIRST_SENTENCE_CHARS = 150
MIN_SENTENCE_CHARS = 5

_ERROR_LINE = re.compile(r"(?:error|exception|assert)", re.IGNORECASE)


@dataclass(frozen=True)
class Reflection:
    """What the next attempt is told about the last one."""

    diagnosis: str
    """Which test, expected, got, the line at fault; empty when the tests passed."""
    error: str
    """The last line that names an error, exception or assertion."""
    failed_tests: str
    """The first five failing tests joined by "; "."""
    complete: bool
    """The failure says it all; otherwise ask the model once."""


def reflect(verdict: Verdict, code: str) -> Reflection:
    """The diagnosis of `verdict` over `code`. Pure."""
    if verdict.passed:
        return Reflection("", "", "", complete=True)
    error = last_error_line(verdict)
    if not code.strip():
        return Reflection("The answer had no code. Write the code in one python block.", error, "", complete=True)
    if not verdict.failures:
        diagnosis, complete = _without_failures(verdict, error)
        return Reflection(diagnosis[:MAX_DIAGNOSIS_CHARS], error, "", complete)
    first = verdict.failures[0]
    diagnosis = f"{_status(verdict)} {describe(first)}"
    return Reflection(diagnosis[:MAX_DIAGNOSIS_CHARS].strip(), error, failing_names(verdict), says_it_all(first))


def describe(failure: TestFailure) -> str:
    """One failing test in one or two lines: name, expected and got, or exception, and the line at fault."""
    parts = [f"{failure.name}:"]
    if failure.expected is not None:
        got = "nothing" if failure.got is None else _short(failure.got)
        parts.append(f"expected {_short(failure.expected)}, got {got}.")
    elif failure.kind == "timeout":
        parts.append("the code did not finish in time; look for an endless loop.")
    else:
        parts.append(f"{failure.kind}: {_short(failure.message)}." if failure.message else f"{failure.kind}.")
    if failure.line is not None:
        source = f": {failure.source_line.strip()}" if failure.source_line.strip() else ""
        parts.append(f"Line {failure.line}{source}")
    return " ".join(parts)


def says_it_all(failure: TestFailure) -> bool:
    """Whether the failure names its cause, so that no model needs to be asked."""
    if failure.expected is not None or failure.kind == "timeout":
        return True
    is_bare_assertion = failure.kind == "AssertionError" and not failure.message
    return not is_bare_assertion and bool(failure.message or failure.line is not None)


def last_error_line(verdict: Verdict) -> str:
    """The last line that names an error, exception or assertion: of the verdict, else of stderr, else of stdout."""
    if verdict.error:
        return verdict.error.strip().splitlines()[-1].strip()
    for text in (verdict.stderr, verdict.stdout):
        named = [line.strip() for line in text.splitlines() if _ERROR_LINE.search(line)]
        if named:
            return named[-1]
    if verdict.failures:
        first = verdict.failures[0]
        return f"{first.kind}: {first.message}" if first.message else describe(first)
    return ""


def failing_names(verdict: Verdict) -> str:
    """The first five failing tests joined by "; "."""
    return "; ".join(failure.name for failure in verdict.failures[:MAX_FAILING_NAMES])


def guidance(verdict: Verdict) -> str:
    """What to do where there is no diagnosis."""
    if ran_without_tests(verdict):
        return "No test ran. Add tests and end with a test main."
    if verdict.ran == 0:
        return "The code failed to execute. Fix the error first."
    if verdict.passed_count == 0:
        return "No test passes. Fix the basic structure."
    return f"{verdict.failed} of {verdict.ran} tests fail. Fix what they name."


def short_diagnosis(answer: str, error: str) -> str:
    """A model's diagnosis cut to its first sentence, at most 150 characters; the error line if that says nothing."""
    text = " ".join(answer.split())
    match = re.match(r"(.+?[.!?])(?:\s|$)", text)
    sentence = (match[1] if match else text)[:FIRST_SENTENCE_CHARS].strip()
    return error if len(sentence) < MIN_SENTENCE_CHARS else sentence


def _without_failures(verdict: Verdict, error: str) -> tuple[str, bool]:
    if verdict.timed_out:
        return "The code did not finish in time. Look for an endless loop or a wait for input.", True
    if ran_without_tests(verdict):
        return guidance(verdict), True
    if verdict.error:
        return verdict.error.strip(), True
    return (f"{guidance(verdict)} {error}".strip(), bool(error))


def _status(verdict: Verdict) -> str:
    return f"{verdict.passed_count} of {verdict.ran} tests pass." if verdict.ran else ""


def _short(text: str) -> str:
    flat = " ".join(text.split())
    return flat if len(flat) <= MAX_VALUE_CHARS else flat[: MAX_VALUE_CHARS - 3] + "..."
