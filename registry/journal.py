"""How the registry says what it changed: one event for each change, in the change's own transaction.

The registry knows only this Protocol; the engine's journal satisfies it and is injected.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from registry.db import Transaction


class Recorder(Protocol):
    """Writes one event into the open transaction."""

    def record(
        self,
        tx: Transaction,
        *,
        kind: str,
        subject: str,
        payload: Mapping[str, object],
        session_id: str | None = None,
    ) -> None:
        """Add an event: `kind` is created, updated or deleted; `subject` is `<type>/<id>`; `payload` is JSON data."""
        ...


@dataclass(frozen=True, slots=True)
class Recorded:
    """One event as `MemoryRecorder` keeps it."""

    kind: str
    subject: str
    payload: Mapping[str, object]
    session_id: str | None


@dataclass(slots=True)
class MemoryRecorder:
    """Keeps the events of committed transactions in a list: for tests and benchmarks."""

    events: list[Recorded] = field(default_factory=list[Recorded])

    def record(
        self,
        tx: Transaction,
        *,
        kind: str,
        subject: str,
        payload: Mapping[str, object],
        session_id: str | None = None,
    ) -> None:
        """Keep the event once the transaction has committed."""
        event = Recorded(kind, subject, dict(payload), session_id)
        tx.after_commit(lambda: self.events.append(event))
