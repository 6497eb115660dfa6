"""The control "one parent trained on": a job of the real queue, on the parent's own data, taken back when cancelled."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from support.training_house import House, open_house
from support.training_seat import EmptySeat

from engine.api_models import RunState
from engine.api_training import TrainJob
from engine.errors import InputError, NotFoundError, TrainingError
from engine.evolution.improve_steps import TrainingSteps
from engine.evolution.learned import Learned
from engine.evolution.schooling import TrainingSchool
from engine.sessions import Sessions
from engine.training.dataset import DataStore
from engine.training.ending import Ending
from engine.training.preview import Room
from engine.training.service import TrainingService, Trajectories
from engine.training.trainer import Parts
from engine.training.trajectories import TrajectoryStore
from registry.models import NewAdapter, Source
from registry.samples import write_sample


@dataclass
class Desk:
    house: House
    service: TrainingService
    school: TrainingSchool

    async def parent(self) -> TrainJob:
        """A job that made `p`, and `p`."""
        job = await self.house.enqueue(adapter_id="p", task_type="sort")
        claimed = await self.house.claimed()
        await self.house.jobs.settle(claimed.claim, Ending.SUCCEEDED, "", None)
        base = self.house.config.model.base_id
        place = self.house.home / "p"
        await asyncio.to_thread(write_sample, place, base_model_id=base)
        await self.house.registry.publish(place, NewAdapter("p", "sort", Source.QLORA))
        return job

    async def queued(self) -> TrainJob:
        """The job that makes the control, once it waits."""
        async for _ in self.house.journal.stream():
            for job in await self.house.jobs.page():
                if job.adapter_id == "control" and job.state is RunState.QUEUED:
                    return job
        raise AssertionError("the journal ended")

    def training(self) -> asyncio.Task[str]:
        return asyncio.ensure_future(self.school.train_on("p", "control", tell_nobody))


async def tell_nobody(done: int, total: int, note: str = "") -> None:
    """Nobody watches."""


async def no_room() -> Room:
    return Room(free_mib=8000, margin_mib=500)


@pytest.fixture
async def desk(tmp_path: Path) -> AsyncIterator[Desk]:
    async with open_house(tmp_path / "home", "train.batch_size=2") as house:
        parts = Parts(house.config, house.home, house.jobs, house.registry, house.clock, lambda: None)
        sessions = Sessions(house.db, house.queue, house.journal, house.clock)
        trajectories = Trajectories(sessions, TrajectoryStore(house.db, house.journal, house.clock))
        service = TrainingService(parts, house.db, trajectories, no_room, EmptySeat())
        learned = Learned(house.db, house.registry, DataStore(house.home / "training"))
        steps = TrainingSteps(house.db, house.journal, service)
        yield Desk(house, service, TrainingSchool(steps, learned))


async def test_it_begins_with_the_parents_weights_and_sees_its_very_data_once_more(desk: Desk) -> None:
    parent = await desk.parent()
    running = desk.training()
    job = await desk.queued()
    assert (job.request.warm_start, job.request.epochs, job.data_digest) == ("p", 1, parent.data_digest)
    assert job.recipe["rank"] == 4, "a warm start keeps the parent's rank, whatever the preset says"
    claimed = await desk.house.claimed()
    assert claimed.job.id == job.id
    await desk.house.jobs.settle(claimed.claim, Ending.SUCCEEDED, "", None)
    assert "1 more epoch" in await running


async def test_cancelled_it_takes_the_job_back_and_another_call_goes_on_with_it(desk: Desk) -> None:
    await desk.parent()
    running = desk.training()
    job = await desk.queued()
    running.cancel()
    await asyncio.wait([running])
    assert (await desk.house.jobs.get(job.id)).state is RunState.CANCELLED
    again = desk.training()
    assert (await desk.queued()).id == job.id, "no second job for one control"
    await desk.school.give_up("control")
    with pytest.raises(TrainingError, match="cancelled"):
        await again
    await desk.school.give_up("control")
    await desk.school.give_up("nobody")


async def test_what_was_not_trained_here_is_not_trained_on(desk: Desk) -> None:
    with pytest.raises(NotFoundError, match="No training job"):
        await desk.school.train_on("p", "control", tell_nobody)


async def test_data_that_is_gone_is_no_data(desk: Desk) -> None:
    parent = await desk.parent()
    file = DataStore(desk.house.home / "training").path(parent.data_digest)
    await asyncio.to_thread(file.unlink)
    with pytest.raises(InputError):
        await desk.school.train_on("p", "control", tell_nobody)
