"""Which adapters the model server is to hold, and which it holds: the least recently used goes first. No effects."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable

from engine.device.contracts import LiveAdapter, Oracle


class LiveAdapters:
    """The set of live adapters. One owner: the device.

    Args:
        limit: at most so many; those in use are never taken out, so it may be exceeded for a moment.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._wanted: OrderedDict[str, LiveAdapter] = OrderedDict()
        self._held: set[str] = set()

    @property
    def wanted(self) -> tuple[LiveAdapter, ...]:
        """To be held by whatever server serves; the least recently used first."""
        return tuple(self._wanted.values())

    @property
    def held(self) -> tuple[LiveAdapter, ...]:
        """Held by the present server."""
        return tuple(adapter for adapter in self._wanted.values() if adapter.name in self._held)

    @property
    def missing(self) -> tuple[LiveAdapter, ...]:
        """Wanted and not held."""
        return tuple(adapter for adapter in self._wanted.values() if adapter.name not in self._held)

    def holds(self, name: str) -> bool:
        """Whether the present server has it."""
        return name in self._held

    def use(self, adapter: LiveAdapter) -> None:
        """Want it, as the most recently used one."""
        self._wanted[adapter.name] = adapter
        self._wanted.move_to_end(adapter.name)

    def note_held(self, name: str) -> None:
        """The server has loaded it."""
        self._held.add(name)

    def drop(self, name: str) -> None:
        """Not wanted any more."""
        self._wanted.pop(name, None)
        self._held.discard(name)

    def server_gone(self) -> None:
        """Nothing is held any more; what is wanted stays so."""
        self._held.clear()

    def surplus(self, in_use: Iterable[str] = ()) -> tuple[LiveAdapter, ...]:
        """What goes so that the limit is kept, the least recently used first."""
        kept = set(in_use)
        over = max(0, len(self._wanted) - self._limit)
        return tuple(adapter for adapter in self._wanted.values() if adapter.name not in kept)[:over]


def restricted(oracle: Oracle, names: Iterable[str]) -> Oracle:
    """What it says of the base (its first entry) and of these adapters."""
    kept = set(names)
    first, *others = oracle.by_model
    return Oracle((first, *(entry for entry in others if entry[0] in kept)))


def merged(old: Oracle | None, new: Oracle) -> Oracle:
    """The old one with what the new one knows more; what both know is the old one's word."""
    if old is None:
        return new
    known = {name for name, _ in old.by_model}
    return Oracle((*old.by_model, *(entry for entry in new.by_model if entry[0] not in known)))


def unknown(oracle: Oracle | None, adapters: Iterable[LiveAdapter]) -> tuple[LiveAdapter, ...]:
    """Adapters of which nothing is recorded."""
    names = {name for name, _ in oracle.by_model} if oracle is not None else set[str]()
    return tuple(adapter for adapter in adapters if adapter.name not in names)
