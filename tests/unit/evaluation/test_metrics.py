"""A80: pass@k and the intervals that every reported rate carries."""

from __future__ import annotations

import itertools

import pytest

from engine.evaluation.metrics import pass_at_k, wilson


def test_a80_known_values() -> None:
    assert pass_at_k(10, 5, 3) == pytest.approx(11 / 12)
    assert pass_at_k(100, 85, 1) == pytest.approx(0.85)
    assert pass_at_k(4, 4, 2) == 1.0
    assert pass_at_k(5, 3, 3) == 1.0


def test_a80_equals_counting_every_subset() -> None:
    for samples, correct, k in itertools.product(range(1, 7), range(7), range(1, 7)):
        if correct > samples or k > samples:
            continue
        subsets = list(itertools.combinations([i < correct for i in range(samples)], k))
        assert pass_at_k(samples, correct, k) == pytest.approx(sum(map(any, subsets)) / len(subsets))


@pytest.mark.parametrize(
    ("samples", "correct", "k"), [(0, 0, 1), (-1, 0, 1), (5, -1, 1), (5, 6, 1), (5, 2, 6), (5, 2, 0)]
)
def test_a80_invalid_input_is_refused(samples: int, correct: int, k: int) -> None:
    with pytest.raises(ValueError, match="not defined"):
        pass_at_k(samples, correct, k)


def test_wilson_matches_published_values() -> None:
    """8 of 80: centre 0.1183, half width 0.0666, worked by hand from the closed form."""
    rate = wilson(8, 80)
    assert (rate.low, rate.high) == (pytest.approx(0.0515, abs=5e-4), pytest.approx(0.1851, abs=5e-4))
    assert str(rate) == "8/80 = 10.0% [5.2%, 18.5%]"


def test_wilson_stays_inside_the_unit_interval_and_says_when_it_knows_nothing() -> None:
    assert (wilson(0, 0).low, wilson(0, 0).high) == (0.0, 1.0)
    for total in range(1, 30):
        for passed in range(total + 1):
            rate = wilson(passed, total)
            assert 0.0 <= rate.low <= rate.value <= rate.high <= 1.0


def test_wilson_refuses_what_is_no_rate() -> None:
    with pytest.raises(ValueError, match="not a rate"):
        wilson(3, 2)
