"""Reflect: a verdict becomes a short diagnosis, and it knows when the failure does not say it all."""

from __future__ import annotations

import pytest

from engine.evaluation.verdict import Strength, TestFailure, Verdict
from engine.pipeline.reflect import (
    MAX_DIAGNOSIS_CHARS,
    guidance,
    last_error_line,
    reflect,
    short_diagnosis,
)

CODE = "def add(a, b):\n    return a - b"


def failing(*failures: TestFailure, ran: int = 3, **more: object) -> Verdict:
    values: dict[str, object] = {"ran": ran, "failed": min(ran, len(failures)), "failures": failures, "exit_code": 1}
    return Verdict(False, Strength.VERIFIED, **{**values, **more})  # type: ignore[arg-type]


MISMATCH = TestFailure("test_add", "AssertionError", expected="3", got="-1", line=2, source_line="    return a - b")


def test_a_mismatch_names_test_expected_got_and_line_without_a_model() -> None:
    reflection = reflect(failing(MISMATCH), CODE)
    assert reflection.diagnosis == "2 of 3 tests pass. test_add: expected 3, got -1. Line 2: return a - b"
    assert reflection.complete
    assert reflection.failed_tests == "test_add"


@pytest.mark.parametrize(
    ("failure", "complete"),
    [
        (MISMATCH, True),
        (TestFailure("t", "ZeroDivisionError", "division by zero", line=4), True),
        (TestFailure("t", "timeout"), True),
        (TestFailure("t", "AssertionError", "3 != -1"), True),
        (TestFailure("t", "AssertionError"), False),
        (TestFailure("t", "AssertionError", line=2), False),
        (TestFailure("t", "crash"), False),
    ],
)
def test_only_what_does_not_say_it_all_asks_a_model(failure: TestFailure, complete: bool) -> None:
    assert reflect(failing(failure), CODE).complete is complete


@pytest.mark.parametrize(
    ("verdict", "text"),
    [
        (Verdict(False, Strength.NONE, error="SyntaxError: invalid syntax (line 3)", exit_code=1), "SyntaxError"),
        (Verdict(False, Strength.NONE, timed_out=True, exit_code=-9), "did not finish in time"),
        (Verdict(False, Strength.NONE, exit_code=0), "Add tests"),
        (Verdict(False, Strength.NONE, error="no test ran", exit_code=1), "Add tests"),
    ],
)
def test_what_could_not_be_judged_says_why(verdict: Verdict, text: str) -> None:
    reflection = reflect(verdict, CODE)
    assert text in reflection.diagnosis
    assert reflection.complete


def test_an_opaque_crash_asks_a_model() -> None:
    assert not reflect(Verdict(False, Strength.NONE, exit_code=-11), CODE).complete


def test_no_code_says_so_and_a_pass_says_nothing() -> None:
    assert "no code" in reflect(Verdict(False, Strength.NONE, exit_code=1), " \n").diagnosis
    assert reflect(Verdict(True, Strength.VERIFIED, ran=1), CODE).diagnosis == ""


def test_five_failing_names_and_no_more() -> None:
    failures = tuple(TestFailure(f"t{number}", "E", "m") for number in range(6))
    assert reflect(failing(*failures, ran=6), CODE).failed_tests == "t0; t1; t2; t3; t4"


def test_the_diagnosis_stays_within_its_budget() -> None:
    huge = TestFailure("t" * 500, "E", "m" * 500, expected="e" * 500, got="g" * 500)
    assert len(reflect(failing(huge), CODE).diagnosis) == MAX_DIAGNOSIS_CHARS


def test_the_last_line_that_names_an_error() -> None:
    stderr = "Traceback\nValueError: first\n  at x\nKeyError: last\ndone"
    assert last_error_line(failing(MISMATCH, stderr=stderr)) == "KeyError: last"
    assert last_error_line(failing(MISMATCH, stdout="some Exception here\n")) == "some Exception here"
    assert last_error_line(Verdict(False, Strength.NONE)) == ""


@pytest.mark.parametrize(
    ("verdict", "text"),
    [
        (Verdict(False, Strength.NONE, exit_code=0), "Add tests"),
        (Verdict(False, Strength.NONE, exit_code=1), "failed to execute"),
        (failing(MISMATCH, MISMATCH, ran=2), "basic structure"),
        (failing(MISMATCH, ran=4), "1 of 4 tests fail"),
    ],
)
def test_guidance(verdict: Verdict, text: str) -> None:
    assert text in guidance(verdict)


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("The sign is wrong. Use plus.", "The sign is wrong."),
        ("x" * 150, "x" * 150),
        ("x" * 151, "x" * 150),
        ("abcd", "KeyError"),
        ("abcde", "abcde"),
        ("", "KeyError"),
    ],
)
def test_a_models_diagnosis_is_one_sentence_of_150_characters_or_the_error_line(answer: str, expected: str) -> None:
    assert short_diagnosis(answer, "KeyError") == expected
