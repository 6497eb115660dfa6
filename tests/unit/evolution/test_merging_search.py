"""The search for cat-learned's scalars: finds minima within its budget and bounds, and gives the best it saw."""

from __future__ import annotations

import math

import pytest

from engine.evolution.merging.search import HIGHEST, LOWEST, minimize


class Bowl:
    """A quadratic with its lowest point at `centre`; remembers what was asked."""

    def __init__(self, *centre: float) -> None:
        self.centre = centre
        self.asked: list[tuple[float, ...]] = []

    def __call__(self, point: tuple[float, ...]) -> float:
        self.asked.append(point)
        return 1 + sum(
            (number + 1) * (x - c) ** 2 for number, (x, c) in enumerate(zip(point, self.centre, strict=True))
        )


@pytest.mark.parametrize("centre", [(0.7, 1.1), (1.0, 0.0), (0.2, 0.9, 1.3)])
def test_it_finds_the_lowest_point_in_forty_evaluations(centre: tuple[float, ...]) -> None:
    bowl = Bowl(*centre)
    found = minimize(bowl, len(centre), 40)
    assert found.evaluations == len(bowl.asked) <= 40
    assert max(abs(x - c) for x, c in zip(found.point, centre, strict=True)) < 0.12
    assert found.value == min(map(Bowl(*centre), bowl.asked))


def test_it_stays_within_its_bounds_and_goes_to_the_edge() -> None:
    bowl = Bowl(9.0, -9.0)
    found = minimize(bowl, 2, 40)
    assert all(LOWEST <= scalar <= HIGHEST for point in bowl.asked for scalar in point)
    assert found.point == pytest.approx((HIGHEST, LOWEST), abs=0.05)


def test_it_begins_with_every_adapter_as_it_is_and_never_ends_worse() -> None:
    bowl = Bowl(1.0, 1.0)
    assert minimize(bowl, 2, 40).point == (1.0, 1.0)
    assert bowl.asked[0] == (1.0, 1.0)


def test_no_point_is_evaluated_twice() -> None:
    bowl = Bowl(9.0)
    minimize(bowl, 1, 40)
    assert len(set(bowl.asked)) == len(bowl.asked)


def test_values_that_are_no_numbers_lose() -> None:
    found = minimize(lambda point: math.nan if point[0] > 0.8 else Bowl(0.9)(point), 1, 20)
    assert found.point[0] <= 0.8 and math.isfinite(found.value)


def test_a_budget_below_a_simplex_is_refused() -> None:
    with pytest.raises(ValueError, match="too few"):
        minimize(Bowl(1.0), 5, 6)
