"""The parts of an engine on a real database."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from support.engine_parts import SETS, Parts

from engine.events import Bus, Journal
from engine.jobs import Jobs
from engine.sessions import Sessions
from registry.clock import SeededClock
from registry.db import Database


@pytest.fixture
async def parts(tmp_path: Path) -> AsyncIterator[Parts]:
    clock = SeededClock(7)
    db = await Database.open(tmp_path / "rune.db", SETS, clock)
    bus = Bus(queue_limit=10)
    journal = Journal(db, bus, clock, "engine")
    jobs = Jobs(journal, clock, owner="first")
    yield Parts(tmp_path / "rune.db", db, bus, journal, jobs, Sessions(db, jobs, journal, clock), clock)
    bus.close()
    await db.close()
