"""The operation `merge`: resolve the adapters, merge them, publish the result with its lineage.

A merge is a function of its request and its parents' bytes, so it is simply done again after a crash. Found published
already, with the same weights and parents, it was this operation's own doing, and its report is given.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

from engine.api_evolution import MergeMethod, MergeReport, MergeRequest
from engine.api_learning import Operation
from engine.evolution.merging.service import Merger, check_mergeable
from engine.evolution.merging.spec import WEIGHTS, Learning, Merged
from engine.evolution.seams import Made
from engine.operations import Progress
from registry.blobs import file_digest
from registry.errors import AdapterAlreadyExists, AdapterNotFound
from registry.files import run_to_end
from registry.models import Adapter, LoadableAdapter, NewAdapter, Source, check_id
from registry.registry import Registry

PrepareLearning = Callable[[MergeRequest, Sequence[LoadableAdapter], Progress], Awaitable[Learning]]
"""Finds what `cat-learned` learns its scalars from."""


class MergeHandler:
    """Merges when asked."""

    def __init__(self, registry: Registry, merger: Merger, prepare: PrepareLearning) -> None:
        self._registry = registry
        self._merger = merger
        self._prepare = prepare

    async def run(self, operation: Operation, progress: Progress) -> MergeReport:
        """See `engine.operations.Handler`; may be called again for the same operation."""
        started = time.monotonic()
        request = MergeRequest.model_validate(operation.request)
        adapter_id = check_id(request.adapter_id or f"merged-{operation.id}")
        await self._check_free(adapter_id, request)
        parents = [await self._registry.resolve_for_load(name) for name in request.adapters]
        check_mergeable(request, parents)
        learned = request.method is MergeMethod.CAT_LEARNED
        learning = await self._prepare(request, parents, progress) if learned else None
        async with self._merger.merge(request, parents, progress, learning) as made:
            adapter = await self._publish(made, new_adapter(adapter_id, request, parents))
        return report(adapter, request, Merged.model_validate(without_gguf(made)), time.monotonic() - started)

    async def _check_free(self, adapter_id: str, request: MergeRequest) -> None:
        """Before minutes are spent on it. An adapter of the same parents may be what this operation published."""
        try:
            existing = await self._registry.get(adapter_id)
        except AdapterNotFound:
            return
        if set(existing.parent_ids) != set(request.adapters):
            raise AdapterAlreadyExists(
                f"{adapter_id} is already published and adapters never change; choose another id"
            )

    async def _publish(self, made: Made, new: NewAdapter) -> Adapter:
        try:
            return await self._registry.publish(made.directory, new, gguf=made.gguf)
        except AdapterAlreadyExists:
            existing = await self._registry.get(new.id)
            if existing.file_hash != await run_to_end(lambda: _weights_digest(made.directory)):
                raise
            return existing


def new_adapter(adapter_id: str, request: MergeRequest, parents: Sequence[LoadableAdapter]) -> NewAdapter:
    """What the registry is told: made by evolution, of these parents, one generation after them."""
    first = parents[0].adapter
    return NewAdapter(
        id=adapter_id,
        task_type=request.task_type or first.task_type,
        source=Source.EVOLUTION,
        base_model_id=first.base_model_id,
        parent_ids=tuple(parent.adapter.id for parent in parents),
    )


def report(adapter: Adapter, request: MergeRequest, merged: Merged, seconds: float) -> MergeReport:
    """The operation's result."""
    return MergeReport(
        adapter_id=adapter.id,
        digest=adapter.digest,
        method=request.method,
        space=request.space,
        rank=merged.rank,
        retained_energy=merged.retained_energy,
        weights=merged.weights,
        parent_cosines=merged.parent_cosines,
        modules=merged.modules,
        seconds=seconds,
        peak_mib=merged.peak_mib,
    )


def without_gguf(made: Made) -> dict[str, object]:
    """The child's own word among the facts."""
    return {name: value for name, value in made.facts.items() if name != "no_gguf"}


def _weights_digest(directory: Path) -> str:
    return file_digest(directory / WEIGHTS)
