"""Attaching: snapshot, events, backoff; knows when the engine is away and says so."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest
from support.fake_engine import FakeEngine, adapter, running, session
from support.screen import attached, shows, until

import rune_tui.attach
from engine.errors import RuneError
from rune_tui.attach import PAGE, RETRY_DELAYS_S, Attachment, plain_reason, read_snapshot
from rune_tui.state import Item, Link, LinkState, State, apply_all


class Watcher:
    """Collects what an attachment delivers."""

    def __init__(self) -> None:
        self.items: list[Item] = []
        self._changed = asyncio.Event()

    def take(self, item: Item) -> None:
        self.items.append(item)
        self._changed.set()

    async def until(self, condition: Callable[[list[Item]], bool]) -> None:
        async with asyncio.timeout(60):
            while not condition(self.items):
                self._changed.clear()
                await self._changed.wait()

    @property
    def links(self) -> list[Link]:
        return [item for item in self.items if isinstance(item, Link)]

    @property
    def state(self) -> State:
        return apply_all(State(), self.items)


async def test_snapshot_then_events_without_a_gap() -> None:
    engine, watcher = FakeEngine((running(),)), Watcher()
    engine.change("rune-00000001", attempts=5)
    async with asyncio.TaskGroup() as group:
        task = group.create_task(Attachment(engine, watcher.take).run())
        await watcher.until(lambda _: bool(watcher.links))
        engine.change("rune-00000001", attempts=6)
        await watcher.until(lambda _: watcher.state.sessions["rune-00000001"].attempts == 6)
        assert watcher.state.sequence == 2
        task.cancel()


async def test_an_event_during_the_snapshot_is_not_lost() -> None:
    class Racing(FakeEngine):
        async def adapters(self, **query: object) -> tuple[object, ...]:  # type: ignore[override]
            self.change("rune-00000001", attempts=9)
            return ()

    engine, watcher = Racing((running(),)), Watcher()
    async with asyncio.TaskGroup() as group:
        task = group.create_task(Attachment(engine, watcher.take).run())  # pyright: ignore[reportArgumentType]
        await watcher.until(lambda _: watcher.state.loaded and watcher.state.sessions["rune-00000001"].attempts == 9)
        task.cancel()


async def test_backoff_grows_and_starts_again_after_success(monkeypatch: pytest.MonkeyPatch) -> None:
    """1, 2, 4, 8, 16, 30, 30 ... seconds, scaled down here."""
    assert RETRY_DELAYS_S == (1, 2, 4, 8, 16, 30)
    quick = tuple(delay / 1000 for delay in RETRY_DELAYS_S)
    monkeypatch.setattr(rune_tui.attach, "RETRY_DELAYS_S", quick)
    engine, watcher = FakeEngine(), Watcher()
    engine.down = True
    async with asyncio.TaskGroup() as group:
        task = group.create_task(Attachment(engine, watcher.take).run())
        await watcher.until(lambda _: len(watcher.links) == 8)
        assert [link.retry_in_s for link in watcher.links] == [*quick, quick[-1], quick[-1]]
        engine.down = False
        await watcher.until(lambda _: watcher.links[-1].state is LinkState.LIVE)
        engine.hang_up()
        await watcher.until(lambda _: watcher.links[-1].state is LinkState.RETRYING)
        lost = next(link for link in reversed(watcher.links) if link.state is LinkState.LIVE)
        after = watcher.links[watcher.links.index(lost) :]
        assert next(link for link in after if link.state is LinkState.RETRYING).retry_in_s == quick[0]
        task.cancel()


async def test_retry_now_does_not_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rune_tui.attach, "RETRY_DELAYS_S", (3600,))
    engine, watcher = FakeEngine(), Watcher()
    engine.down = True
    attachment = Attachment(engine, watcher.take)
    async with asyncio.TaskGroup() as group:
        task = group.create_task(attachment.run())
        await watcher.until(lambda _: len(watcher.links) == 1)
        engine.down = False
        attachment.retry_now()
        await watcher.until(lambda _: watcher.links[-1].state is LinkState.LIVE)
        attachment.retry_now()
        await watcher.until(lambda _: [link.state for link in watcher.links].count(LinkState.LIVE) == 2)
        task.cancel()


async def test_an_engine_that_talks_nonsense_is_only_retried() -> None:
    engine, watcher = FakeEngine(), Watcher()
    engine.fail_next = ValueError("not JSON")
    async with asyncio.TaskGroup() as group:
        task = group.create_task(Attachment(engine, watcher.take).run())
        await watcher.until(lambda _: bool(watcher.links))
        assert "Something unexpected happened (ValueError: not JSON)." in watcher.links[0].reason
        task.cancel()


async def test_a_long_queue_does_not_hide_what_runs() -> None:
    queued = tuple(session(f"rune-{number:05}", created_at=f"2026-02-{number:05}") for number in range(PAGE + 50))
    snapshot = await read_snapshot(FakeEngine((running("rune-run", created_at="2026-01"), *queued)))
    assert "rune-run" in {record.id for record in snapshot.sessions}


async def test_all_pages_of_adapters_are_read_and_the_archived_ones_too() -> None:
    many = tuple(adapter(f"a-{number}", is_archived=number % 3 == 0) for number in range(4 * PAGE + 1))
    assert len((await read_snapshot(FakeEngine(adapters=many))).adapters) == 4 * PAGE + 1


async def test_the_screen_keeps_what_it_knew_and_comes_back() -> None:
    engine = FakeEngine((running(),))
    async with attached(engine) as (app, pilot):
        await shows(pilot, "● live")
        engine.hang_up()
        await shows(pilot, "! not connected, again in")
        await shows(pilot, "sort-list")
        engine.down = False
        engine.records["rune-00000001"] = running(attempts=8)
        await pilot.press("f5")
        await shows(pilot, "● live")
        await shows(pilot, "×8")
        await until(pilot, lambda: not app.state.link.reason)


def test_reasons_are_plain() -> None:
    assert plain_reason(RuneError("Do this.")) == "Do this."
    assert plain_reason(OSError(28, "No space left on device", "/x")) == "/x: No space left on device."
