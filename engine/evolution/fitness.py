"""Fitness of an adapter in its population: how often it passes, and how unlike the others it is. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

PASS_WEIGHT = 0.7
"""The rest is diversity: enough that a second adapter of equal skill and other make is kept for merging."""


@dataclass(frozen=True, slots=True)
class Fitness:
    """`score` in [0, 1] and what it is made of."""

    score: float
    pass_rate: float
    diversity: float


def fitness(pass_rate: float, cosines: Iterable[float], pass_weight: float = PASS_WEIGHT) -> Fitness:
    """`pass_weight` times the pass rate plus the rest times the diversity.

    Args:
        pass_rate: measured on held-out tests, in [0, 1].
        cosines: of its delta to each other adapter of its population, in [-1, 1]. Without any it is alone, and as
            unlike the others as can be.
        pass_weight: in [0, 1].

    Raises:
        ValueError: a number outside its range, or not a number.
    """
    for name, value in (("pass rate", pass_rate), ("pass weight", pass_weight)):
        if not 0 <= value <= 1:
            raise ValueError(f"{name} is {value}: it must be between 0 and 1")
    diversity = _diversity(cosines)
    return Fitness(pass_weight * pass_rate + (1 - pass_weight) * diversity, pass_rate, diversity)


def _diversity(cosines: Iterable[float]) -> float:
    """1 minus the highest cosine, in [0, 1]: opposite directions are not more diverse than unrelated ones."""
    known = list(cosines)
    if any(not math.isfinite(cosine) or abs(cosine) > 1 + 1e-6 for cosine in known):
        raise ValueError(f"a cosine is not in [-1, 1]: {known}")
    return min(1.0, max(0.0, 1 - max(known, default=0.0)))
