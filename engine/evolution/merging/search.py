"""Search for the scalars of `cat-learned`: few evaluations, no gradients, never outside the bounds.

Nelder and Mead's simplex, from all scalars at 1 (each adapter as it is): what made two skills is usually best left as
strong as it was, and the search only has to find who must give way. The best point that was seen is given, so the
result is never worse than the start.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from engine.evolution.merging.core_space import Matrix

LOWEST, HIGHEST = 0.0, 1.5
"""Of a scalar: an adapter may be left out, and hardly needs to be stronger than it was trained to be."""
START = 1.0
STEP = 0.5
"""From the start to the simplex's other corners."""
NARROW = 0.02
"""A simplex smaller than this finds nothing that an evaluation could tell from noise."""


@dataclass(frozen=True)
class Found:
    """The best point of a search."""

    point: tuple[float, ...]
    value: float
    evaluations: int


def minimize(objective: Callable[[tuple[float, ...]], float], count: int, budget: int) -> Found:
    """The point with the lowest value among at most `budget` that are tried.

    Args:
        objective: of `count` scalars; a value that is not finite counts as worse than any other.

    Raises:
        ValueError: the budget is not enough for a simplex.
    """
    if budget < count + 2:
        raise ValueError(f"{budget} evaluations are too few for {count} scalars")
    search = _Search(objective, budget)
    corners = np.full((count + 1, count), START)
    corners[1:] -= STEP * np.eye(count)
    values = np.array([search.value(corner) for corner in corners])
    while search.left and np.ptp(corners, axis=0).max() > NARROW:
        order = np.argsort(values, kind="stable")
        corners, values = corners[order], values[order]
        corners, values = _step(search, corners, values)
    return search.best()


class _Search:
    """Counts evaluations, and remembers the best."""

    def __init__(self, objective: Callable[[tuple[float, ...]], float], budget: int) -> None:
        self._objective = objective
        self._budget = budget
        self._tried: dict[tuple[float, ...], float] = {}
        self._evaluations = 0

    @property
    def left(self) -> bool:
        """Whether it may evaluate once more."""
        return self._evaluations < self._budget

    def value(self, point: Matrix) -> float:
        """Of the point, held within the bounds. Beyond the budget nothing is evaluated: as bad as can be."""
        key = tuple(float(scalar) for scalar in np.clip(point, LOWEST, HIGHEST))
        if key not in self._tried:
            if not self.left:
                return np.inf
            self._evaluations += 1
            value = self._objective(key)
            self._tried[key] = value if np.isfinite(value) else np.inf
        return self._tried[key]

    def best(self) -> Found:
        """The lowest that was seen; of equal ones, the first."""
        point = min(self._tried, key=lambda key: self._tried[key])
        return Found(point, self._tried[point], self._evaluations)


def _step(search: _Search, corners: Matrix, values: Matrix) -> tuple[Matrix, Matrix]:
    """Move the worst corner, or draw all towards the best. Corners come sorted, the best first."""
    middle = corners[:-1].mean(axis=0)
    away = middle - corners[-1]
    reflected = _inside(middle + away)
    value = search.value(reflected)
    if value < values[0]:
        expanded = _inside(middle + 2 * away)
        further = search.value(expanded)
        return _with_last(corners, values, *((expanded, further) if further < value else (reflected, value)))
    if value < values[-2]:
        return _with_last(corners, values, reflected, value)
    contracted = _inside(middle + (0.5 if value < values[-1] else -0.5) * away)
    nearer = search.value(contracted)
    if nearer < min(value, values[-1]):
        return _with_last(corners, values, contracted, nearer)
    corners = corners[0] + 0.5 * (corners - corners[0])
    return corners, np.array([values[0], *(search.value(corner) for corner in corners[1:])])


def _inside(point: Matrix) -> Matrix:
    return np.clip(point, LOWEST, HIGHEST)


def _with_last(corners: Matrix, values: Matrix, corner: Matrix, value: float) -> tuple[Matrix, Matrix]:
    return np.concatenate([corners[:-1], corner[None]]), np.append(values[:-1], value)
