"""Input-output cases: compared in the engine by exact JSON type; one bad case hides no other."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest

from engine.api_models import Case, CaseSuite
from engine.evaluation.compare import Foreign, json_value, same
from engine.evaluation.inside import wire
from engine.evaluation.judge import Checks, Judge, Solution
from engine.evaluation.verdict import Strength, Verdict
from engine.sandbox.run import Sandbox


def suite(*items: tuple[Any, Any]) -> CaseSuite:
    return CaseSuite(function="f", items=tuple(Case(args=(given,), expected=wanted) for given, wanted in items))


async def check(judge: Judge, code: str, cases: CaseSuite, tests: str | None = None) -> Verdict:
    return await judge.check(Solution(code), Checks(tests=tests, cases=cases))


async def test_cases_pass(judge: Judge) -> None:
    code = "async def f(x):\n    print('noise')\n    return {'got': [x, (1, 2)]}\n"
    verdict = await check(judge, code, suite((1, {"got": [1, [1, 2]]}), (None, {"got": [None, [1, 2]]})))
    assert verdict.passed and (verdict.ran, verdict.strength) == (2, Strength.VERIFIED), verdict
    assert verdict.stdout == "noise\nnoise\n"


async def test_one_bad_case_does_not_hide_the_others(judge: Judge) -> None:
    code = """\
import os

def f(x):
    if x == 1:
        raise KeyError('one')
    if x == 2:
        os._exit(0)
    if x == 3:
        return {1, 2}
    if x == 4:
        return 'x' * (2 << 20)
    return x
"""
    items = suite((0, 0), (1, 1), (2, 2), (3, [1, 2]), (4, ""), (5, 5), (6, 7))
    verdict = await check(judge, code, items)
    assert (verdict.passed, verdict.ran, verdict.failed) == (False, 7, 5), verdict
    by_name = {failure.name: failure for failure in verdict.failures}
    raised = by_name["case 2: f(1)"]
    assert (raised.kind, raised.message, raised.line) == ("KeyError", "'one'", 5)
    assert raised.source_line == "raise KeyError('one')"
    assert by_name["case 3: f(2)"].kind == "crash"
    assert "set" in by_name["case 4: f(3)"].message
    assert by_name["case 5: f(4)"].kind == "crash"
    wrong = by_name["case 7: f(6)"]
    assert (wrong.kind, wrong.expected, wrong.got) == ("mismatch", "7", "6")


async def test_a_hanging_case_is_named_and_the_rest_runs(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sandbox, "limits", dataclasses.replace(sandbox.limits, timeout_s=5.0))
    quick = Judge(sandbox)
    code = "import time\n\ndef f(x):\n    time.sleep(60 if x == 1 else 0)\n    return x\n"
    verdict = await check(quick, code, suite((0, 0), (1, 1), (2, 2)))
    assert verdict.timed_out and (verdict.ran, verdict.failed) == (3, 1), verdict
    assert [(failure.name, failure.kind) for failure in verdict.failures] == [("case 2: f(1)", "timeout")]


async def test_a_solution_that_cannot_be_imported(judge: Judge) -> None:
    verdict = await check(judge, "x = 1\nimport nowhere\n", suite((1, 1)))
    assert (verdict.passed, verdict.ran, verdict.strength) == (False, 0, Strength.NONE)
    assert "nowhere" in verdict.error and verdict.failures[0].line == 2 and not verdict.infrastructure


async def test_tests_and_cases_must_both_pass(judge: Judge) -> None:
    code = "def f(x):\n    return x\n"
    good = await check(judge, code, suite((1, 1)), "assert f(2) == 2\n")
    assert good.passed and good.ran == 2
    bad = await check(judge, code, suite((1, 2)), "assert f(2) == 2\n")
    assert not bad.passed and (bad.ran, bad.failed) == (2, 1)


@pytest.mark.parametrize(
    ("expected", "got", "equal"),
    [
        (1, 1, True),
        (1, True, False),
        (True, 1, False),
        (1, 1.0, False),
        (1.0, 1.0, True),
        (0.3, 0.1 + 0.2, False),
        (0.0, -0.0, True),
        (math.nan, math.nan, True),
        (math.inf, math.inf, True),
        ([1, 2], (1, 2), True),
        ([1], [1, 2], False),
        ([1, [True]], [1, [1]], False),
        ({"a": [1]}, {"a": [1]}, True),
        ({"a": 1}, {"a": 1, "b": 2}, False),
        ({"1": 1}, {1: 1}, False),
        ("1", 1, False),
        (None, False, False),
        ([1, 2], {1, 2}, False),
        ("x", b"x", False),
        (10**40, 10**40, True),
    ],
)
def test_comparison_is_by_exact_json_type(expected: Any, got: Any, equal: bool) -> None:
    """Across the wire form, as a subject would send it."""
    assert same(expected, json_value(wire.encode(got))) is equal


def test_what_is_no_json_is_foreign() -> None:
    assert json_value(["h", 1, ["K", 2], "o", ""]) == Foreign("object")
    assert not same(None, Foreign("object"))


def test_a_named_tuple_is_a_tuple() -> None:
    """As `Table` sends it: its class, then its items."""
    got = json_value(["n", ["K", 1], [1, ["l", [2]]]])
    assert same([1, [2]], got) and not same([1, [3]], got)
