"""The space that some adapters' deltas span, in which they are small matrices without loss.

A delta D = B A of rank r lives in r directions of the output and r of the input. The directions of all adapters of one
module together are at most the sum of their ranks, some hundreds where the matrix has thousands. In orthonormal bases
L and R of them each delta is D = L M R^T with a small core M, and sums, cosines and singular values of cores are those
of the deltas. After the core space of Panariello et al. 2025 (arXiv 2509.17786), with one difference: the bases are
made of the deltas' own singular vectors, not of the factors as they happen to be stored. So a merge depends neither on
how an adapter was factored (B G, G^-1 A is the same adapter), nor on the order of the adapters or their scale, and an
adapter that does nothing adds no directions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

Matrix = NDArray[np.floating]
"""A real matrix; the doc of each function gives its shape."""

NEGLIGIBLE = 1e-6
"""Directions with less than this share of the strongest are rounding: a float32 factor is exact to 6e-8."""


@dataclass(frozen=True)
class Factors:
    """One adapter's delta of one module: `b @ a`, with b of shape (out, r), a of shape (r, in), its scale in b."""

    b: Matrix
    a: Matrix

    @property
    def rank(self) -> int:
        """Columns of b; the delta's own rank may be lower."""
        return self.b.shape[1]

    @property
    def shape(self) -> tuple[int, int]:
        """Of the delta: (out, in)."""
        return self.b.shape[0], self.a.shape[1]

    def dense(self) -> Matrix:
        """The delta itself, of shape (out, in)."""
        return self.b @ self.a


@dataclass(frozen=True)
class Basis:
    """Orthonormal directions, strongest first, as combinations of the adapters' own; formed only where asked for."""

    directions: Matrix
    """Singular vectors of all adapters side by side, shape (size, k), k at most size; else what they span."""
    mix: Matrix
    """Shape (k, q); the basis is directions @ mix."""

    def expand(self, small: Matrix) -> Matrix:
        """What has these coordinates: (q, r) -> (size, r)."""
        return self.directions @ (self.mix @ small)


@dataclass(frozen=True)
class CoreSpace:
    """Bases of one module's outputs (q) and inputs (p), and each adapter's core in them, in the order given."""

    left: Basis
    right: Basis
    cores: tuple[Matrix, ...]
    """Each of shape (q, p); with bases L and R, delta t is L @ cores[t] @ R.T."""


def core_space(adapters: Sequence[Factors]) -> CoreSpace:
    """The space of some adapters of one module, computed in float64.

    Raises:
        ValueError: there is no adapter, or their shapes differ.
    """
    if not adapters:
        raise ValueError("a core space needs at least one adapter")
    if len({adapter.shape for adapter in adapters}) > 1:
        raise ValueError("the adapters' shapes differ")
    parts = [singular_parts(adapter) for adapter in adapters]
    shares = np.concatenate([_share(s) for _, s, _ in parts])
    left, lefts = _basis(np.concatenate([u for u, _, _ in parts], axis=1), shares)
    right, rights = _basis(np.concatenate([vt.T for _, _, vt in parts], axis=1), shares)
    ends = np.cumsum([0, *(len(s) for _, s, _ in parts)])
    ranges = [slice(start, end) for start, end in pairwise(ends)]
    cores = [(lefts[:, own] * s) @ rights[:, own].T for own, (_, s, _) in zip(ranges, parts, strict=True)]
    return CoreSpace(left, right, tuple(cores))


def singular_parts(factors: Factors) -> tuple[Matrix, Matrix, Matrix]:
    """The thin singular value decomposition (u, s, vt) of b @ a, without forming the product; float64."""
    left, triangle_b = np.linalg.qr(factors.b.astype(np.float64))
    right, triangle_a = np.linalg.qr(factors.a.astype(np.float64).T)
    u, s, vt = np.linalg.svd(triangle_b @ triangle_a.T)
    count = len(s)
    return left @ u[:, :count], s, vt[:count] @ right.T


def inner(first: Factors, second: Factors) -> float:
    """The inner product of two deltas of one shape, without forming them."""
    left = first.b.T.astype(np.float64) @ second.b
    right = first.a.astype(np.float64) @ second.a.T
    return float((left * right).sum())


def _share(singular: Matrix) -> Matrix:
    norm = np.linalg.norm(singular)
    return singular / norm if norm > 0 else singular


def _basis(directions: Matrix, shares: Matrix) -> tuple[Basis, Matrix]:
    """The basis of what the columns span, each as strong as its share, and the columns' coordinates in it.

    By the eigenvectors of their inner products, so that only one product has the size of the model. That squares the
    condition, which leaves a direction as weak as NEGLIGIBLE exact to a ten-thousandth of its own small size.
    """
    size, count = directions.shape
    if count > size:  # thousands of adapters: what they span is the whole space, and no larger
        scaled = directions * shares
        values, vectors = _strongest(scaled @ scaled.T)
        return Basis(vectors, np.eye(len(values))), vectors.T @ directions
    products = directions.T @ directions
    values, vectors = _strongest(shares[:, None] * products * shares)
    mix = shares[:, None] * vectors / np.sqrt(values)
    return Basis(directions, mix), mix.T @ products


def _strongest(symmetric: Matrix) -> tuple[Matrix, Matrix]:
    """Its eigenvalues, largest first, without those of negligible directions; and their eigenvectors as columns."""
    values, vectors = np.linalg.eigh(symmetric)
    values, vectors = values[::-1], vectors[:, ::-1]
    kept = int((values > NEGLIGIBLE**2 * values[0]).sum()) if values[0] > 0 else 0
    return values[:kept], vectors[:, :kept]
