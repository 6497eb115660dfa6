"""Perplexity and KL divergence from two models' logits, summed window by window. Pure; numpy only.

With p the base model's distribution of the next token, q the candidate's and x the token that comes:

    perplexity        exp( mean over positions of -log p(x) )
    KL(base || cand)  mean over positions of  sum over tokens of  p (log p - log q)       in nats

Everything is computed in float64, a few positions at a time: a row of a large vocabulary has a megabyte.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

WINDOW = 512
"""Tokens that are read together. Each window is a text of its own, whose first token is given."""
ROWS = 32
"""Positions at once."""
WORST = sys.float_info.max
"""What is not a number, or beyond all numbers: JSON has no infinity, and no limit lets this one pass."""

Rows = NDArray[np.float32] | NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Sums:
    """Over the positions so far, in nats."""

    positions: int = 0
    base: float = 0.0
    """-log p of the tokens that came."""
    candidate: float = 0.0
    kl: float = 0.0

    def __add__(self, other: Sums) -> Sums:
        return Sums(
            self.positions + other.positions,
            self.base + other.base,
            self.candidate + other.candidate,
            self.kl + other.kl,
        )

    @property
    def base_perplexity(self) -> float:
        """`WORST` where it is no number."""
        return perplexity(self.base, self.positions)

    @property
    def candidate_perplexity(self) -> float:
        """`WORST` where it is no number."""
        return perplexity(self.candidate, self.positions)

    @property
    def mean_kl(self) -> float:
        """In nats per token; at least 0, `WORST` where it is no number."""
        mean = self.kl / self.positions
        return max(mean, 0.0) if math.isfinite(mean) else WORST  # rounding may bring it under 0


def perplexity(nats: float, positions: int) -> float:
    """exp of the mean; `WORST` where that is no number or beyond the largest one."""
    mean = nats / positions
    if not math.isfinite(mean):
        return WORST
    try:
        return math.exp(mean)
    except OverflowError:
        return WORST


def windows(tokens: Sequence[int], size: int = WINDOW) -> list[tuple[int, ...]]:
    """The text in pieces; a last piece of one token predicts nothing and is left out."""
    pieces = [tuple(tokens[start : start + size]) for start in range(0, len(tokens), size)]
    return [piece for piece in pieces if len(piece) > 1]


def compare(base: Rows, candidate: Rows, targets: NDArray[np.int64]) -> Sums:
    """Sums over the positions of one window.

    Args:
        base: logits, (positions, vocabulary).
        candidate: the same of the adapted model.
        targets: the token that comes at each position.

    Raises:
        ValueError: the shapes differ.
    """
    if base.shape != candidate.shape or len(base) != len(targets):
        raise ValueError(f"logits {base.shape} and {candidate.shape} of {len(targets)} positions cannot be compared")
    total = Sums()
    for start in range(0, len(targets), ROWS):
        part = slice(start, start + ROWS)
        total += _compare(base[part], candidate[part], targets[part])
    return total


def _compare(base: Rows, candidate: Rows, targets: NDArray[np.int64]) -> Sums:
    rows = np.arange(len(targets))
    with np.errstate(invalid="ignore", over="ignore", divide="ignore"):  # a broken candidate gives no numbers
        log_p, log_q = _log_softmax(base), _log_softmax(candidate)
        p = np.exp(log_p)
        # A token that the base model excludes adds nothing, whatever the candidate says of it.
        kl = np.where(p > 0, p * (log_p - log_q), 0.0).sum()
        return Sums(len(targets), float(-log_p[rows, targets].sum()), float(-log_q[rows, targets].sum()), float(kl))


def _log_softmax(logits: Rows) -> NDArray[np.float64]:
    wide = logits.astype(np.float64)
    wide -= wide.max(axis=-1, keepdims=True)
    return wide - np.log(np.exp(wide).sum(axis=-1, keepdims=True))
