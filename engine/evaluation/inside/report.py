"""What the process that runs tests tells the engine: JSON frames on its own channel, each with the nonce.

start NAME ──► test (outcome of NAME) ──► ... ──► end       (no `end`: the process did not live to say it)
"""

from __future__ import annotations

import ast
import traceback
import unittest.case
from typing import Any

from . import asserts, wire
from .link import SolutionExited, SubjectDied

MAX_MESSAGE = 600
"""Characters of a failure's message."""

MAX_FAILURES = 20
"""Failures that are told in full; more are only counted."""


class Report:
    """Counts outcomes and sends them as they happen."""

    def __init__(self, fd: int, nonce: str, solution_path: str = "") -> None:
        self._fd = fd
        self._nonce = nonce
        self._solution_path = solution_path
        self._told = 0
        self.calls: dict[int, list[ast.Call]] = {}
        """Calls of assertion methods in the test source, by line: they tell the expected side."""

    def note_ready(self) -> None:
        """The process stands, and no generated code has run yet."""
        self._send({"kind": "ready"})

    def start(self, name: str) -> None:
        """A test begins."""
        self._send({"kind": "start", "name": name[:200]})

    def outcome(self, name: str, outcome: str, count: int = 1, **details: Any) -> None:
        """A test ended: `passed`, `failed`, `skipped` or `expected-failure`."""
        self._send({"kind": "test", "name": name[:200], "outcome": outcome, "count": count, **details})

    def failed(self, name: str, error: BaseException) -> None:
        """A test failed with that exception."""
        self._told += 1
        details = self._describe(error) if self._told <= MAX_FAILURES else {}
        self.outcome(name, "failed", **details)

    def note(self, text: str) -> None:
        """Something worth a line in the verdict."""
        self._send({"kind": "note", "text": text[:MAX_MESSAGE]})

    def stopped(self, reason: str, error: BaseException | None = None) -> None:
        """Nothing could be judged, for that reason."""
        self._send({"kind": "stopped", "reason": reason[:MAX_MESSAGE], **(self._describe(error) if error else {})})

    def end(self, dead: str = "") -> None:
        """All has been run; `dead` says why the subject is lost, if it is."""
        self._send({"kind": "end", "dead": dead})

    def _send(self, message: dict[str, Any]) -> None:
        wire.send(self._fd, {"n": self._nonce, **message})

    # --- failures

    def _describe(self, error: BaseException) -> dict[str, Any]:
        line, source = self._place(error)
        expected, got = self._sides(error)
        return {
            "error": _kind(error),
            "message": _message(error),
            "expected": expected,
            "got": got,
            "line": line,
            "source": source,
        }

    def _place(self, error: BaseException) -> tuple[int | None, str]:
        """The line of the solution at fault, if the exception or one it came from passed through it."""
        seen: BaseException | None = error
        for _ in range(4):
            if seen is None:
                break
            if (place := seen.__dict__.get("_rune_place")) is not None and place[0] is not None:
                return place
            frames = [f for f in traceback.extract_tb(seen.__traceback__) if f.filename == self._solution_path]
            if frames and not isinstance(error, asserts.CheckFailed):
                return frames[-1].lineno, (frames[-1].line or "")[:200]
            seen = seen.__cause__ or seen.__context__
        return None, ""

    def _sides(self, error: BaseException) -> tuple[str | None, str | None]:
        """Expected and got of a failed equality."""
        if isinstance(error, asserts.CheckFailed):
            return error.expected, error.got
        if not isinstance(error, AssertionError):
            return None, None
        line = 0
        for frame, number in traceback.walk_tb(error.__traceback__):
            if frame.f_code.co_filename == unittest.case.__file__:
                values = frame.f_locals
                if frame.f_code.co_name in _EQUALITY and "first" in values and "second" in values:
                    first, second = asserts.short(values["first"]), asserts.short(values["second"])
                    return (first, second) if self._expected_first(line) else (second, first)
            else:
                line = number
        return None, None

    def _expected_first(self, line: int) -> bool:
        return any(
            asserts.is_literal(call.args[0]) and not asserts.is_literal(call.args[1])
            for call in self.calls.get(line, ())
        )


_EQUALITY = ("assertEqual", "_baseAssertEqual", "assertAlmostEqual", "assertIs")


def index_calls(tree: ast.Module) -> dict[int, list[ast.Call]]:
    """Calls of `assert...` methods with two arguments, by each line they span."""
    found: dict[int, list[ast.Call]] = {}
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call) or len(node.args) < 2:
            continue
        if isinstance(node.func, ast.Attribute) and node.func.attr.startswith("assert"):
            for line in range(node.lineno, (node.end_lineno or node.lineno) + 1):
                found.setdefault(line, []).append(node)
    return found


def _kind(error: BaseException) -> str:
    if isinstance(error, (SubjectDied, SolutionExited)):
        return type(error).__name__
    if isinstance(error, asserts.CheckFailed):
        return "AssertionError"
    return str(error.__dict__.get("_rune_name") or type(error).__name__)


def _message(error: BaseException) -> str:
    try:
        text = str(error)
    except Exception as failure:  # its own __str__ may fail
        text = f"<str failed: {type(failure).__name__}>"
    if isinstance(error, SolutionExited):
        name = error.__dict__.get("_rune_name") or "SystemExit"
        text = f"the solution ended the program ({name} {text}) instead of returning"
    return " ".join(text.split())[:MAX_MESSAGE]
