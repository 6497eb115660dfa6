"""How deltas become one. The rules see matrices, one after another, and do not care whether they are cores or dense.

- sum (`linear`, `cat`): the weighted sum, exact.
- DARE: each element is dropped with probability 1 - density, what stays is divided by the density (so the expectation
  is the delta itself), then the weighted sum.
- TIES: of each delta the largest share `density` of elements stays; each element's sign is elected; the result is the
  weighted mean of those that agree with it. No further factor: equal weights give the plain mean, whatever they are.
- DARE-TIES: dropped as DARE does, then elected and averaged as TIES does.

The sign is elected by the number of survivors, and where as many are for as against, all survivors are averaged.
`SignRule.MAGNITUDE` elects by their weighted sum instead, as the TIES paper and PEFT do.

Deltas are taken one at a time, and what is kept of them does not grow with their number.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from engine.api_evolution import MergeMethod, SignRule
from engine.evolution.merging.core_space import Matrix


@dataclass(frozen=True)
class Term:
    """One adapter's part in a merge."""

    delta: Matrix
    weight: float
    key: str
    """Names the adapter in the seed of its random numbers, so that the order of adapters does not matter."""


@dataclass(frozen=True)
class Rule:
    """Which rule, and with what.

    Raises:
        ValueError: the density is outside [0, 1], or 0 where elements are dropped at random: nothing could stay.
    """

    method: MergeMethod
    density: float = 1.0
    sign: SignRule = SignRule.COUNT
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.density <= 1:
            raise ValueError(f"the density is {self.density}; it is a share between 0 and 1")
        if self.density == 0 and self.method in (MergeMethod.DARE, MergeMethod.DARE_TIES):
            raise ValueError("with density 0, DARE would drop everything")


def combine(terms: Iterable[Term], rule: Rule, module: str = "") -> Matrix:
    """One matrix of several of the same shape.

    Args:
        module: names the module in the seed, so that each has random numbers of its own.

    Raises:
        ValueError: there is none, a weight is not finite, or every weight is 0.
    """
    match rule.method:
        case MergeMethod.LINEAR | MergeMethod.CAT | MergeMethod.CAT_LEARNED:
            return _sum(_valid(terms))
        case MergeMethod.DARE:
            return _sum(_dropped(_valid(terms), rule, module))
        case MergeMethod.TIES:
            return _elected_mean(_trimmed(_valid(terms), rule.density), rule.sign)
        case MergeMethod.DARE_TIES:
            return _elected_mean(_dropped(_valid(terms), rule, module), rule.sign)


def trim(delta: Matrix, density: float) -> Matrix:
    """The largest elements by magnitude, the others 0: a share `density`, at least one, and all that tie with the last.

    Raises:
        ValueError: the density is outside [0, 1].
    """
    if not 0 <= density <= 1:
        raise ValueError(f"the density is {density}; it is a share between 0 and 1")
    count = max(1, int(density * delta.size))
    if count >= delta.size:
        return delta
    magnitude = np.abs(delta)
    threshold = np.partition(magnitude, delta.size - count, axis=None)[delta.size - count]
    return np.where(magnitude >= threshold, delta, 0)


def drop(delta: Matrix, density: float, random: np.random.Generator) -> Matrix:
    """Each element kept with probability `density` and divided by it, or 0.

    Raises:
        ValueError: the density is not in (0, 1].
    """
    if not 0 < density <= 1:
        raise ValueError(f"the density is {density}; to drop at random it must be above 0 and at most 1")
    if density == 1:
        return delta
    kept = random.random(delta.shape, dtype=np.float32) < density
    return np.where(kept, delta / np.asarray(density, delta.dtype), 0)


def generator(seed: int, *names: str) -> np.random.Generator:
    """Random numbers of their own for each seed and names; the global ones are never touched."""
    text = "\0".join([str(seed), *names])
    return np.random.Generator(np.random.Philox(key=int.from_bytes(hashlib.sha256(text.encode()).digest()[:16])))


def _valid(terms: Iterable[Term]) -> Iterable[Term]:
    """Terms whose weight is not 0; of a negative weight, the delta is turned round."""
    any_weight = False
    for term in terms:
        if not np.isfinite(term.weight):
            raise ValueError(f"the weight of {term.key!r} is {term.weight}")
        if term.weight:
            any_weight = True
            yield term if term.weight > 0 else Term(-term.delta, -term.weight, term.key)
    if not any_weight:
        raise ValueError("there is nothing to merge: every weight is 0")


def _dropped(terms: Iterable[Term], rule: Rule, module: str) -> Iterable[Term]:
    for term in terms:
        random = generator(rule.seed, module, term.key)
        yield Term(drop(term.delta, rule.density, random), term.weight, term.key)


def _trimmed(terms: Iterable[Term], density: float) -> Iterable[Term]:
    for term in terms:
        yield Term(trim(term.delta, density), term.weight, term.key)


def _sum(terms: Iterable[Term]) -> Matrix:
    total: Matrix | None = None
    for term in terms:
        part = term.delta * np.asarray(term.weight, term.delta.dtype)
        total = part if total is None else np.add(total, part, out=total)
    assert total is not None, "there is at least one term"
    return total


class _Votes:
    """What election and mean need of the deltas so far; as large for a thousand as for two."""

    def __init__(self, shape: tuple[int, ...], dtype: np.dtype[np.floating]) -> None:
        self._sums = [np.zeros(shape, dtype) for _ in range(2)]  # of the positive and of the negative elements
        self._weights = [np.zeros(shape, dtype) for _ in range(2)]
        self._balance = np.zeros(shape, np.int32)

    def add(self, term: Term) -> None:
        """Count one delta's elements; zeros did not survive and have no vote."""
        for side, chosen in enumerate((term.delta > 0, term.delta < 0)):
            weight = np.asarray(term.weight, term.delta.dtype)
            np.add(self._sums[side], term.delta * weight, out=self._sums[side], where=chosen)
            np.add(self._weights[side], weight, out=self._weights[side], where=chosen)
        np.add(self._balance, np.sign(term.delta).astype(np.int8), out=self._balance)

    def mean(self, rule: SignRule) -> Matrix:
        """The weighted mean of those that agree with the elected sign; of all survivors where none is elected."""
        elected = self._balance if rule is SignRule.COUNT else self._sums[0] + self._sums[1]
        total, weight = np.zeros_like(self._sums[0]), np.zeros_like(self._sums[0])
        for side, takes_part in enumerate((elected >= 0, elected <= 0)):
            np.add(total, self._sums[side], out=total, where=takes_part)
            np.add(weight, self._weights[side], out=weight, where=takes_part)
        return np.divide(total, weight, out=np.zeros_like(total), where=weight > 0)


def _elected_mean(terms: Iterable[Term], sign: SignRule) -> Matrix:
    votes: _Votes | None = None
    for term in terms:
        votes = votes or _Votes(term.delta.shape, term.delta.dtype)
        votes.add(term)
    assert votes is not None, "there is at least one term"
    return votes.mean(sign)
