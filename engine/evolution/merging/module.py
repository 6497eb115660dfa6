"""Merging one module: in core space, or on the dense deltas as the papers of TIES and DARE say, one at a time.

In delta space a module's deltas are formed one after another and given to the rule, which keeps no more of a thousand
than of two; the merged one is compressed before the next module begins. So the peak is a few times the largest matrix
of the model, however many adapters and layers there are.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from engine.api_evolution import MergeMethod, MergeSpace
from engine.evolution.merging.compress import Compressed, compress_core, compress_dense
from engine.evolution.merging.core_space import Factors, Matrix, core_space
from engine.evolution.merging.rules import Rule, Term, combine

EXACT = frozenset({MergeMethod.LINEAR, MergeMethod.CAT, MergeMethod.CAT_LEARNED})
"""Weighted sums: both spaces give the same, and the core is smaller."""


@dataclass(frozen=True)
class Part:
    """One adapter's part in a module's merge."""

    key: str
    weight: float
    factors: Factors


def merge_module(parts: Sequence[Part], rule: Rule, space: MergeSpace, rank: int, module: str) -> Compressed:
    """Merge one module's deltas and bring the result to a rank.

    An adapter that leaves the module alone has no part: to a sum it adds nothing, and in an election it has no vote.

    Raises:
        ValueError: there is no part, shapes differ, the weights are not valid, or the result is beyond float32.
    """
    with np.errstate(over="ignore", invalid="ignore"):  # what is no number any more is looked for
        if space is MergeSpace.CORE or rule.method in EXACT:
            core = core_space([part.factors for part in parts])
            terms = [Term(matrix, part.weight, part.key) for part, matrix in zip(parts, core.cores, strict=True)]
            merged = compress_core(_finite(combine(terms, rule, module), module), core, rank)
        else:
            merged = compress_dense(_finite(combine(_deltas(parts), rule, module), module), rank, module)
    _finite(merged.factors.a, module)
    _finite(merged.factors.b, module)
    return merged


def _finite(matrix: Matrix, module: str) -> Matrix:
    if not np.isfinite(matrix).all():
        raise ValueError(f"{module}: the merged delta is beyond what float32 holds")
    return matrix


def _deltas(parts: Sequence[Part]) -> Iterator[Term]:
    for part in parts:
        yield Term(part.factors.dense().astype(np.float32), part.weight, part.key)
