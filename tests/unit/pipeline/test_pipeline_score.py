"""A10 and section 2: scores and stopping rules, at their limits."""

from __future__ import annotations

import pytest

from engine.evaluation.verdict import Strength, Verdict
from engine.pipeline.score import (
    decompose_is_enough,
    decompose_score,
    integrate_score,
    plan_is_enough,
    plan_score,
    subtask_fitness,
    unique_names,
)


def names(count: int) -> list[str]:
    return [f"part-{number}" for number in range(count)]


def verdict(ran: int = 0, failed: int = 0, exit_code: int = 1, **more: object) -> Verdict:
    passed = ran > 0 and failed == 0
    return Verdict(passed, Strength.VERIFIED, ran=ran, failed=failed, exit_code=exit_code, **more)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("listed", "score"),
    [
        (names(1), 0.3),
        (names(2), 2 / 3),
        (names(3), 1.0),
        (names(8), 1.0),
        (names(9), 0.2),
        ([], 0.3),
        (names(2) * 2, 2 / 3),  # exactly twice as many lines as names: no penalty
        ([*names(2) * 2, "part-0"], 2 / 3 * 0.3),  # one more: penalty
        (["A", "a", "B"], 2 / 3),
    ],
)
def test_a10_decompose_score(listed: list[str], score: float) -> None:
    assert decompose_score(listed) == pytest.approx(score)


def test_a10_fallback_and_single_part_with_passing_tests() -> None:
    assert decompose_score(["implementation"], fallback=True) == 0.05
    assert decompose_score(["all"], tests_passed=True) == 0.5


@pytest.mark.parametrize(
    ("score", "count", "enough"), [(0.6, 2, True), (0.5999, 2, False), (1.0, 1, False), (0.6, 3, True)]
)
def test_a10_decompose_stops_at_score_06_with_two_names(score: float, count: int, enough: bool) -> None:
    assert decompose_is_enough(score, names(count)) is enough


def test_unique_names_keep_the_first_spelling_and_the_order() -> None:
    assert unique_names(["B", "a", "b", "A"]) == ["B", "a"]


def test_plans_count_when_longer_than_50_characters() -> None:
    assert not plan_is_enough("x" * 50)
    assert plan_is_enough("x" * 51)
    assert not plan_is_enough("x" * 50 + "   ")
    assert plan_score(["x" * 51, "x" * 50]) == 0.5
    assert plan_score([]) == 0.0


@pytest.mark.parametrize(
    ("ran", "failed", "fitness"), [(3, 0, 1.0), (4, 2, 0.4), (10, 9, 0.1), (8, 7, 0.1), (4, 4, 0.1), (0, 0, 0.1)]
)
def test_subtask_fitness(ran: int, failed: int, fitness: float) -> None:
    assert subtask_fitness(verdict(ran, failed)) == pytest.approx(fitness)


def test_integrate_score() -> None:
    assert integrate_score(verdict(4, 1)) == 0.75
    assert integrate_score(verdict(4, 0, exit_code=0)) == 1.0
    assert integrate_score(verdict(0, exit_code=0)) == 0.1
    # The judge gives a failure a non-zero exit code even where the program itself ended well.
    assert integrate_score(verdict(0, exit_code=1, error="no test ran (2 skipped)")) == 0.1
    assert integrate_score(verdict(0, exit_code=1)) == 0.0
    assert integrate_score(verdict(0, exit_code=0, timed_out=True)) == 0.0
