"""From a merged delta to factors of a chosen rank: the best approximation there is, and what it leaves out."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from engine.evolution.merging.core_space import CoreSpace, Factors, Matrix
from engine.evolution.merging.rules import generator

EXACT_UP_TO = 768
"""Smaller side of a dense matrix whose whole SVD takes under a second; larger ones are approximated."""
OVERSAMPLE = 16
"""Directions beyond the rank that the approximation looks at."""
POWER_STEPS = 4
"""Each multiplies the lead of the strong directions over the weak; four leave errors below 1 % of what is left out,
also where the singular values hardly fall."""


@dataclass(frozen=True)
class Compressed:
    """A delta of low rank."""

    factors: Factors
    """float32; the singular values are shared equally between b and a, so that neither is large."""
    kept: float
    """Its squared norm."""
    total: float
    """Squared norm of what was compressed."""


def compress_core(merged: Matrix, space: CoreSpace, rank: int) -> Compressed:
    """Keep the strongest `rank` directions of a merged core; where it has fewer, the rest of the factors is 0."""
    u, s, vt = np.linalg.svd(merged, full_matrices=False)
    return _compressed(
        space.left.expand(u[:, :rank]), s[:rank], space.right.expand(vt[:rank].T).T, rank, _energy(merged)
    )


def compress_dense(merged: Matrix, rank: int, module: str = "") -> Compressed:
    """The same of a dense delta: exactly where it is small, else by subspace iteration from random directions.

    Args:
        module: names the random numbers, so that the same delta always gives the same factors.
    """
    total = _energy(merged)
    if min(merged.shape) <= max(EXACT_UP_TO, rank + OVERSAMPLE):
        u, s, vt = np.linalg.svd(merged, full_matrices=False)
        return _compressed(u[:, :rank], s[:rank], vt[:rank], rank, total)
    random = generator(0, "subspace", module)
    columns = random.standard_normal((merged.shape[1], rank + OVERSAMPLE), dtype=np.float32)
    found = np.linalg.qr(merged @ columns)[0]
    for _ in range(POWER_STEPS):
        found = np.linalg.qr(merged @ np.linalg.qr(merged.T @ found)[0])[0]
    u, s, vt = np.linalg.svd(found.T @ merged, full_matrices=False)
    return _compressed(found @ u[:, :rank], s[:rank], vt[:rank], rank, total)


def _compressed(u: Matrix, s: Matrix, vt: Matrix, rank: int, total: float) -> Compressed:
    root = np.sqrt(s)
    b = np.zeros((u.shape[0], rank), np.float32)
    a = np.zeros((rank, vt.shape[1]), np.float32)
    b[:, : len(s)] = u * root
    a[: len(s)] = root[:, None] * vt
    return Compressed(Factors(b, a), float((s.astype(np.float64) ** 2).sum()), total)


def _energy(matrix: Matrix) -> float:
    flat = matrix.ravel()
    return float(np.einsum("i,i->", flat, flat, dtype=np.float64))
