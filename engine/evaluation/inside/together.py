"""Code and tests in one process: for tests that must share it, and for tests that the model wrote itself.

A weaker verdict by nature: code that wants to forge it can reach everything here. The cheap ways are closed (nothing
is read from output or exit status, patched runners are noticed), and the outcome says what it is.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import unittest
from typing import Any

from . import packages
from .report import Report
from .runner import Runner, Source
from .subject import SOLUTION, quiet_runners

_WATCHED: tuple[str, ...] = (
    "unittest.case",
    "unittest.result",
    "unittest.suite",
    "unittest.loader",
    "builtins",
    "json",
    "pytest",
    "_pytest.raises",
    "_pytest.runner",
    "_pytest.python",
)
"""Modules whose parts decide about a test here."""


class Seal:
    """Remembers what decides about tests, and notices when the code changed it."""

    def __init__(self) -> None:
        self._before = self._state()

    def broken(self) -> list[str]:
        """Names that differ from the start."""
        now = self._state()
        return sorted(name for name, value in self._before.items() if now.get(name) is not value)

    def _state(self) -> dict[str, Any]:
        state: dict[str, Any] = {}
        for name in (*_WATCHED, *(m for m in sys.modules if m.startswith(f"{__package__}."))):
            if (module := sys.modules.get(name)) is not None:
                state |= {f"{name}.{key}": value for key, value in vars(module).items() if callable(value)}
        for kind in (unittest.TestCase, unittest.TestResult, Report, Runner):
            state |= {f"{kind.__name__}.{key}": value for key, value in vars(kind).items() if callable(value)}
        return state


def run(settings: dict[str, Any]) -> None:
    """Load, run, report."""
    root = os.getcwd()
    path = os.path.join(root, f"{SOLUTION}.py")
    report = Report(settings["report_fd"], settings["nonce"], path)
    sys.path.insert(0, root)
    sys.dont_write_bytecode = True
    if settings["pytest"]:
        importlib.import_module("pytest")  # before the code runs, so that its parts are sealed
        importlib.import_module(f"{__package__}.pytest_run")
    report.note_ready()
    seal = Seal()
    if settings["tests"] is None:
        text = settings["code"]
        Runner(Source(text, path, _nothing, None, own_asserts_only=True), report).run()
    elif _load(report):
        solution = sys.modules[SOLUTION]
        source = Source(settings["tests"], "<tests>", lambda name: getattr(solution, name), settings["entry_point"])
        Runner(source, report).run()
    if broken := seal.broken():
        report.failed("seal", AssertionError(f"the code changed what decides about tests: {', '.join(broken[:5])}"))
    report.end()


def _load(report: Report) -> bool:
    saved = unittest.main
    quiet_runners()
    try:
        importlib.import_module(SOLUTION)
    except BaseException as error:  # whatever the solution raises at import is the outcome
        report.stopped(f"the solution cannot be imported: {type(error).__name__}: {error}", error)
        return False
    finally:
        unittest.main = saved
    return True


def _nothing(name: str) -> Any:
    raise AttributeError(name)


def main() -> None:
    """Entry point: settings as JSON on standard input."""
    settings = json.loads(sys.stdin.buffer.read())
    packages.install(settings["packages"])
    run(settings)
