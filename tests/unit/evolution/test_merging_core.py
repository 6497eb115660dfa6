"""Property tests of core space merging (learning.md 2.3) on small random adapters."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest

from engine.api_evolution import MergeMethod, MergeSpace
from engine.evolution.merging.compress import EXACT_UP_TO, compress_dense
from engine.evolution.merging.core_space import Factors, Matrix, core_space, inner
from engine.evolution.merging.module import Part, merge_module
from engine.evolution.merging.rules import Rule

OUT, IN = 24, 18
FULL = min(OUT, IN)
SUMS = [MergeMethod.LINEAR, MergeMethod.CAT]
ALL = [*SUMS, MergeMethod.TIES, MergeMethod.DARE, MergeMethod.DARE_TIES]


def adapter(seed: int, rank: int = 3, scale: float = 1.0) -> Factors:
    numbers = np.random.default_rng(seed)
    b = numbers.standard_normal((OUT, rank), dtype=np.float32) * np.float32(scale)
    return Factors(b, numbers.standard_normal((rank, IN), dtype=np.float32))


def parts(adapters: list[Factors], weights: list[float] | None = None) -> list[Part]:
    shares = weights or [1 / len(adapters)] * len(adapters)
    return [Part(f"a{number}", weight, one) for number, (weight, one) in enumerate(zip(shares, adapters, strict=True))]


def merged(given: list[Part], method: MergeMethod, *, rank: int = FULL, space: MergeSpace = MergeSpace.CORE) -> Matrix:
    return merge_module(given, Rule(method, 0.5, seed=1), space, rank, "m").factors.dense()


def close(first: Matrix, second: Matrix) -> bool:
    return float(np.linalg.norm(first - second)) <= 1e-5 * max(float(np.linalg.norm(second)), 1e-30)


@pytest.mark.parametrize("ranks", [(1,), (3, 3), (1, 4, 8), (12, 12, 12)])
def test_the_core_space_is_lossless(ranks: tuple[int, ...]) -> None:
    """Also where the ranks together exceed the matrix."""
    adapters = [adapter(seed, rank) for seed, rank in enumerate(ranks)]
    space = core_space(adapters)
    for one, core in zip(adapters, space.cores, strict=True):
        assert close(space.left.expand(core) @ space.right.expand(np.eye(core.shape[1])).T, one.dense())


def test_its_bases_are_orthonormal() -> None:
    space = core_space([adapter(0), adapter(1, 5), adapter(0)])
    for basis in (space.left, space.right):
        columns = basis.expand(np.eye(basis.mix.shape[1]))
        assert np.allclose(columns.T @ columns, np.eye(columns.shape[1]), atol=1e-9)
        assert columns.shape[1] == 8, "the adapter that is there twice adds no direction"


@pytest.mark.parametrize("method", ALL)
def test_one_adapter_with_weight_1_is_itself(method: MergeMethod) -> None:
    one = adapter(0)
    rule = Rule(method, 1.0)
    assert close(merge_module(parts([one]), rule, MergeSpace.CORE, 3, "m").factors.dense(), one.dense())


@pytest.mark.parametrize("method", ALL)
def test_the_order_of_adapters_does_not_matter(method: MergeMethod) -> None:
    given = parts([adapter(0), adapter(1, 5), adapter(2, 1)], [0.2, 0.5, 0.3])
    first = merged(given, method)
    assert all(close(merged(list(order), method), first) for order in permutations(given))


@pytest.mark.parametrize("method", ALL)
def test_how_an_adapter_was_factored_does_not_matter(method: MergeMethod) -> None:
    """B G with G^-1 A is the same adapter, and so is one with a higher rank of zeros."""
    one, other = adapter(0), adapter(1)
    turn = np.random.default_rng(9).standard_normal((3, 3)).astype(np.float32) + 3 * np.eye(3, dtype=np.float32)
    again = Factors(one.b @ turn, np.linalg.inv(turn) @ one.a)
    padded = Factors(np.pad(one.b, ((0, 0), (0, 2))), np.pad(one.a, ((0, 2), (0, 0))))
    first = merged(parts([one, other]), method)
    for same in (again, padded):
        got = merged(parts([same, other]), method)
        assert np.linalg.norm(got - first) <= 1e-4 * np.linalg.norm(first)


@pytest.mark.parametrize("method", SUMS)
@pytest.mark.parametrize("weights", [[0.5, 0.5, 0.5], [1.0, -2.0, 0.25]])
def test_a_sum_is_the_dense_sum(method: MergeMethod, weights: list[float]) -> None:
    adapters = [adapter(seed, rank, scale) for seed, rank, scale in ((0, 2, 1.0), (1, 5, 0.01), (2, 3, 30.0))]
    dense = sum(weight * one.dense() for weight, one in zip(weights, adapters, strict=True))
    assert close(merged(parts(adapters, weights), method), np.asarray(dense))
    assert close(merged(parts(adapters, weights), method, space=MergeSpace.DELTA), np.asarray(dense))


def test_a_weak_adapter_is_not_lost_beside_a_strong_one() -> None:
    """Each adapter's directions count by their share of its own norm."""
    weak, strong = adapter(0, scale=1e-6), adapter(1, scale=1e3)
    space = core_space([weak, strong])
    core = space.cores[0]
    got = space.left.expand(core) @ space.right.expand(np.eye(core.shape[1])).T
    assert np.linalg.norm(got - weak.dense()) <= 1e-4 * np.linalg.norm(weak.dense())


@pytest.mark.parametrize("method", ALL)
@pytest.mark.parametrize("space", list(MergeSpace))
def test_an_adapter_of_zeros_is_neutral(method: MergeMethod, space: MergeSpace) -> None:
    """Of equal weights: it takes no share of what TIES averages, and adds nothing to a sum."""
    zero = Factors(np.zeros((OUT, 2), np.float32), np.zeros((2, IN), np.float32))
    given = parts([adapter(0), adapter(1)], [0.5, 0.5])
    assert close(merged([*given, Part("zero", 0.5, zero)], method, space=space), merged(given, method, space=space))


@pytest.mark.parametrize("method", ALL)
def test_nothing_but_zeros_gives_zeros(method: MergeMethod) -> None:
    zero = Factors(np.zeros((OUT, 2), np.float32), np.zeros((2, IN), np.float32))
    result = merge_module(parts([zero, zero]), Rule(method, 0.5), MergeSpace.CORE, 4, "m")
    assert (result.kept, result.total) == (0, 0)
    assert result.factors.b.shape == (OUT, 4)
    assert not result.factors.dense().any()


def test_ties_in_delta_space_is_ties_of_the_dense_matrices() -> None:
    """Written out with loops, as section 16 says it."""
    adapters = [adapter(seed) for seed in range(3)]
    deltas = []
    for one in adapters:
        dense = one.dense()
        kept = sorted(np.abs(dense).ravel(), reverse=True)[OUT * IN // 2 - 1]
        deltas.append(np.where(np.abs(dense) >= kept, dense, 0))
    expected = np.zeros((OUT, IN))
    for place in np.ndindex(OUT, IN):
        survivors = [delta[place] for delta in deltas if delta[place]]
        balance = sum(np.sign(value) for value in survivors)
        agreeing = [value for value in survivors if balance == 0 or np.sign(value) == balance / abs(balance)]
        expected[place] = np.mean(agreeing) if agreeing else 0
    assert close(merged(parts(adapters), MergeMethod.TIES, space=MergeSpace.DELTA), expected)


@pytest.mark.parametrize("rank", [1, 4, 9])
def test_the_rank_keeps_the_best_and_says_what_it_keeps(rank: int) -> None:
    """By Eckart and Young; the retained energy is that of the result, measured on it."""
    given = parts([adapter(0, 4), adapter(1, 5)], [1.0, 1.0])
    dense = sum(part.factors.dense() for part in given)
    u, s, vt = np.linalg.svd(np.asarray(dense), full_matrices=False)
    result = merge_module(given, Rule(MergeMethod.LINEAR), MergeSpace.CORE, rank, "m")
    assert close(result.factors.dense(), (u[:, :rank] * s[:rank]) @ vt[:rank])
    assert result.kept / result.total == pytest.approx((s[:rank] ** 2).sum() / (s**2).sum(), rel=1e-5)
    assert result.kept == pytest.approx(np.linalg.norm(result.factors.dense()) ** 2, rel=1e-5)
    assert result.factors.rank == rank


def test_a_rank_above_what_there_is_pads_with_zeros() -> None:
    one = adapter(0, 2)
    result = merge_module(parts([one]), Rule(MergeMethod.CAT), MergeSpace.CORE, 40, "m")
    assert result.factors.rank == 40
    assert close(result.factors.dense(), one.dense())


def test_large_dense_matrices_are_approximated_nearly_as_well_as_can_be() -> None:
    """Full spectrum with a slow decay, the hard case: within 1 % of the best error of that rank."""
    numbers = np.random.default_rng(0)
    size = EXACT_UP_TO + 32
    u, v = (np.linalg.qr(numbers.standard_normal((size, size)))[0] for _ in range(2))
    s = 1 / np.sqrt(np.arange(1, size + 1))
    dense = ((u * s) @ v.T).astype(np.float32)
    result = compress_dense(dense, 16, "m")
    error = np.linalg.norm(dense - result.factors.dense())
    assert error <= 1.01 * np.sqrt((s[16:] ** 2).sum())
    assert result.kept == pytest.approx(result.total - error**2, rel=1e-3)


def test_the_inner_product_is_that_of_the_dense_matrices() -> None:
    first, second = adapter(0, 2), adapter(1, 5)
    assert inner(first, second) == pytest.approx((first.dense() * second.dense()).sum(), rel=1e-4)


def test_shapes_that_differ_and_nothing_at_all_are_refused() -> None:
    other = Factors(np.zeros((5, 1), np.float32), np.zeros((1, 5), np.float32))
    with pytest.raises(ValueError, match="shapes"):
        core_space([adapter(0), other])
    with pytest.raises(ValueError, match="at least one"):
        core_space([])
