"""A65: numerics of TIES and DARE, by hand-made values and by properties."""

from __future__ import annotations

import random

import numpy as np
import pytest

from engine.api_evolution import MergeMethod, SignRule
from engine.evolution.merging.rules import Rule, Term, combine, drop, generator, trim

TIES = Rule(MergeMethod.TIES, 1.0)


def terms(*deltas: list[list[float]], weights: tuple[float, ...] = ()) -> list[Term]:
    shares = weights or (1.0,) * len(deltas)
    return [
        Term(np.array(delta), weight, str(number))
        for number, (delta, weight) in enumerate(zip(deltas, shares, strict=True))
    ]


def drawn(count: int, shape: tuple[int, int] = (6, 7)) -> list[Term]:
    numbers = np.random.default_rng(count)
    return [Term(numbers.standard_normal(shape), 1 / count, str(number)) for number in range(count)]


def numpy_state() -> str:
    """Of the numbers that every user of numpy shares."""
    return str(np.random.get_state(legacy=False))


@pytest.mark.parametrize(
    ("density", "expected"),
    [
        (1.0, [4, -3, 2, -1]),
        (0.5, [4, -3, 0, 0]),
        (0.74, [4, -3, 0, 0]),  # rounded down, as PEFT does
        (0.0, [4, 0, 0, 0]),  # at least one
    ],
)
def test_trim_keeps_the_largest_share(density: float, expected: list[float]) -> None:
    assert trim(np.array([4.0, -3, 2, -1]), density).tolist() == expected


def test_trim_keeps_all_that_tie_with_the_last() -> None:
    assert trim(np.array([2.0, -2, 2, 1]), 0.25).tolist() == [2, -2, 2, 0]


def test_ties_elects_by_count_not_by_magnitude() -> None:
    """A65: two small positives outvote one large negative; magnitude would have elected the negative."""
    given = terms([[1.0]], [[2.0]], [[-9.0]])
    assert combine(given, TIES).item() == 1.5
    assert combine(given, Rule(MergeMethod.TIES, 1.0, SignRule.MAGNITUDE)).item() == -9


def test_a_sign_tie_gives_the_survivors_mean() -> None:
    """A65: PEFT's `frequency` gives 0 here."""
    assert combine(terms([[1.0]], [[-4.0]]), TIES).item() == -1.5


def test_zeros_have_no_vote_and_no_share() -> None:
    assert combine(terms([[3.0]], [[0.0]], [[0.0]]), TIES).item() == 3.0
    assert combine(terms([[0.0]], [[0.0]]), TIES).item() == 0.0


def test_the_mean_is_weighted_among_those_that_agree() -> None:
    assert combine(terms([[1.0]], [[4.0]], [[-1.0]], weights=(3, 1, 2)), TIES).item() == 1.75


def test_equal_weights_of_any_size_give_the_plain_mean() -> None:
    """No extra factor: PEFT's TIES with weights of a half gives half of it."""
    one, half = (combine(terms([[1.0]], [[3.0]], weights=(w, w)), TIES).item() for w in (1.0, 0.5))
    assert one == half == 2.0


def test_a_negative_weight_turns_the_delta_round_and_a_zero_one_leaves_it_out() -> None:
    assert combine(terms([[1.0]], [[3.0]], weights=(1, -1)), TIES).item() == -1.0  # a tie: (1 - 3) / 2
    assert combine(terms([[1.0]], [[3.0]], weights=(1, 0)), TIES).item() == 1.0


@pytest.mark.parametrize("method", list(MergeMethod))
def test_one_adapter_is_itself(method: MergeMethod) -> None:
    (term,) = drawn(1)
    assert np.allclose(combine([term], Rule(method, 1.0)), term.delta)


@pytest.mark.parametrize("method", list(MergeMethod))
def test_the_order_of_adapters_does_not_matter(method: MergeMethod) -> None:
    given, rule = drawn(4), Rule(method, 0.5, seed=3)
    assert np.allclose(combine(given, rule, "m"), combine(given[::-1], rule, "m"))


def test_ties_with_full_density_and_agreeing_signs_is_the_weighted_mean() -> None:
    given = [Term(np.abs(term.delta), weight, term.key) for term, weight in zip(drawn(3), (1, 2, 5), strict=True)]
    expected = sum(term.delta * term.weight for term in given) / 8
    assert np.allclose(combine(given, TIES), expected)


def test_dare_drops_nothing_at_density_1() -> None:
    """A65: drop 0 is the mean."""
    given = drawn(3)
    mean = sum(term.delta for term in given) / 3
    assert np.allclose(combine(given, Rule(MergeMethod.DARE, 1.0)), mean)


@pytest.mark.parametrize("method", [MergeMethod.DARE, MergeMethod.DARE_TIES])
def test_dare_is_seeded_and_leaves_the_global_numbers_alone(method: MergeMethod) -> None:
    given = drawn(3)
    before = random.getstate(), numpy_state()
    asked = ((1, "m"), (1, "m"), (2, "m"), (1, "n"))
    first, again, other, elsewhere = (combine(given, Rule(method, 0.5, seed=seed), module) for seed, module in asked)
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)
    assert not np.array_equal(first, elsewhere), "each module has numbers of its own"
    assert (random.getstate(), numpy_state()) == before


def test_dare_expects_the_exact_sum() -> None:
    """Over 2000 seeds the mean is within five standard errors; without the division it is half of it."""
    given, seeds = drawn(2, (3, 4)), 2000
    exact = combine(given, Rule(MergeMethod.LINEAR))
    merged = np.stack([combine(given, Rule(MergeMethod.DARE, 0.5, seed=seed)) for seed in range(seeds)])
    error = merged.std(axis=0) / np.sqrt(seeds)
    assert (np.abs(merged.mean(axis=0) - exact) < 5 * error).all()
    assert not (np.abs(merged.mean(axis=0) / 2 - exact) < 5 * error).all(), "the test would see a missing factor"


def test_drop_keeps_what_it_should_and_divides_it() -> None:
    delta = np.ones((200, 200))
    kept = drop(delta, 0.25, generator(0, "x"))
    assert set(np.unique(kept)) == {0.0, 4.0}
    assert abs((kept > 0).mean() - 0.25) < 0.02


def test_what_is_kept_does_not_grow_with_the_number_of_adapters() -> None:
    """Thousands of adapters, made one at a time: each is gone before the next is asked for."""
    alive = 0

    class Counted(np.ndarray):
        def __del__(self) -> None:
            nonlocal alive
            alive -= 1

    def many(count: int):
        nonlocal alive
        for number in range(count):
            alive += 1
            delta = np.full((2, 2), float(number % 2)).view(Counted)
            yield Term(delta, 1.0, str(number))
            del delta
            assert alive < 10

    assert combine(many(3000), TIES).tolist() == [[1.0, 1.0], [1.0, 1.0]]


@pytest.mark.parametrize("density", [-0.1, 1.1, float("nan")])
def test_a_density_outside_0_to_1_is_refused(density: float) -> None:
    """A65."""
    for attempt in (lambda: Rule(MergeMethod.TIES, density), lambda: trim(np.ones(2), density)):
        with pytest.raises(ValueError, match="density"):
            attempt()


def test_dropping_everything_is_refused() -> None:
    """A65: drop is in [0, 1)."""
    for attempt in (lambda: Rule(MergeMethod.DARE, 0.0), lambda: drop(np.ones(2), 0.0, generator(0))):
        with pytest.raises(ValueError, match="density"):
            attempt()


@pytest.mark.parametrize("weights", [(0.0, 0.0), (float("nan"), 1.0), (float("inf"), 1.0)])
def test_weights_that_mean_nothing_are_refused(weights: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match="weight"):
        combine(terms([[1.0]], [[1.0]], weights=weights), TIES)


def test_nothing_to_merge_is_refused() -> None:
    """A65: empty input."""
    with pytest.raises(ValueError, match="nothing to merge"):
        combine(list[Term](), TIES)
