"""An engine's state on a real database, without the engine."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from engine.events import Bus, Journal
from engine.jobs import Jobs
from engine.sessions import Sessions
from registry.clock import SeededClock
from registry.db import Database, Migrations

SETS = (Migrations("engine", files("engine") / "migrations"),)


@dataclass
class Parts:
    """An engine's state without the engine."""

    path: Path
    db: Database
    bus: Bus
    journal: Journal
    jobs: Jobs
    sessions: Sessions
    clock: SeededClock

    def restarted(self, owner: str) -> Sessions:
        """The sessions as the next engine process sees them."""
        return Sessions(self.db, Jobs(self.journal, self.clock, owner), self.journal, self.clock)
