"""JUnit XML of a batch, for the CI systems that show it.

outcome                             test case
------------------------------      --------------------------------------------
verified, verified-in-process       passed
self-checked                        skipped: only the model's own tests passed, which proves nothing
failed                              failure
error                               error
cancelled                           skipped
"""

from __future__ import annotations

import io
from collections.abc import Iterable

from junitparser import Error, Failure, JUnitXml, Properties, Property, Skipped, TestCase, TestSuite

from engine.api_models import Outcome
from rune_tui.batch_records import TaskResult
from rune_tui.terminal_text import visible


def junit_xml(suite_name: str, results: Iterable[TaskResult]) -> str:
    """The document, with one test case a task."""
    suite = TestSuite(_xml_text(suite_name))
    for result in results:
        suite.add_testcase(_case(suite_name, result))
    document = JUnitXml("rune-tui")
    document.add_testsuite(suite)
    document.update_statistics()
    buffer = io.BytesIO()
    document.write(buffer, pretty=True)
    return buffer.getvalue().decode("utf-8")


def _case(suite_name: str, result: TaskResult) -> TestCase:
    case = TestCase(result.id, _xml_text(suite_name), result.seconds)
    reason = _xml_text(result.reason) or f"ended {result.outcome.value}"
    match result.outcome:
        case Outcome.VERIFIED | Outcome.VERIFIED_IN_PROCESS:
            pass
        case Outcome.FAILED:
            case.result = [Failure(reason, "failed")]
        case Outcome.ERROR:
            case.result = [Error(reason, "error")]
        case Outcome.SELF_CHECKED:
            case.result = [Skipped("only tests that the model wrote itself passed", "self-checked")]
        case Outcome.CANCELLED:
            case.result = [Skipped(reason, "cancelled")]
    properties = Properties()
    for name in ("outcome", "attempts", "tokens", "backend", "model", "adapter", "sandbox_level", "session"):
        value = getattr(result, name)
        properties.add_property(Property(name, _xml_text("" if value is None else str(value))))
    case.append(properties)
    return case


def _xml_text(text: str) -> str:
    """XML 1.0 has no control characters, not even escaped, nor U+FFFE and U+FFFF."""
    return visible(text).replace("\ufffe", "").replace("\uffff", "")
