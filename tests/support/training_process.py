"""An engine's training half as a process of its own, to be killed: `python training_process.py HOME [watched]`.

Recovers what an earlier one left, queues one job if there is none, works until nothing is queued, and prints the
jobs and adapters as JSON. With `watched` the job has a kill switch, and a model that gets worse.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from pathlib import Path

from support.plain_benchmark import numbered, plain_benchmark
from support.training_house import House, open_house
from support.training_seat import EmptySeat

from engine.device.processes import end_survivors, read_records
from engine.training.jobs import Claimed
from engine.training.kill_switch import KillSwitch
from engine.training.service import clear_published
from engine.training.trainer import JobTrainer
from engine.training.worker import TrainingWorker
from engine.training.workplace import Workplace

DONE = (["steps", 3, 0], ["adapter", 1], ["end"], ["exit", 0])
WATCHED = (["look", 0, ["# pass"] * 3], ["steps", 4, 0], ["look", 4, ["# pass", "# fail 0/1", "# fail 0/1"]], *DONE)
KILL_SWITCH = ("train.kill_switch=true", "train.kill_samples=3", "train.kill_cadence=4", "train.kill_delta=0.4")


async def watched(house: House, claimed: Claimed) -> JobTrainer:
    place = Workplace.of_job(house.home, claimed.job.id)
    await asyncio.to_thread(place.prepare, from_scratch=claimed.from_scratch)
    benchmark = plain_benchmark(numbered(3))
    switch = await KillSwitch.prepare(benchmark, claimed.recipe, 0, place.kill_switch, max_tokens=64)
    return await house.trainer_of(claimed, *WATCHED, kill_switch=switch)


async def work(house: House) -> None:
    async def prepare(claimed: Claimed) -> JobTrainer:
        if claimed.recipe.kill_switch:
            return await watched(house, claimed)
        return await house.trainer_of(claimed, *DONE)

    worker = TrainingWorker(house.jobs, prepare, EmptySeat())
    async with asyncio.TaskGroup() as group:
        running = group.create_task(worker.run())
        async for _ in house.journal.stream():
            if all(job.finished_at for job in await house.jobs.page()):
                break
        running.cancel()


async def main() -> None:
    home = Path(sys.argv[1])
    settings = KILL_SWITCH if sys.argv[2:] == ["watched"] else ()
    async with open_house(home, "device.trainer_grace_s=5", *settings) as first:
        # As the device's owner does before anything else.
        await asyncio.to_thread(lambda: end_survivors(read_records(home / "run" / "guardians")))
        house = await first.recovered(str(os.getpid()))
        await house.registry.recover()
        if not await house.jobs.page():
            await house.enqueue(adapter_id="mine")
        await work(house)
        await clear_published(home, house.jobs)
        adapters = (await house.registry.list_all()).items
        told = {
            "jobs": [job.model_dump(mode="json") for job in await house.jobs.page()],
            "adapters": [[adapter.id, adapter.digest] for adapter in adapters],
            "blobs": sorted(path.name for path in (home / "adapters").glob("*")),
            "places": sorted(path.name for path in (home / "training" / "jobs").iterdir()),
        }
    sys.stdout.write(json.dumps(told))


if __name__ == "__main__":
    asyncio.run(main())
