"""What the child does: merge adapters, make a random one, or measure cosines. Blocks, and may take minutes."""

from __future__ import annotations

import resource
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from engine.api_evolution import MergeMethod
from engine.evolution.merging.core_space import Factors, inner
from engine.evolution.merging.factors import AdapterFactors
from engine.evolution.merging.module import Part, merge_module
from engine.evolution.merging.output import write_adapter
from engine.evolution.merging.population import cosines, modules_of, random_like, read_all
from engine.evolution.merging.rules import Rule
from engine.evolution.merging.spec import (
    Cosines,
    Measured,
    Merge,
    Merged,
    MergeRefusedError,
    ParentFiles,
    RandomAdapter,
)

CONCATENATING = frozenset({MergeMethod.CAT, MergeMethod.CAT_LEARNED})
FLOAT32_BYTES = 4

Tell = Callable[[int, int, str], None]
"""Told how many steps of how many are done, and of what."""
Learn = Callable[[Merge, Tell], tuple[float, ...]]
"""Finds the scalars of `cat-learned`."""


def merge(spec: Merge, tell: Tell, learn: Learn) -> Merged:
    """Merge the spec's parents and write the result.

    Raises:
        AdapterRejected: a parent cannot be read or is of a kind that cannot be merged.
        MergeRefusedError: they cannot be merged so.
    """
    started = time.monotonic()
    weights = learn(spec, tell) if spec.method is MergeMethod.CAT_LEARNED else _weights(spec)
    adapters = read_all(spec.parents, spec.limits)
    taking_part = [adapter for adapter, weight in zip(adapters, weights, strict=True) if weight]
    rank = _rank(spec, taking_part)
    _check_size(spec, taking_part, rank)
    tally = _Tally(len(adapters))
    modules = _merged_modules(spec, adapters, weights, rank, tally, tell)
    if not tally.kept:
        raise MergeRefusedError("The merged adapter would change nothing: its delta is zero.")
    write_adapter(spec.output, modules, _targets(taking_part), spec.base_model_id)
    return Merged(
        rank=rank,
        modules=len(modules),
        retained_energy=min(tally.kept / tally.total, 1.0),
        weights=weights,
        parent_cosines={adapter.id: cosine for adapter, cosine in zip(adapters, tally.cosines(), strict=True)},
        seconds=time.monotonic() - started,
        peak_mib=peak_mib(),
    )


def make_random(spec: RandomAdapter, tell: Tell) -> Merged:
    """Write an adapter of random directions and of the norm of the spec's only parent, module by module.

    Raises:
        AdapterRejected: the parent cannot be read.
    """
    started = time.monotonic()
    (adapter,) = read_all(spec.parents, spec.limits)
    modules: dict[str, Factors] = {}
    for number, module in enumerate(names := modules_of([adapter]), 1):
        model = adapter.factors(module)
        assert model is not None, "the module is one of the adapter's"
        modules[module] = random_like(model, adapter.rank, spec.seed, module)
        tell(number, len(names), "modules drawn")
    write_adapter(spec.output, modules, adapter.config.target_modules, spec.base_model_id)
    return Merged(
        rank=adapter.rank,
        modules=len(modules),
        retained_energy=1.0,
        weights=(),
        parent_cosines={},
        seconds=time.monotonic() - started,
        peak_mib=peak_mib(),
    )


def measure(spec: Cosines, tell: Tell) -> Measured:
    """Cosines of the spec's adapters.

    Raises:
        AdapterRejected, MergeRefusedError: as `merge`.
    """
    adapters = read_all(spec.parents, spec.limits)
    found = cosines(adapters, lambda done, total: tell(done, total, "modules compared"))
    return Measured(cosines=tuple(tuple(float(value) for value in row) for row in found))


def peak_mib() -> int:
    """Most memory that this process ever held."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


@dataclass
class _Tally:
    """Sums over modules."""

    adapters: int
    kept: float = 0.0
    total: float = 0.0
    products: list[float] = field(init=False)
    """Of the merged delta and each parent's."""
    norms: list[float] = field(init=False)
    """Squared, of each parent."""

    def __post_init__(self) -> None:
        self.products = [0.0] * self.adapters
        self.norms = [0.0] * self.adapters

    def cosines(self) -> list[float]:
        """Of the merged delta to each parent's; 0 to one that is zero."""
        return [
            float(np.clip(product / np.sqrt(norm * self.kept), -1, 1)) if norm and self.kept else 0.0
            for product, norm in zip(self.products, self.norms, strict=True)
        ]


def _merged_modules(
    spec: Merge, adapters: Sequence[AdapterFactors], weights: Sequence[float], rank: int, tally: _Tally, tell: Tell
) -> dict[str, Factors]:
    rule = Rule(spec.method, spec.density, spec.sign, spec.seed)
    modules: dict[str, Factors] = {}
    for number, module in enumerate(names := modules_of(adapters), 1):
        present = {index: found for index, adapter in enumerate(adapters) if (found := adapter.factors(module))}
        parts = [Part(_key(spec.parents[i]), weights[i], found) for i, found in present.items() if weights[i]]
        if parts:
            result = merge_module(parts, rule, spec.space, rank, module)
            modules[module] = result.factors
            tally.kept, tally.total = tally.kept + result.kept, tally.total + result.total
        _compare(tally, modules.get(module), present)
        tell(number, len(names), "modules merged")
    return modules


def _compare(tally: _Tally, merged: Factors | None, present: Mapping[int, Factors]) -> None:
    for index, factors in present.items():
        tally.norms[index] += inner(factors, factors)
        if merged is not None:
            tally.products[index] += inner(merged, factors)


def _weights(spec: Merge) -> tuple[float, ...]:
    count = len(spec.parents)
    weights = spec.weights or (1 / count,) * count
    if len(weights) != count:
        raise MergeRefusedError(f"There are {len(weights)} weights for {count} adapters: give one for each.")
    if not any(weights):
        raise MergeRefusedError("Every weight is 0: nothing would be merged.")
    return weights


def _rank(spec: Merge, adapters: Sequence[AdapterFactors]) -> int:
    ranks = [adapter.rank for adapter in adapters]
    rank = spec.rank or (sum(ranks) if spec.method in CONCATENATING else max(ranks))
    if rank > spec.limits.max_rank:
        raise MergeRefusedError(
            f"The result would have rank {rank}; {spec.limits.max_rank} is the most. Give a rank to compress it to."
        )
    return rank


def _check_size(spec: Merge, adapters: Sequence[AdapterFactors], rank: int) -> None:
    shapes = {module: shape for adapter in adapters for module, shape in adapter.shapes.items()}
    size = sum(rank * (rows + columns) * FLOAT32_BYTES for rows, columns in shapes.values())
    if size > spec.limits.max_bytes:
        raise MergeRefusedError(
            f"The result would have {size >> 20} MiB; {spec.limits.max_bytes >> 20} MiB are the most. "
            "Give a lower rank, or raise registry.max_adapter_mb."
        )


def _targets(adapters: Sequence[AdapterFactors]) -> tuple[str, ...]:
    return tuple(sorted({target for adapter in adapters for target in adapter.config.target_modules}))


def _key(parent: ParentFiles) -> str:
    return parent.key or parent.id
