"""The adapters that evolution breeds from: one population for each task type.

A member is listed, not archived, not quarantined, and no control. A child that nobody looked at the gate for is
listed too, since only a published adapter can be served and so be measured; but it has no fitness, and an adapter
without fitness is never picked for a task, never a parent and never pruned. It becomes a member with its outcome.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from engine.evolution.pruning import in_use
from engine.evolution.records import Merge, Records
from registry.models import Adapter, Source
from registry.registry import Registry


@dataclass(frozen=True)
class Population:
    """One task type as a sweep finds it."""

    task_type: str
    members: tuple[Adapter, ...]
    ungated: tuple[Merge, ...]
    """Children in use whose gate was not looked at: an earlier sweep was stopped."""
    merged: frozenset[frozenset[str]]
    """Sets of parents that have a child, whoever made it; archived ones count."""
    live: tuple[Adapter, ...]
    """Members and ungated children: whose ancestors are kept."""

    @property
    def generation(self) -> int:
        """The highest of its members; 0 where there are none."""
        return max((adapter.generation for adapter in self.live), default=0)


async def read_population(registry: Registry, records: Records, task_type: str) -> Population:
    """The population as it is now."""
    controls = {control.adapter_id for control in await records.controls(ended=False)}
    known = await registry.query_by_task_type(task_type)
    live = [adapter for adapter in known if in_use(adapter) and adapter.id not in controls]
    merges = await records.merges(task_type)
    names = {adapter.id for adapter in live}
    ungated = tuple(merge for merge in merges if merge.outcome is None and merge.child_id in names)
    young = {merge.child_id for merge in ungated}
    return Population(
        task_type,
        members=tuple(adapter for adapter in live if adapter.id not in young),
        ungated=ungated,
        merged=_merged(known, merges),
        live=tuple(live),
    )


def _merged(known: Sequence[Adapter], merges: Sequence[Merge]) -> frozenset[frozenset[str]]:
    by_hand = (
        frozenset(adapter.parent_ids)
        for adapter in known
        if adapter.source is Source.EVOLUTION and len(adapter.parent_ids) > 1
    )
    return frozenset((*by_hand, *(merge.parents for merge in merges)))
