"""What still rests on an adapter, and so speaks against archiving it by hand.

Sweeps choose what to prune by its fitness (`triggers`); a person names an adapter, and is told what would be lost.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from registry.models import Adapter
from registry.registry import Registry


async def reasons_to_keep(registry: Registry, adapter_id: str) -> tuple[str, ...]:
    """One sentence for each; none for one that is archived already.

    Raises:
        AdapterNotFound: there is no such adapter.
    """
    adapter = await registry.get(adapter_id)
    if adapter.is_archived:
        return ()
    family = await registry.query_by_task_type(adapter.task_type)
    aliases = await registry.get_aliases()
    dag = await registry.get_lineage_dag(adapter_id)
    for name in dag.children:
        if name != adapter_id and in_use(await registry.get(name)):
            return reasons(adapter, family, aliases, name)
    return reasons(adapter, family, aliases, None)


def reasons(
    adapter: Adapter, family: Sequence[Adapter], aliases: Mapping[str, str], descendant: str | None
) -> tuple[str, ...]:
    """Why the adapter is still needed. Pure.

    Args:
        family: every adapter of its task type, itself included.
        descendant: one in use that was made from it, directly or not.
    """
    found = [f"It is {name}." for name, target in sorted(aliases.items()) if target == adapter.id]
    if not any(other.id != adapter.id and in_use(other) for other in family):
        found.append(f"It is the last adapter in use for {adapter.task_type}.")
    if descendant is not None:
        found.append(f"{descendant} was made from it and is in use.")
    return tuple(found)


def in_use(adapter: Adapter) -> bool:
    """Whether it may be served."""
    return not adapter.is_archived and not adapter.is_quarantined
