"""The training queue: order, pause, cancel, retry, recovery (A50, A51, A52, A95)."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from pydantic import JsonValue
from support.training_house import House, open_house

from engine.api_models import RunState
from engine.api_training import TrainProgress
from engine.errors import ConflictError, LeaseLostError, NotFoundError
from engine.events import replay_state
from engine.jobs import MAX_CRASHES
from engine.training.ending import Ending, decide
from engine.training.job_rows import Speed
from engine.training.jobs import PAUSED
from registry.errors import AdapterAlreadyExists
from registry.models import NewAdapter, Source
from registry.samples import write_sample


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[House]:
    async with open_house(tmp_path) as opened:
        yield opened


def step(job_id: str, number: int) -> TrainProgress:
    return TrainProgress(
        job_id=job_id, step=number, steps=9, loss=1.0, learning_rate=1e-4, grad_norm=1.0, tokens_per_second=10.0,
        memory_mib=1, eta_seconds=1.0,
    )  # fmt: skip


async def test_a50_a_job_is_queued_then_running_then_ended(house: House) -> None:
    job = await house.enqueue(adapter_id="mine", seed=7)
    assert (job.state, job.position, job.adapter_id, job.request.seed) == (RunState.QUEUED, 1, "mine", 7)
    claimed = await house.claimed()
    assert (claimed.job.id, claimed.job.state, claimed.job.position) == (job.id, RunState.RUNNING, None)
    assert claimed.recipe == house.config.recipe("standard") and not claimed.from_scratch
    await house.jobs.settle(claimed.claim, Ending.SUCCEEDED, "", {"final_loss": 0.5})
    done = await house.jobs.get(job.id)
    assert (done.state, done.reason, done.metrics) == (RunState.SUCCEEDED, "", {"final_loss": 0.5})
    with pytest.raises(NotFoundError, match="train-none"):
        await house.jobs.get("train-none")


async def test_the_queue_keeps_its_order_and_can_be_reordered(house: House) -> None:
    a, b, c, d = [(await house.enqueue()).id for _ in range(4)]
    assert await house.queued() == [a, b, c, d]
    assert (await house.jobs.move(d, 1)).position == 1
    assert await house.queued() == [d, a, b, c]
    await house.jobs.move(a, 3)
    assert await house.queued() == [d, b, a, c]
    assert (await house.jobs.move(d, 99)).position == 4
    assert await house.queued() == [b, a, c, d]
    await house.jobs.move(b, 1)
    order = [(await house.claimed()).job.id for _ in range(4)]
    assert order == [b, a, c, d]
    assert await house.jobs.claim() is None
    with pytest.raises(ConflictError, match="running"):
        await house.jobs.move(a, 1)


async def test_moving_between_the_same_two_for_ever_never_runs_out_of_places(house: House) -> None:
    """A place is a number between two others, and halves run out after some fifty: then all are numbered anew."""
    first, x, y, last = [(await house.enqueue()).id for _ in range(4)]
    for _ in range(60):
        await house.jobs.move(y, 2)
        assert await house.queued() == [first, y, x, last]
        await house.jobs.move(x, 2)
        assert await house.queued() == [first, x, y, last]


async def test_a51_a_running_job_whose_engine_died_is_queued_again_in_its_place(house: House) -> None:
    first, second = await house.enqueue(), await house.enqueue()
    await house.claimed()
    after = await house.recovered("second")
    assert await after.queued() == [first.id, second.id]
    assert (await after.jobs.get(first.id)).reason == "the engine died while it ran"
    claimed = await after.claimed()
    assert claimed.job.id == first.id and claimed.claim.attempt == 2


async def test_a52_the_result_of_a_dead_engine_changes_nothing(house: House) -> None:
    await house.enqueue()
    stale = await house.claimed()
    after = await house.recovered("second")
    mine = await after.claimed()
    with pytest.raises(LeaseLostError):
        await house.jobs.settle(stale.claim, Ending.SUCCEEDED, "", {"final_loss": 9.0})
    await house.jobs.progress(stale.claim, step(stale.job.id, 5))
    job = await after.jobs.get(mine.job.id)
    assert (job.state, job.metrics, job.progress) == (RunState.RUNNING, {}, None)


async def test_pause_of_a_queued_job_is_immediate_and_of_a_running_one_a_wish(house: House) -> None:
    job = await house.enqueue()
    assert (await house.jobs.pause(job.id)).reason == PAUSED
    assert await house.jobs.claim() is None
    await house.jobs.resume(job.id)
    claimed = await house.claimed()
    assert (await house.jobs.pause(job.id)).state is RunState.RUNNING
    await house.jobs.settle(claimed.claim, Ending.STOPPED, "stopped", None)
    paused = await house.jobs.get(job.id)
    assert (paused.state, paused.reason) == (RunState.INTERRUPTED, PAUSED)
    assert (await house.jobs.resume(job.id)).position == 1
    again = await house.claimed()
    await house.jobs.settle(again.claim, Ending.STOPPED, "the engine stopped", None)
    assert (await house.jobs.get(job.id)).state is RunState.QUEUED, "the wish to pause was fulfilled and is over"


async def test_a_pause_outlives_the_engine_that_was_to_fulfil_it(house: House) -> None:
    job = await house.enqueue()
    await house.claimed()
    await house.jobs.pause(job.id)
    after = await house.recovered("second")
    assert (await after.jobs.get(job.id)).reason == PAUSED
    assert await after.jobs.claim() is None


async def test_cancel_then_retry_starts_over_and_resume_goes_on(house: House) -> None:
    job = await house.enqueue()
    assert (await house.jobs.cancel(job.id)).state is RunState.CANCELLED
    await house.jobs.resume(job.id)
    claimed = await house.claimed()
    assert not claimed.from_scratch
    await house.jobs.progress(claimed.claim, step(job.id, 4))
    await house.jobs.cancel(job.id)
    await house.jobs.settle(claimed.claim, Ending.CRASHED, "SIGKILL", None)
    assert (await house.jobs.get(job.id)).state is RunState.CANCELLED
    again = await house.jobs.resume(job.id, from_scratch=True)
    assert again.progress is None
    claimed = await house.claimed()
    assert claimed.from_scratch
    await house.jobs.begun(claimed.claim, "b" * 64)
    await house.jobs.settle(claimed.claim, Ending.STOPPED, "", None)
    claimed = await house.claimed()
    assert not claimed.from_scratch, "what the new start left is continued"
    await house.jobs.settle(claimed.claim, Ending.SUCCEEDED, "", {})
    for change in (house.jobs.cancel, house.jobs.pause, house.jobs.resume):
        with pytest.raises(ConflictError):
            await change(job.id)


async def test_a_job_that_crashes_again_and_again_waits_for_its_user(house: House) -> None:
    job = await house.enqueue()
    for _ in range(MAX_CRASHES):
        claimed = await house.claimed()
        await house.jobs.settle(claimed.claim, Ending.CRASHED, "The trainer was ended by SIGKILL at step 2.", None)
    ended = await house.jobs.get(job.id)
    assert (ended.state, "SIGKILL" in ended.reason) == (RunState.INTERRUPTED, True)


@pytest.mark.parametrize("ending", Ending)
@pytest.mark.parametrize("cancel", [False, True])
@pytest.mark.parametrize("pause", [False, True])
def test_the_table_of_endings(ending: Ending, cancel: bool, pause: bool) -> None:
    state = decide(ending, cancel=cancel, pause=pause)
    if ending is Ending.SUCCEEDED:
        assert state is RunState.SUCCEEDED
    elif cancel:
        assert state is RunState.CANCELLED
    elif ending is Ending.FAILED:
        assert state is RunState.FAILED
    else:
        assert state is (RunState.INTERRUPTED if pause else None)


async def test_an_adapter_s_id_is_promised_to_one_job_only(house: House, tmp_path: Path) -> None:
    job = await house.enqueue(adapter_id="Mine")
    with pytest.raises(ConflictError, match=job.id):
        await house.enqueue(adapter_id="mine")
    await house.jobs.cancel(job.id)
    other = await house.enqueue(adapter_id="mine")
    with pytest.raises(ConflictError, match=other.id):
        await house.jobs.resume(job.id)
    assert (await house.jobs.get(job.id)).state is RunState.CANCELLED, "a refused resume changes nothing"
    await house.jobs.cancel(other.id)
    sample = await asyncio.to_thread(write_sample, tmp_path / "sample")
    await house.registry.publish(sample, NewAdapter(id="mine", task_type="x", source=Source.MANUAL))
    with pytest.raises(AdapterAlreadyExists):
        await house.enqueue(adapter_id="mine")
    with pytest.raises(AdapterAlreadyExists):
        await house.jobs.resume(job.id)


async def test_a91_the_log_replays_to_the_rows(house: House) -> None:
    jobs = [await house.enqueue(adapter_id=f"a{number}") for number in range(4)]
    await house.jobs.move(jobs[3].id, 1)
    claimed = await house.claimed()
    await house.jobs.begun(claimed.claim, "b" * 64)
    await house.jobs.progress(claimed.claim, step(claimed.job.id, 3))
    await house.jobs.shrink(claimed.claim, 2)
    await house.jobs.settle(claimed.claim, Ending.SUCCEEDED, "", {"final_loss": 0.5})
    await house.jobs.cancel(jobs[1].id)
    await house.jobs.pause(jobs[2].id)
    state = replay_state(await house.journal.replay())
    for job in jobs:
        now = (await house.jobs.get(job.id)).model_dump(mode="json", exclude={"position", "progress"})
        seen = state[f"training/{job.id}"]
        assert {name: seen[name] for name in now} == now
    assert state[f"training/{claimed.job.id}"]["step"] == 3


async def test_pages_have_the_running_first_then_the_queue_then_the_past(house: House) -> None:
    ids = [(await house.enqueue()).id for _ in range(5)]
    await house.jobs.cancel(ids[0])
    await house.jobs.cancel(ids[1])
    running = (await house.claimed()).job.id
    assert running == ids[2]
    assert [job.id for job in await house.jobs.page()] == [ids[2], ids[3], ids[4], ids[1], ids[0]]
    assert [job.id for job in await house.jobs.page(limit=2, offset=2)] == [ids[4], ids[1]]
    assert [job.id for job in await house.jobs.page(RunState.QUEUED)] == [ids[3], ids[4]]
    counts = await house.jobs.counts()
    assert (counts[RunState.QUEUED], counts[RunState.CANCELLED], counts[RunState.FAILED]) == (2, 2, 0)


async def test_a95_claims_at_once_take_each_job_once(house: House) -> None:
    ids = {(await house.enqueue()).id for _ in range(10)}
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(house.jobs.claim()) for _ in range(30)]
    taken = [task.result() for task in tasks]
    assert sorted(one.job.id for one in taken if one is not None) == sorted(ids)


async def test_a_job_whose_recipe_cannot_be_read_fails_and_the_next_one_is_taken(house: House) -> None:
    bad, good = await house.enqueue(), await house.enqueue()
    recipe = json.dumps({**bad.recipe, "alpha": 8192.0})
    await house.db.write(lambda tx: tx.execute("UPDATE training_jobs SET recipe = ? WHERE id = ?", (recipe, bad.id)))
    assert (await house.claimed()).job.id == good.id
    failed = await house.jobs.get(bad.id)
    assert failed.state is RunState.FAILED and "alpha = 8192.0" in failed.reason
    assert (await house.events(f"training/{bad.id}"))[-1]["state"] == "failed"
    assert await house.jobs.claim() is None


async def test_speed_is_learned_from_jobs_of_the_same_method_and_base(house: House) -> None:
    assert await house.jobs.latest_speed("qlora", "b" * 64) is None
    for speed in (100.0, 250.0):
        await house.enqueue()
        claimed = await house.claimed()
        await house.jobs.begun(claimed.claim, "b" * 64)
        metrics: dict[str, JsonValue] = {"tokens_per_second": speed, "start_seconds": 4.0}
        await house.jobs.settle(claimed.claim, Ending.SUCCEEDED, "", metrics)
    assert await house.jobs.latest_speed("qlora", "b" * 64) == Speed(250.0, 4.0)
    assert await house.jobs.latest_speed("lora", "b" * 64) is None
    assert await house.jobs.latest_speed("qlora", "c" * 64) is None
