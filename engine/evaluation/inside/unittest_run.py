"""Runs TestCase classes with unittest and reports from its result object, never from its text."""

from __future__ import annotations

import unittest
from typing import Any

from .report import Report

_Error = tuple[type[BaseException], BaseException, Any] | tuple[None, None, None]


class _Result(unittest.TestResult):
    """Hands every outcome to the report. A test with subtests counts as its subtests."""

    def __init__(self, report: Report) -> None:
        super().__init__()
        self._report = report
        self._subtests = 0

    def startTest(self, test: unittest.TestCase) -> None:
        super().startTest(test)
        self._subtests = 0
        self._report.start(_name(test))

    def addSuccess(self, test: unittest.TestCase) -> None:
        if not self._subtests:
            self._report.outcome(_name(test), "passed")

    def addFailure(self, test: unittest.TestCase, err: _Error) -> None:
        self._fail(_name(test), err)

    def addError(self, test: unittest.TestCase, err: _Error) -> None:
        self._fail(_name(test), err)

    def addSubTest(self, test: unittest.TestCase, subtest: Any, err: _Error | None) -> None:
        self._subtests += 1
        name = f"{_name(test)} {subtest._subDescription()}"
        if err is None:
            self._report.outcome(name, "passed")
        else:
            self._fail(name, err)

    def addSkip(self, test: unittest.TestCase, reason: str) -> None:
        self._report.outcome(_name(test), "skipped")

    def addExpectedFailure(self, test: unittest.TestCase, err: _Error) -> None:
        self._report.outcome(_name(test), "expected-failure")

    def addUnexpectedSuccess(self, test: unittest.TestCase) -> None:
        self._report.failed(_name(test), AssertionError("passed although it is marked as an expected failure"))

    def _fail(self, name: str, err: _Error) -> None:
        self._report.failed(name, err[1] if err[1] is not None else AssertionError("failed"))


def _name(test: Any) -> str:
    method = getattr(test, "_testMethodName", None)
    return f"{type(test).__name__}.{method}" if method else str(test)


def require_genuine_sets() -> None:
    """`assertSetEqual` takes any object with a `difference`: one of the solution's is handed the expected set there,
    and asked whether something is missing. Only in the judge's process; `assertEqual` never was that trusting."""
    genuine = unittest.TestCase.assertSetEqual

    def strict(self: unittest.TestCase, set1: Any, set2: Any, msg: Any = None) -> None:
        for one in (set1, set2):
            self.assertIsInstance(one, (set, frozenset), msg)
        genuine(self, set1, set2, msg)

    setattr(unittest.TestCase, "assertSetEqual", strict)  # noqa: B010


def is_case(value: Any) -> bool:
    """Is it a genuine TestCase class?"""
    return isinstance(value, type) and issubclass(value, unittest.TestCase)


def run_cases(classes: list[type[unittest.TestCase]], report: Report) -> None:
    """Run the classes, in the order in which the source defines them."""
    loader = unittest.TestLoader()
    suite = unittest.TestSuite(loader.loadTestsFromTestCase(kind) for kind in classes)
    result = _Result(report)
    result.buffer = False
    suite.run(result)
