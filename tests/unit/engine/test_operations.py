"""Operations: queued, done by their handler, told of, cancelled, resumed, recovered (A81: nothing half stored)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

import pytest

from engine.api_learning import CheckSuiteRequest, Operation, OperationKind, OperationProgress
from engine.api_models import Event, Frozen, RunState
from engine.errors import ConflictError, InputError, LeaseLostError, NotFoundError
from engine.events import Bus, Journal, replay_state
from engine.jobs import MAX_CRASHES, Jobs
from engine.operation_rows import eta_seconds
from engine.operations import UNEXPECTED, Ended, Operations, Progress
from registry.clock import SeededClock
from registry.db import Database, Migrations

KIND = OperationKind.CHECK_SUITE
REQUEST = CheckSuiteRequest(suite="mine", seed=7)


class Answer(Frozen):
    word: str


Work = Callable[[Operation, Progress], Awaitable[Frozen]]


class Handling:
    """A handler that does what a test says, and tells when it was called."""

    def __init__(self, work: Work) -> None:
        self._work = work
        self.called = asyncio.Event()
        self.calls = 0

    async def run(self, operation: Operation, progress: Progress) -> Frozen:
        self.calls += 1
        self.called.set()
        return await self._work(operation, progress)


@dataclass
class House:
    db: Database
    journal: Journal
    clock: SeededClock

    def operations(self, owner: str = "engine-1", **handlers: Handling) -> Operations:
        """As one engine process sees them."""
        operations = Operations(self.db, Jobs(self.journal, self.clock, owner), self.journal, self.clock)
        for handler in handlers.values():
            operations.add_handler(KIND, handler)
        return operations

    async def said(self, operation_id: str) -> list[Event]:
        return [event for event in await self.journal.replay() if event.subject == f"operation/{operation_id}"]

    async def ended(self, operations: Operations, operation_id: str) -> Operation:
        async for item in self.journal.stream():
            if (
                isinstance(item, Event)
                and item.subject == f"operation/{operation_id}"
                and "finished_at" in item.payload
            ):
                found = await operations.get(operation_id)
                if found.finished_at is not None:
                    return found
        raise AssertionError("the stream ended")


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[House]:
    clock = SeededClock(1)
    db = await Database.open(tmp_path / "rune.db", (Migrations("engine", files("engine") / "migrations"),), clock)
    bus = Bus(1000)
    try:
        yield House(db, Journal(db, bus, clock, "engine"), clock)
    finally:
        bus.close()
        await db.close()


@asynccontextmanager
async def working(operations: Operations) -> AsyncGenerator[None]:
    async with asyncio.TaskGroup() as group:
        running = group.create_task(operations.run())
        yield
        running.cancel()


async def answering(operation: Operation, progress: Progress) -> Frozen:
    await progress(1, 2, "half")
    await progress(2, 2, "whole")
    return Answer(word=operation.request["suite"] if isinstance(operation.request["suite"], str) else "")


async def hanging(operation: Operation, progress: Progress) -> Frozen:
    await progress(1, 9)
    await asyncio.Event().wait()
    raise AssertionError("never")


async def test_an_operation_is_done_and_its_result_kept(house: House) -> None:
    operations = house.operations(handler=Handling(answering))
    async with working(operations):
        made = await operations.create(KIND, REQUEST)
        assert made.state is RunState.QUEUED and made.request == {"suite": "mine", "seed": 7}
        done = await house.ended(operations, made.id)
    assert (done.state, done.reason, done.result) == (RunState.SUCCEEDED, "", {"word": "mine"})
    assert done.progress == OperationProgress(done=2, total=2, eta_seconds=0.0, note="whole")
    assert done.started_at is not None
    (listed,) = await operations.page()
    assert listed == done.model_copy(update={"result": None})
    assert await operations.page(OperationKind.MERGE) == [] == await operations.page(state=RunState.FAILED)


async def test_the_journal_alone_tells_the_same(house: House) -> None:
    operations = house.operations(handler=Handling(answering))
    async with working(operations):
        made = await operations.create(KIND, REQUEST)
        done = await house.ended(operations, made.id)
    told = replay_state(await house.journal.replay())[f"operation/{made.id}"]
    expected = done.model_dump(mode="json", exclude={"result"})
    assert {name: told[name] for name in expected} == expected


@pytest.mark.parametrize(
    ("failure", "reason"),
    [(InputError("That cannot be."), "That cannot be."), (ValueError("secret detail"), UNEXPECTED)],
)
async def test_a_failure_has_a_reason_and_the_next_goes_on(house: House, failure: Exception, reason: str) -> None:
    async def failing(operation: Operation, progress: Progress) -> Frozen:
        if operation.request["seed"] == 7:
            raise failure
        return Answer(word="next")

    operations = house.operations(handler=Handling(failing))
    async with working(operations):
        bad = await operations.create(KIND, REQUEST)
        good = await operations.create(KIND, REQUEST.model_copy(update={"seed": 8}))
        done = await house.ended(operations, good.id)
    ended = await operations.get(bad.id)
    assert (ended.state, ended.reason, ended.result) == (RunState.FAILED, reason, None)
    assert done.state is RunState.SUCCEEDED
    with pytest.raises(ConflictError, match="succeeded"):
        await operations.resume(good.id)


async def test_a_running_operation_is_cancelled_and_can_be_resumed(house: House) -> None:
    handler = Handling(hanging)
    operations = house.operations(handler=handler)
    async with working(operations):
        made = await operations.create(KIND, REQUEST)
        await handler.called.wait()
        await operations.cancel(made.id)
        ended = await house.ended(operations, made.id)
        assert (ended.state, ended.reason) == (RunState.CANCELLED, "cancelled")
        assert ended.progress is not None and ended.progress.done == 1
        handler.called.clear()
        assert (await operations.resume(made.id)).state is RunState.QUEUED
        await handler.called.wait()
    assert handler.calls == 2
    assert (await operations.get(made.id)).state is RunState.QUEUED  # this engine stopped meanwhile


async def test_a_queued_operation_is_cancelled_at_once(house: House) -> None:
    operations = house.operations(handler=Handling(hanging))
    made = await operations.create(KIND, REQUEST)
    assert (await operations.cancel(made.id)).state is RunState.CANCELLED
    with pytest.raises(ConflictError):
        await operations.cancel(made.id)
    with pytest.raises(NotFoundError, match="operations list"):
        await operations.cancel("merge-0")


async def test_a_cancellation_between_the_claim_and_the_handler_is_heard(house: House) -> None:
    handler = Handling(hanging)
    operations = house.operations(handler=handler)
    made = await operations.create(KIND, REQUEST)
    real = operations.claim

    async def claim_then_cancel(kind: OperationKind) -> object:
        claimed = await real(kind)
        if claimed is not None:
            await operations.cancel(made.id)  # the worker does not know yet that it has it
        return claimed

    operations.claim = claim_then_cancel  # pyright: ignore[reportAttributeAccessIssue]  # a place that no clock reaches
    async with working(operations):
        assert (await house.ended(operations, made.id)).state is RunState.CANCELLED
    assert handler.calls == 0


async def test_an_engine_that_stops_queues_what_runs_again(house: House) -> None:
    handler = Handling(hanging)
    operations = house.operations(handler=handler)
    async with working(operations):
        made = await operations.create(KIND, REQUEST)
        await handler.called.wait()
    left = await operations.get(made.id)
    assert (left.state, left.reason) == (RunState.QUEUED, "the engine stopped")
    again = house.operations("engine-2", handler=Handling(answering))
    async with working(again):
        assert (await house.ended(again, made.id)).result == {"word": "mine"}


async def test_a_dead_engines_operation_is_queued_again_but_not_for_ever(house: House) -> None:
    made = await house.operations(handler=Handling(hanging)).create(KIND, REQUEST)
    for crash in range(1, MAX_CRASHES + 1):
        dead = house.operations(f"engine-{crash}")
        assert await dead.claim(KIND) is not None
        (moved,) = await house.operations(f"engine-{crash + 1}").recover()
        assert moved.state is (RunState.INTERRUPTED if crash == MAX_CRASHES else RunState.QUEUED)
        told = replay_state(await house.journal.replay())[f"operation/{made.id}"]
        assert told["state"] == moved.state and told["reason"] == "the engine died while it ran"


async def test_a_result_of_a_lost_claim_changes_nothing(house: House) -> None:
    dead = house.operations("dead", handler=Handling(hanging))
    made = await dead.create(KIND, REQUEST)
    claimed = await dead.claim(KIND)
    assert claimed is not None
    await house.operations("next").recover()
    with pytest.raises(LeaseLostError):
        await dead.finish(claimed[0], Ended(RunState.SUCCEEDED, "", {"word": "late"}))
    await dead.progress(claimed[0], OperationProgress(done=1, total=1))
    left = await dead.get(made.id)
    assert (left.state, left.result, left.progress) == (RunState.QUEUED, None, None)


async def test_a_kind_that_nobody_does_is_refused(house: House) -> None:
    operations = house.operations()
    with pytest.raises(ConflictError, match="merge"):
        await operations.create(OperationKind.MERGE, REQUEST)
    assert await operations.page() == []


async def test_progress_is_stored_now_and_then_and_never_waits(house: House) -> None:
    """A handler that reports a thousand times in a row is told of twice at most before its end."""

    async def busy(operation: Operation, progress: Progress) -> Frozen:
        for number in range(1000):
            await progress(number, 1000)
        return Answer(word="done")

    operations = house.operations(handler=Handling(busy))
    async with working(operations):
        made = await operations.create(KIND, REQUEST)
        done = await house.ended(operations, made.id)
    assert done.progress is not None and done.progress.done == 999
    assert len([event for event in await house.said(made.id) if "done" in event.payload]) <= 2


def test_the_time_left_is_of_this_runs_pace_alone() -> None:
    assert eta_seconds(0, 10, 5.0) is None
    assert eta_seconds(5, 10, 5.0) == 10.0
    assert eta_seconds(5, 0, 5.0) == 0.0
