"""The runner: every way in which a session ends, and that no cancellation strands one."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from support.engine_parts import Parts
from support.engine_process import at_once, forever

from engine.api_models import FINAL_STATES, Outcome, RunState, SessionCreate, SessionRecord, TaskSpec
from engine.errors import ProviderError
from engine.runner import Ended, Runner, Work
from engine.sessions import Changes


@asynccontextmanager
async def running(parts: Parts, work: Work, limit: int = 1) -> AsyncIterator[Runner]:
    runner = Runner(parts.sessions, work, limit)
    async with asyncio.TaskGroup() as group:
        task = group.create_task(runner.run())
        try:
            yield runner
        finally:
            task.cancel()


async def create(parts: Parts, name: str = "t", run_id: str | None = None) -> str:
    record = await parts.sessions.create(SessionCreate(task=TaskSpec(id=name, prompt="x"), run_id=run_id))
    return record.id


async def until(parts: Parts, session_id: str, *states: RunState) -> SessionRecord:
    async with asyncio.timeout(60):
        async for _ in parts.journal.stream(session_id=session_id):
            record = await parts.sessions.get(session_id)
            if record.state in states:
                return record
    raise AssertionError("the stream ended")


async def test_what_work_returns_is_stored(parts: Parts) -> None:
    async def work(session: SessionRecord) -> Ended:
        return Ended(RunState.SUCCEEDED, "", Changes(outcome=Outcome.VERIFIED, code=session.task.prompt))

    async with running(parts, work) as runner:
        session_id = await create(parts)
        runner.wake()
        record = await until(parts, session_id, RunState.SUCCEEDED)
    assert (record.outcome, record.code) == (Outcome.VERIFIED, "x")


async def test_a_known_error_fails_the_session_with_its_sentence(parts: Parts) -> None:
    async def work(session: SessionRecord) -> Ended:
        raise ProviderError("The model server is gone.")

    session_id = await create(parts)
    async with running(parts, work):
        record = await until(parts, session_id, RunState.FAILED)
    assert (record.reason, record.outcome) == ("The model server is gone.", Outcome.ERROR)


async def test_an_unexpected_error_fails_the_session_alone_and_says_nothing_of_its_inside(
    parts: Parts, caplog: pytest.LogCaptureFixture
) -> None:
    async def work(session: SessionRecord) -> Ended:
        if session.task.id == "bad":
            raise ZeroDivisionError("secret detail")
        return Ended(RunState.SUCCEEDED)

    bad, good = await create(parts, "bad"), await create(parts, "good")
    async with running(parts, work):
        await until(parts, good, RunState.SUCCEEDED)
    record = await parts.sessions.get(bad)
    assert record.state is RunState.FAILED and "secret" not in record.reason
    assert "secret detail" in caplog.text


async def test_a_user_s_cancel_stops_running_work(parts: Parts) -> None:
    session_id = await create(parts)
    async with running(parts, forever) as runner:
        await until(parts, session_id, RunState.RUNNING)
        await parts.sessions.cancel(session_id)
        runner.cancel(session_id)
        record = await until(parts, session_id, RunState.CANCELLED)
    assert record.outcome is Outcome.CANCELLED


async def test_stopping_releases_what_runs(parts: Parts) -> None:
    alone, batch = await create(parts, "alone"), await create(parts, "batch", "run")
    async with running(parts, forever, limit=2):
        await until(parts, alone, RunState.RUNNING)
        await until(parts, batch, RunState.RUNNING)
    assert (await parts.sessions.get(alone)).state is RunState.QUEUED
    assert (await parts.sessions.get(batch)).state is RunState.INTERRUPTED


async def test_no_more_than_the_limit_run_side_by_side(parts: Parts) -> None:
    now = most = 0

    async def work(session: SessionRecord) -> Ended:
        nonlocal now, most
        now += 1
        most = max(most, now)
        await asyncio.sleep(0)
        now -= 1
        return Ended(RunState.SUCCEEDED)

    ids = [await create(parts, f"t{number}") for number in range(12)]
    async with running(parts, work, limit=3):
        for session_id in ids:
            await until(parts, session_id, RunState.SUCCEEDED)
    assert 1 <= most <= 3


async def test_c3_cancelled_at_any_moment_no_session_is_stranded(parts: Parts) -> None:
    """60 seeded cancellations around claim, work and finish: each ends, and never keeps a dead claim."""
    rng = random.Random(3)
    async with running(parts, at_once, limit=2) as runner:
        for number in range(60):
            session_id = await create(parts, f"t{number}")
            runner.wake()
            for _ in range(rng.randrange(40)):
                await asyncio.sleep(0)
            record = await parts.sessions.get(session_id)
            if record.state not in FINAL_STATES:
                try:
                    record = await parts.sessions.cancel(session_id)
                except Exception as error:  # it ended in the meantime
                    assert "nothing to cancel" in str(error)
                if record.state is RunState.RUNNING:
                    runner.cancel(session_id)
            record = await until(parts, session_id, RunState.SUCCEEDED, RunState.CANCELLED)
    counts = await parts.sessions.counts()
    assert counts[RunState.RUNNING] == counts[RunState.QUEUED] == 0


async def test_c3_stopped_at_any_moment_every_session_is_queued_or_done(parts: Parts) -> None:
    rng = random.Random(4)
    for number in range(40):
        await create(parts, f"t{number}")
        async with running(parts, at_once):
            for _ in range(rng.randrange(60)):
                await asyncio.sleep(0)
        counts = await parts.sessions.counts()
        assert counts[RunState.RUNNING] == 0
        assert counts[RunState.QUEUED] + counts[RunState.SUCCEEDED] == number + 1
