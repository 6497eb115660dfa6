"""The durable queue: claims, fences, recovery (A51, A95, C3)."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from typing import Any

import pytest
from support.engine_parts import Parts

from engine.api_models import RunState
from engine.errors import ConflictError, LeaseLostError, NotFoundError
from engine.jobs import LEGAL, MAX_CRASHES, Claim, Job, Jobs, OnCrash
from registry.db import Transaction


async def put(parts: Parts, *ids: str, on_crash: OnCrash = OnCrash.REQUEUE) -> None:
    for job_id in ids:
        await parts.db.write(lambda tx, job_id=job_id: parts.jobs.enqueue(tx, job_id, "test", on_crash))


async def claim(parts: Parts, jobs: Jobs | None = None) -> Claim | None:
    return await parts.db.write(lambda tx: (jobs or parts.jobs).claim(tx, "test"))


async def look(parts: Parts, job_id: str) -> Job:
    return await parts.db.read(lambda reader: parts.jobs.get(reader, job_id))


async def finish(parts: Parts, held: Claim | None, state: RunState = RunState.SUCCEEDED) -> None:
    assert held is not None
    await parts.db.write(lambda tx: parts.jobs.finish(tx, held, state, "done"))


async def test_jobs_run_in_the_order_in_which_they_came_and_only_their_kind(parts: Parts) -> None:
    await parts.db.write(lambda tx: parts.jobs.enqueue(tx, "other", "else", OnCrash.WAIT))
    await put(parts, "a", "b")
    claims = [await claim(parts) for _ in range(3)]
    assert claims == [Claim("a", "first", 1), Claim("b", "first", 1), None]


async def test_a95_a_hundred_claims_at_once_take_each_job_once(parts: Parts) -> None:
    await put(parts, *(f"job{number}" for number in range(30)))
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(claim(parts)) for _ in range(100)]
    taken = [task.result().job_id for task in tasks if task.result() is not None]  # type: ignore[union-attr]
    assert sorted(taken) == sorted(f"job{number}" for number in range(30))


async def test_finish_is_fenced_by_owner_attempt_and_state(parts: Parts) -> None:
    await put(parts, "a")
    held = await claim(parts)
    assert held is not None
    for stale in (Claim("a", "second", 1), Claim("a", "first", 2), Claim("b", "first", 1)):
        with pytest.raises(LeaseLostError):
            await finish(parts, stale)
    await finish(parts, held)
    with pytest.raises(LeaseLostError):
        await finish(parts, held, RunState.FAILED)
    job = await look(parts, "a")
    assert (job.state, job.reason, job.owner) == (RunState.SUCCEEDED, "done", None)


async def test_control_an_unfenced_finish_overwrites_another_engine_s_job(parts: Parts) -> None:
    """Negative control: without the fence the late result of a dead engine lands in the job of a live one."""
    await put(parts, "a")
    await claim(parts)
    second = Jobs(parts.journal, parts.clock, "second")
    await parts.db.write(second.recover)
    await claim(parts, second)
    await parts.db.write(lambda tx: tx.execute("UPDATE jobs SET state = 'failed', owner = NULL WHERE id = 'a'"))
    assert (await look(parts, "a")).state is RunState.FAILED


async def test_cancel_of_a_queued_job_is_immediate_and_of_a_running_one_a_request(parts: Parts) -> None:
    await put(parts, "a", "b")
    held = await claim(parts)
    for job_id in ("a", "a", "b"):
        await parts.db.write(lambda tx, job_id=job_id: parts.jobs.cancel(tx, job_id))
    running, cancelled = await look(parts, "a"), await look(parts, "b")
    assert (running.state, running.cancel_requested) == (RunState.RUNNING, True)
    assert (cancelled.state, cancelled.finished_at is not None) == (RunState.CANCELLED, True)
    await finish(parts, held, RunState.CANCELLED)
    with pytest.raises(ConflictError):
        await parts.db.write(lambda tx: parts.jobs.cancel(tx, "a"))
    with pytest.raises(NotFoundError):
        await parts.db.write(lambda tx: parts.jobs.cancel(tx, "nobody"))


@pytest.mark.parametrize("state", [RunState.FAILED, RunState.CANCELLED, RunState.INTERRUPTED])
async def test_resume_keeps_the_place_in_the_queue_and_counts_attempts(parts: Parts, state: RunState) -> None:
    await put(parts, "a", "b")
    await finish(parts, await claim(parts), state)
    await parts.db.write(lambda tx: parts.jobs.resume(tx, "a"))
    assert await claim(parts) == Claim("a", "first", 2)


async def test_what_is_queued_running_or_succeeded_does_not_resume(parts: Parts) -> None:
    await put(parts, "a")
    for _ in range(2):
        with pytest.raises(ConflictError):
            await parts.db.write(lambda tx: parts.jobs.resume(tx, "a"))
        held = await claim(parts)
    with pytest.raises(ConflictError):
        await parts.db.write(lambda tx: parts.jobs.resume(tx, "a"))
    del held


async def test_recovery_requeues_what_restarts_and_interrupts_what_waits(parts: Parts) -> None:
    await put(parts, "restarts")
    await put(parts, "waits", "waits-too", on_crash=OnCrash.WAIT)
    await claim(parts)
    await claim(parts)
    moved = await parts.db.write(Jobs(parts.journal, parts.clock, "second").recover)
    assert {job.id: job.state for job in moved} == {
        "restarts": RunState.QUEUED,
        "waits": RunState.INTERRUPTED,
        "waits-too": RunState.INTERRUPTED,
    }
    assert await parts.db.write(Jobs(parts.journal, parts.clock, "third").recover) == []


async def test_recovery_honours_a_cancel_that_the_dead_engine_did_not(parts: Parts) -> None:
    await put(parts, "a")
    await claim(parts)
    await parts.db.write(lambda tx: parts.jobs.cancel(tx, "a"))
    [job] = await parts.db.write(parts.jobs.recover)
    assert (job.state, job.cancel_requested) == (RunState.CANCELLED, False)


async def test_a_job_that_keeps_killing_its_engine_is_interrupted(parts: Parts) -> None:
    await put(parts, "poison")
    states: list[RunState] = []
    for number in range(MAX_CRASHES):
        await claim(parts)
        moved = await parts.db.write(Jobs(parts.journal, parts.clock, f"engine{number}").recover)
        states += [job.state for job in moved]
    assert states == [RunState.QUEUED] * (MAX_CRASHES - 1) + [RunState.INTERRUPTED]


async def test_release_gives_up_only_what_this_engine_holds_and_is_no_crash(parts: Parts) -> None:
    await put(parts, "a", "b")
    await claim(parts)
    second = Jobs(parts.journal, parts.clock, "second")
    await claim(parts, second)
    released = await parts.db.write(second.release_all)
    assert [(job.id, job.state, job.crashes) for job in released] == [("b", RunState.QUEUED, 0)]
    assert (await look(parts, "a")).state is RunState.RUNNING


async def test_heartbeats_say_which_claims_are_gone_and_write_no_event(parts: Parts) -> None:
    await put(parts, "a")
    held = await claim(parts)
    assert held is not None
    before = await parts.journal.last_sequence()
    assert await parts.db.write(lambda tx: parts.jobs.heartbeat(tx, held))
    assert not await parts.db.write(lambda tx: parts.jobs.heartbeat(tx, Claim("a", "second", 1)))
    assert await parts.journal.last_sequence() == before


def test_illegal_transitions_are_assertions() -> None:
    assert set(LEGAL) == set(RunState)
    assert not LEGAL[RunState.SUCCEEDED]


async def test_a_jump_that_is_not_in_the_table_is_refused(parts: Parts) -> None:
    await put(parts, "a")
    held = await claim(parts)
    assert held is not None
    await finish(parts, held)
    job = await look(parts, "a")
    with pytest.raises(AssertionError, match="not a transition"):
        await parts.db.write(lambda tx: parts.jobs._move(tx, job, state=RunState.RUNNING))


async def test_c3_cancelled_at_any_moment_a_write_is_before_or_after_never_between(parts: Parts) -> None:
    """300 seeded cancellations in claim, finish, cancel and resume: rows and journal agree each time."""
    rng = random.Random(1)
    await put(parts, *(f"job{number}" for number in range(300)))
    for number in range(300):
        held = await claim(parts)
        assert held is not None and held.job_id == f"job{number}"
        task = asyncio.ensure_future(parts.db.write(_any_of(parts, held, rng)))
        for _ in range(rng.randrange(6)):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])
        job = await look(parts, held.job_id)
        recent = await parts.journal.replay(await parts.journal.last_sequence() - 8)
        events = [event for event in recent if event.subject == f"job/{job.id}"]
        assert events[-1].payload["state"] == job.state
        if job.state is RunState.RUNNING:
            await finish(parts, held)
    assert await claim(parts) is None


def _any_of(parts: Parts, held: Claim, rng: random.Random) -> Callable[[Transaction], Any]:
    return rng.choice(
        [
            lambda tx: parts.jobs.finish(tx, held, RunState.FAILED, "x"),
            lambda tx: parts.jobs.cancel(tx, held.job_id),
            lambda tx: (parts.jobs.finish(tx, held, RunState.CANCELLED, "x"), tx.execute("SELECT 1")),
        ]
    )
