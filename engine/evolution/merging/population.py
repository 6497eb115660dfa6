"""Adapters read together: their common modules and shapes, their cosines, and a random one of equal norm."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from engine.evolution.merging.core_space import Factors, Matrix, inner
from engine.evolution.merging.factors import AdapterFactors
from engine.evolution.merging.rules import generator
from engine.evolution.merging.spec import Limits, MergeRefusedError, ParentFiles
from registry.safeload import AdapterLimits


def read_all(parents: Sequence[ParentFiles], limits: Limits) -> list[AdapterFactors]:
    """All of them, checked, and found to be of one model by their shapes.

    Raises:
        AdapterRejected: one cannot be read or is of a kind that cannot be merged.
        MergeRefusedError: a module has different shapes in two of them.
    """
    bounds = AdapterLimits(limits.max_bytes, limits.max_rank)
    adapters = [AdapterFactors(parent, bounds) for parent in parents]
    seen: dict[str, tuple[tuple[int, int], str]] = {}
    for adapter in adapters:
        for module, shape in adapter.shapes.items():
            first, owner = seen.setdefault(module, (shape, adapter.id))
            if first != shape:
                raise MergeRefusedError(
                    f"{owner} and {adapter.id} are not of one base model: {module} is {first} in one of them and "
                    f"{shape} in the other."
                )
    return adapters


def modules_of(adapters: Sequence[AdapterFactors]) -> list[str]:
    """Every module that some adapter changes, sorted."""
    return sorted({module for adapter in adapters for module in adapter.shapes})


def cosines(adapters: Sequence[AdapterFactors], tell: Callable[[int, int], object]) -> Matrix:
    """Cosine of each adapter's delta to each other's, over all modules; shape (n, n), 0 for a delta that is zero."""
    products = np.zeros((len(adapters), len(adapters)))
    modules = modules_of(adapters)
    for number, module in enumerate(modules, 1):
        factors = [adapter.factors(module) for adapter in adapters]
        _add_products(products, factors)
        tell(number, len(modules))
    norms = np.sqrt(np.diag(products))
    scale = np.outer(norms, norms)
    return np.clip(np.divide(products, scale, out=np.zeros_like(products), where=scale > 0), -1, 1)


def random_like(factors: Factors, rank: int, seed: int, module: str) -> Factors:
    """Factors of random directions whose product has the norm of another delta."""
    random = generator(seed, "random adapter", module)
    rows, columns = factors.shape
    b = random.standard_normal((rows, rank), dtype=np.float32)
    a = random.standard_normal((rank, columns), dtype=np.float32)
    drawn = Factors(b, a)
    scale = np.sqrt(inner(factors, factors) / inner(drawn, drawn))
    share = np.float32(np.sqrt(scale))
    return Factors(b * share, a * share)


def _add_products(products: Matrix, factors: Sequence[Factors | None]) -> None:
    """Add the inner products of one module's deltas; those that leave it alone have none."""
    for i, first in enumerate(factors):
        for j, second in enumerate(factors[: i + 1]):
            if first is None or second is None:
                continue
            product = inner(first, second)
            products[i, j] += product
            products[j, i] += product if i != j else 0
