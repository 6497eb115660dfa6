"""An engine's training half as a process of its own, to be killed: `python training_process.py HOME`.

Recovers what an earlier one left, queues one job if there is none, works until nothing is queued, and prints the
jobs and adapters as JSON.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from pathlib import Path

from support.training_house import House, open_house
from support.training_seat import EmptySeat

from engine.device.processes import end_survivors, read_records
from engine.training.jobs import Claimed
from engine.training.service import clear_published
from engine.training.trainer import JobTrainer
from engine.training.worker import TrainingWorker

DONE = (["steps", 3, 0], ["adapter", 1], ["end"], ["exit", 0])


async def work(house: House) -> None:
    async def prepare(claimed: Claimed) -> JobTrainer:
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
    async with open_house(home, "device.trainer_grace_s=5") as first:
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
            "blobs": sorted(path.name for path in (home / "adapters").iterdir()),
            "places": sorted(path.name for path in (home / "training" / "jobs").iterdir()),
        }
    sys.stdout.write(json.dumps(told))


if __name__ == "__main__":
    asyncio.run(main())
