"""Trajectories: one row and one event for each attempt, whole, once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from support.pipeline_fakes import Ground, open_ground

from engine.api_models import SCHEMA_VERSION, AttemptRecord, PhaseName
from engine.training import trajectories
from registry.db import IntegrityError, Transaction


@pytest.fixture
async def ground(tmp_path: Path) -> AsyncIterator[Ground]:
    async with open_ground(tmp_path) as opened:
        yield opened


def record(session: str = "s", number: int = 0, **more: object) -> AttemptRecord:
    values: dict[str, object] = {
        "session_id": session,
        "number": number,
        "phase": PhaseName.CODE,
        "prompt": "p",
        "response": "r",
        "code": "c",
        "passed": False,
        "created_at": "2026-01-01T00:00:00.000000+00:00",
    }
    return AttemptRecord.model_validate({**values, **more})


async def test_a_step_is_recorded_once_and_its_first_record_stands(ground: Ground) -> None:
    first, new = await ground.store.append_step("code/a#0", record(code="first"))
    assert new
    again, new = await ground.store.append_step("code/a#0", record(code="second"))
    assert not new
    assert again == first
    assert first.number == 1
    other, _ = await ground.store.append_step("code/a#0", record("other"))
    assert other.number == 1
    assert len(ground.events.events) == 2


async def test_numbers_count_up_without_gaps_when_attempts_come_side_by_side(ground: Ground) -> None:
    async with asyncio.TaskGroup() as group:
        for number in range(30):
            group.create_task(ground.store.append_step(f"step#{number}", record()))
    assert [stored.number for stored in await ground.store.attempts("s")] == list(range(1, 31))


async def test_a91_the_event_carries_the_whole_record(ground: Ground) -> None:
    stored, _ = await ground.store.append_step("x#0", record(stdout="out\n", verdict={"ran": 1}))
    (event,) = ground.events.events
    assert (event.kind, event.subject, event.session_id) == ("created", "attempt/s.1", "s")
    assert AttemptRecord.model_validate(event.payload) == stored
    assert stored.schema_version == SCHEMA_VERSION


async def test_row_and_event_are_one_transaction(ground: Ground) -> None:
    class Failing:
        def record(self, tx: Transaction, **event: object) -> None:
            raise RuntimeError("the journal is full")

    store = trajectories.TrajectoryStore(ground.store._db, Failing(), ground.store._clock)  # pyright: ignore
    with pytest.raises(RuntimeError):
        await store.append_step("x#0", record())
    assert await ground.store.attempts("s") == ()


async def test_export_pages_filters_and_keeps_the_order_of_time(
    ground: Ground, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trajectories, "PAGE", 3)
    for number in range(8):
        await ground.store.append_step(f"x#{number}", record("a" if number % 2 else "b"))
    everything = [stored async for stored in ground.store.export()]
    assert len(everything) == 8
    assert [stored.created_at for stored in everything] == sorted(stored.created_at for stored in everything)
    only_a = [stored async for stored in ground.store.export(session_id="a")]
    assert [stored.number for stored in only_a] == [1, 2, 3, 4]
    since = everything[5].created_at
    assert [stored async for stored in ground.store.export(since=since)] == everything[5:]
    assert [stored async for stored in ground.store.export(since="2999")] == []


async def test_the_schema_refuses_what_is_no_attempt(ground: Ground) -> None:
    def bad(tx: Transaction) -> None:
        tx.execute(
            "INSERT INTO attempts (session_id, number, step, phase, passed, record, schema_version, created_at)"
            " VALUES ('s', 1, 'x', 'nap', 0, '{}', 1, 't')"
        )

    with pytest.raises(IntegrityError, match="CHECK"):
        await ground.store._db.write(bad)  # pyright: ignore[reportPrivateUsage]
