"""The worker: order, stopping at every moment, and that every claimed job is settled (A50, A53, A56, A93)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from support.training_house import House, open_house
from support.training_seat import EmptySeat

from engine.api_models import FINAL_STATES, RunState
from engine.api_training import TrainJob
from engine.errors import ModelNotFoundError
from engine.training.jobs import PAUSED, Claimed
from engine.training.trainer import JobTrainer
from engine.training.worker import TrainingWorker

DONE = (["steps", 2, 0], ["adapter", 1], ["end"], ["exit", 0])
PLENTY_S = 90.0


@dataclass
class Shop:
    house: House
    seat: EmptySeat
    plays: dict[str, tuple[object, ...]] = field(default_factory=dict)
    """By adapter id."""
    before: Callable[[Claimed], Awaitable[None]] | None = None

    def __post_init__(self) -> None:
        self.worker = TrainingWorker(self.house.jobs, self.prepare, self.seat)

    async def prepare(self, claimed: Claimed) -> JobTrainer:
        if self.before is not None:
            await self.before(claimed)
        return await self.house.trainer_of(claimed, *self.plays.get(claimed.job.adapter_id, DONE))

    async def ended(self, job_id: str, *states: RunState) -> TrainJob:
        wanted = states or tuple(FINAL_STATES)
        async with asyncio.timeout(PLENTY_S):
            async for _ in self.house.journal.stream():
                job = await self.house.jobs.get(job_id)
                if job.state in wanted:
                    return job
        raise AssertionError("the stream ended")


@pytest.fixture
async def shop(tmp_path: Path) -> AsyncIterator[Shop]:
    async with open_house(tmp_path, "device.trainer_grace_s=5", "device.heartbeat_s=10") as house:
        yield Shop(house, EmptySeat())


@asynccontextmanager
async def working(shop: Shop) -> AsyncIterator[asyncio.Task[None]]:
    async with asyncio.TaskGroup() as group:
        task = group.create_task(shop.worker.run())
        yield task
        task.cancel()


async def test_a50_jobs_run_in_the_order_that_their_user_decided(shop: Shop) -> None:
    first, second = await shop.house.enqueue(), await shop.house.enqueue()
    await shop.house.jobs.move(second.id, 1)
    async with working(shop):
        assert (await shop.ended(first.id)).state is RunState.SUCCEEDED
        third = await shop.house.enqueue()
        shop.worker.wake()
        assert (await shop.ended(third.id)).state is RunState.SUCCEEDED
    assert shop.seat.order == [second.id, first.id, third.id]


async def test_a_job_that_cannot_be_prepared_fails_and_the_next_one_runs(shop: Shop) -> None:
    async def no_model(claimed: Claimed) -> None:
        if claimed.job.adapter_id == "bad":
            raise ModelNotFoundError("model.path: there is no such file.")
        if claimed.job.adapter_id == "bug":
            raise RuntimeError("a bug")

    shop.before = no_model
    bad, bug, good = [await shop.house.enqueue(adapter_id=name) for name in ("bad", "bug", "good")]
    async with working(shop):
        assert (await shop.ended(good.id)).state is RunState.SUCCEEDED
    failed = [await shop.house.jobs.get(job.id) for job in (bad, bug)]
    assert [job.state for job in failed] == [RunState.FAILED] * 2
    assert failed[0].reason == "model.path: there is no such file." and "log" in failed[1].reason
    assert shop.seat.order == [good.id]


async def test_memory_that_is_not_proven_fails_the_job_with_the_numbers(shop: Shop) -> None:
    shop.seat.refuse = "9000 MiB are needed and 100 are free"
    job = await shop.house.enqueue()
    async with working(shop):
        assert (await shop.ended(job.id)).reason == shop.seat.refuse


@pytest.mark.parametrize("wish", ["cancel", "pause"])
async def test_a_wish_while_it_is_prepared_ends_it_at_once(shop: Shop, wish: str) -> None:
    preparing = asyncio.Event()

    async def for_ever(claimed: Claimed) -> None:
        preparing.set()
        await asyncio.Event().wait()

    shop.before = for_ever
    job = await shop.house.enqueue()
    async with working(shop):
        async with asyncio.timeout(PLENTY_S):
            await preparing.wait()
        await getattr(shop.house.jobs, wish)(job.id)
        shop.worker.stop(job.id)
        ended = await shop.ended(job.id)
    assert (ended.state, ended.reason) == (
        (RunState.CANCELLED, "cancelled") if wish == "cancel" else (RunState.INTERRUPTED, PAUSED)
    )
    assert shop.seat.order == []


async def test_a_wish_in_the_moment_of_the_claim_is_not_lost(shop: Shop) -> None:
    """The row says it and nobody could be told: the worker looks before it asks for the device."""

    async def wished(claimed: Claimed) -> None:
        await shop.house.jobs.cancel(claimed.job.id)  # without `stop`

    shop.before = wished
    job = await shop.house.enqueue()
    async with working(shop):
        assert (await shop.ended(job.id)).state is RunState.CANCELLED
    assert shop.seat.order == []


async def test_a56_cancelling_a_running_job_ends_its_trainer(shop: Shop) -> None:
    shop.plays["a"] = (["steps", 1, 0], ["wait"])
    job, following = await shop.house.enqueue(adapter_id="a"), await shop.house.enqueue(adapter_id="b")
    async with working(shop):
        async with asyncio.timeout(PLENTY_S):
            await shop.seat.taken.wait()
        await shop.house.jobs.cancel(job.id)
        shop.worker.stop(job.id)
        assert (await shop.ended(job.id)).state is RunState.CANCELLED
        assert (await shop.ended(following.id)).state is RunState.SUCCEEDED
    shop.worker.stop(job.id)  # harmless when it runs no more


async def test_pause_and_resume_go_on_from_the_checkpoint(shop: Shop) -> None:
    shop.plays["a"] = (["steps", 1, 0], ["wait"])
    job = await shop.house.enqueue(adapter_id="a")
    async with working(shop):
        async with asyncio.timeout(PLENTY_S):
            await shop.seat.taken.wait()
            while (await shop.house.jobs.get(job.id)).progress is None:
                await anext(shop.house.journal.stream(await shop.house.journal.last_sequence()))
        await shop.house.jobs.pause(job.id)
        shop.worker.stop(job.id)
        assert (await shop.ended(job.id)).reason == PAUSED
        assert [path.name async for path in checkpoints(shop, job)] == ["step"]
        shop.plays["a"] = DONE
        await shop.house.jobs.resume(job.id)
        shop.worker.wake()
        assert (await shop.ended(job.id, RunState.SUCCEEDED)).state is RunState.SUCCEEDED


async def checkpoints(shop: Shop, job: TrainJob) -> AsyncIterator[Path]:
    root = shop.house.home / "training" / "jobs" / job.id / "checkpoints"
    for path in await asyncio.to_thread(lambda: sorted(root.iterdir())):
        yield path


async def test_a93_an_engine_that_stops_leaves_the_job_queued_and_claims_no_other(shop: Shop) -> None:
    shop.seat.stops = True
    job, other = await shop.house.enqueue(), await shop.house.enqueue()
    async with asyncio.timeout(PLENTY_S):
        await shop.worker.run()
    assert await shop.house.queued() == [job.id, other.id]
    assert shop.seat.order == [job.id]


async def test_a93_a_worker_that_is_cancelled_while_it_prepares_leaves_the_job_queued(shop: Shop) -> None:
    preparing = asyncio.Event()

    async def for_ever(claimed: Claimed) -> None:
        preparing.set()
        await asyncio.Event().wait()

    shop.before = for_ever
    job = await shop.house.enqueue()
    async with working(shop), asyncio.timeout(PLENTY_S):
        await preparing.wait()
    assert (await shop.house.jobs.get(job.id)).state is RunState.QUEUED


async def test_what_is_only_to_be_published_does_not_ask_for_the_device(shop: Shop) -> None:
    trainer, _ = await shop.house.trainer(*DONE, adapter_id="mine")
    await trainer.run(1)
    after = Shop(await shop.house.recovered("second"), EmptySeat())
    async with working(after):
        assert (await after.ended(trainer.job_id)).state is RunState.SUCCEEDED
    assert after.seat.order == []


async def test_control_a_worker_that_drops_an_end_leaves_the_job_running_for_ever(shop: Shop) -> None:
    """Negative control: without `close` after the device's answer, a refused job is never settled."""
    trainer, _ = await shop.house.trainer(*DONE)
    shop.seat.refuse = "no"
    await shop.seat.train(trainer)
    assert (await shop.house.jobs.get(trainer.job_id)).state is RunState.RUNNING
