"""A table of the state, open for one batch of changes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Generic, TypeVar

V = TypeVar("V")


class Draft(Generic[V]):
    """Copied at its first change: an untouched table stays the same object, so a screen need not look at it again."""

    def __init__(self, before: Mapping[str, V]) -> None:
        self.read: Mapping[str, V] = before
        self._copy: dict[str, V] | None = None

    def edit(self) -> dict[str, V]:
        """The table to change."""
        if self._copy is None:
            self._copy = dict(self.read)
            self.read = self._copy
        return self._copy

    def replace(self, table: dict[str, V]) -> None:
        """Another table altogether."""
        self.read = self._copy = table

    def drop(self, key: str) -> None:
        """Take the key out, if it is there."""
        if key in self.read:
            del self.edit()[key]
