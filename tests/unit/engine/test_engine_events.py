"""The journal, the bus and the stream that joins them (A91)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from support.engine_parts import Parts

from engine.api_models import Event, EventKind, PhaseName, StreamChunk
from engine.events import Bus, Journal, Subscription, replay_state
from registry.db import Transaction

QUEUE = 10


async def record(parts: Parts, count: int, *, session_id: str | None = None, journal: Journal | None = None) -> None:
    target = journal or parts.journal

    def write(tx: Transaction) -> None:
        for number in range(count):
            target.record(tx, kind="updated", subject="test/1", payload={"n": number}, session_id=session_id)

    await parts.db.write(write)


async def take(stream: AsyncIterator[Any], count: int) -> list[Any]:
    async with asyncio.timeout(60):
        return [await anext(stream) for _ in range(count)]


async def test_an_event_is_in_the_journal_exactly_when_its_change_is(parts: Parts) -> None:
    def fails(tx: Transaction) -> None:
        parts.journal.record(tx, kind="created", subject="test/1", payload={})
        raise LookupError("the change fails after its event")

    with parts.bus.subscribe() as live:
        live.rejoin()
        with pytest.raises(LookupError):
            await parts.db.write(fails)
        await record(parts, 1)
        published = await live.take(5)
    stored = await parts.journal.replay()
    assert [event.payload for event in stored] == [{"n": 0}]
    assert published == stored


@pytest.mark.parametrize(
    ("kind", "payload"),
    [
        ("exploded", {}),
        ("CREATED", {}),
        (None, {}),
        ("created", None),
        ("created", "text"),
        ("created", [1]),
        ("created", {"x": object()}),
        ("created", {"x": float("nan")}),
        ("created", {"x": {1: 2}}),
        ("created", {"x": b"bytes"}),
    ],
)
async def test_a91_a_bad_kind_or_payload_is_refused_and_nothing_is_written(
    parts: Parts, kind: Any, payload: Any
) -> None:
    with pytest.raises(ValueError):
        await parts.db.write(lambda tx: parts.journal.record(tx, kind=kind, subject="test/1", payload=payload))
    assert await parts.journal.last_sequence() == 0


async def test_the_journal_is_append_only(parts: Parts) -> None:
    await record(parts, 1)
    for statement in ("UPDATE events SET kind = 'deleted'", "DELETE FROM events"):
        with pytest.raises(Exception, match="append-only"):
            await parts.db.write(lambda tx, statement=statement: tx.execute(statement))
    assert len(await parts.journal.replay()) == 1


async def test_sources_share_the_journal_and_the_bus(parts: Parts) -> None:
    registry = parts.journal.source("registry")
    with parts.bus.subscribe() as live:
        live.rejoin()
        await parts.db.write(lambda tx: registry.record(tx, kind="created", subject="adapter/a", payload={"x": [1]}))
        [event] = await live.take(5)
    assert isinstance(event, Event)
    assert (event.source, event.schema_version, event.sequence) == ("registry", 1, 1)
    assert event.timestamp.endswith("+00:00")


async def test_a_stream_joins_replay_and_live_without_gap_or_repeat(parts: Parts) -> None:
    await record(parts, 25)
    stream = parts.journal.stream(since=5)
    before = await take(stream, 20)
    await record(parts, 5)
    after = await take(stream, 5)
    assert [event.sequence for event in before + after] == list(range(6, 31))


async def test_a_session_s_stream_has_only_its_events(parts: Parts) -> None:
    await record(parts, 3, session_id="one")
    stream = parts.journal.stream(session_id="two")
    await record(parts, 3, session_id="two")
    await record(parts, 3, session_id="one")
    await record(parts, 3, session_id="two")
    events = await take(stream, 6)
    assert [event.sequence for event in events] == [4, 5, 6, 10, 11, 12]


class LossyBus(Bus):
    """The negative control: on overflow it drops what came and says nothing."""

    def publish(self, event: Event) -> None:
        for subscription in self._subscriptions:
            if len(subscription._items) < QUEUE:
                subscription.offer(event)


async def exactness(parts: Parts, bus: Bus, slow: Callable[[], Any]) -> list[int]:
    """Sequences that a slow reader gets while 40 transactions of up to 30 events each overflow its queue of 10."""
    journal = Journal(parts.db, bus, parts.clock, "test")
    total = sum(number % 30 + 1 for number in range(40))
    seen: list[int] = []

    async def read() -> None:
        async for item in journal.stream():
            assert isinstance(item, Event)
            seen.append(item.sequence)
            if len(seen) % 7 == 0:
                await slow()
            if item.sequence == total:
                return

    async with asyncio.timeout(60), asyncio.TaskGroup() as group:
        group.create_task(read())
        for number in range(40):
            await record(parts, number % 30 + 1, journal=journal)
    return seen


async def yield_often() -> None:
    for _ in range(50):
        await asyncio.sleep(0)


async def test_a_slow_reader_gets_every_event_once_and_in_order_under_overflow(parts: Parts) -> None:
    seen = await exactness(parts, Bus(QUEUE), yield_often)
    assert seen == list(range(1, len(seen) + 1))
    assert len(seen) == sum(number % 30 + 1 for number in range(40))


async def test_control_a_bus_that_drops_is_caught(parts: Parts) -> None:
    seen = await exactness(parts, LossyBus(QUEUE), yield_often)
    assert seen != list(range(1, len(seen) + 1))


def chunk(text: str) -> StreamChunk:
    return StreamChunk(session_id="s", phase=PhaseName.CODE, attempt=1, text=text)


def event(sequence: int) -> Event:
    return Event(sequence=sequence, id="x", kind="updated", subject="t/1", payload={}, source="t", timestamp="t")


async def test_chunks_are_live_only_and_dropped_first() -> None:
    live = Subscription(QUEUE, None, chunks=True)
    live.rejoin()
    for number in range(100):
        live.offer(chunk(str(number)))
    for number in range(QUEUE):
        live.offer(event(number))
    items = await live.take(1)
    assert [item.sequence for item in items if isinstance(item, Event)] == list(range(QUEUE))
    assert not live.rejoin(), "chunks alone never push an event out"


async def test_a_client_that_did_not_ask_gets_no_chunks() -> None:
    live = Subscription(QUEUE, None, chunks=False)
    live.rejoin()
    live.offer(chunk("x"))
    assert await live.take(0) == []


async def test_overflow_empties_the_queue_and_sends_the_client_to_the_journal() -> None:
    live = Subscription(QUEUE, None, chunks=False)
    live.rejoin()
    for number in range(QUEUE + 1):
        live.offer(event(number))
    assert await live.take(5) == []
    assert live.rejoin()


async def test_a_quiet_stream_gives_an_empty_batch_for_the_keep_alive(parts: Parts) -> None:
    stream = parts.journal.follow(idle_s=0.01)
    assert await take(stream, 2) == [[], []]


async def test_closing_the_bus_ends_streams_that_wait_and_streams_that_come(parts: Parts) -> None:
    stream = parts.journal.stream()
    async with asyncio.timeout(60), asyncio.TaskGroup() as group:
        reading = group.create_task(collect(stream))
        await asyncio.sleep(0)
        parts.bus.close()
    assert reading.result() == []
    assert await collect(parts.journal.stream()) == []


async def collect(stream: AsyncIterator[Any]) -> list[Any]:
    return [item async for item in stream]


async def test_a_stream_that_is_left_unsubscribes(parts: Parts) -> None:
    stream = parts.journal.follow(idle_s=0.01)
    await take(stream, 1)
    await stream.aclose()  # type: ignore[attr-defined]
    assert not parts.bus._subscriptions


def test_replay_state_folds_created_updated_deleted_and_passes_over_newer_kinds() -> None:
    def at(sequence: int, kind: str, subject: str, **payload: object) -> Event:
        return event(sequence).model_copy(update={"kind": kind, "subject": subject, "payload": payload})

    state = replay_state(
        [
            at(1, EventKind.CREATED, "session/a", state="queued", attempts=0),
            at(2, EventKind.CREATED, "session/b", state="queued"),
            at(3, EventKind.UPDATED, "session/a", state="running"),
            at(4, "teleported", "session/a", state="elsewhere"),
            at(5, EventKind.DELETED, "session/b"),
        ]
    )
    assert state == {"session/a": {"state": "running", "attempts": 0}}
