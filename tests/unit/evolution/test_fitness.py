"""A64: fitness is what was measured, diversity included."""

from __future__ import annotations

import math

import pytest

from engine.evolution.fitness import Fitness, fitness


def test_a64_seventy_parts_passing_and_thirty_parts_unlike_the_nearest() -> None:
    assert fitness(0.5, [0.2, 0.9, -1.0]) == Fitness(pytest.approx(0.7 * 0.5 + 0.3 * 0.1), 0.5, pytest.approx(0.1))


def test_a64_diversity_is_no_constant() -> None:
    scores = [fitness(0.5, [cosine]).score for cosine in (1.0, 0.75, 0.5, 0.25, 0.0)]
    assert scores == sorted(set(scores))


def test_diversity_stays_between_0_and_1() -> None:
    assert fitness(1.0, []).diversity == 1.0
    assert fitness(1.0, [-0.9]).diversity == 1.0
    assert fitness(1.0, [1 + 1e-9]).diversity == 0.0
    assert fitness(1.0, [0.0]).score == pytest.approx(1.0)


def test_the_weight_is_a_setting() -> None:
    assert fitness(0.4, [0.9], pass_weight=1.0).score == pytest.approx(0.4)
    assert fitness(0.4, [0.9], pass_weight=0.0).score == pytest.approx(0.1)


@pytest.mark.parametrize(
    ("pass_rate", "cosines", "weight"),
    [(1.1, [], 0.7), (math.nan, [], 0.7), (0.5, [math.nan], 0.7), (0.5, [1.5], 0.7), (0.5, [], 2.0)],
)
def test_what_is_no_measurement_is_refused(pass_rate: float, cosines: list[float], weight: float) -> None:
    with pytest.raises(ValueError, match=r"is -?\d|is nan|not in"):
        fitness(pass_rate, cosines, weight)
