"""★D1's worker, killed at random: `python kill_worker.py HOME JOBS KILLS SEED sound|naive`.

    parent: fork a worker ─► "ready" ─► SIGKILL after 0-60 ms ─► again, KILLS times ─► one last worker drains the queue

The parent never opens the database and has no threads, so that each worker is a true fork with everything imported:
200 engine starts cost seconds instead of minutes. A worker is what an engine does: lock, open (quick_check), recover,
then claim jobs and publish one adapter for each, together with the job's end in one transaction.
"""

from __future__ import annotations

import asyncio
import os
import random
import select
import signal
import sys
from collections.abc import Awaitable, Callable
from importlib.resources import files
from pathlib import Path

from engine.api_models import RunState
from engine.events import Bus, Journal
from engine.home import HomeLock, prepare_home
from engine.jobs import Claim, Jobs, OnCrash
from registry.clock import SystemClock
from registry.db import Database, Migrations, Transaction
from registry.models import Adapter, NewAdapter, Source
from registry.registry import MIGRATIONS, AdapterLimits, Registry
from registry.samples import safetensors_bytes, sample_tensors, write_sample

LONGEST_S = 0.060
AT_ONCE = 4
KIND = "train"


class Worker:
    """An engine reduced to its queue and its registry."""

    def __init__(self, home: Path, db: Database) -> None:
        self.home = home
        self.db = db
        clock = SystemClock()
        self.journal = Journal(db, Bus(1000), clock, "engine")
        self.jobs = Jobs(self.journal, clock, owner=clock.uuid())
        limits = AdapterLimits(1 << 20, 64)
        self.registry = Registry(db, home / "adapters", limits, clock, self.journal.source("registry"))

    async def recover(self) -> None:
        await self.db.write(self.jobs.recover)
        await self.registry.recover()

    async def drain(self, finish: Callable[[Worker, Claim], Awaitable[None]]) -> None:
        """Claim and finish until nothing is queued, several at once."""

        async def work() -> None:
            while claim := await self.db.write(lambda tx: self.jobs.claim(tx, KIND)):
                await finish(self, claim)

        async with asyncio.TaskGroup() as group:
            for _ in range(AT_ONCE):
                group.create_task(work())

    async def resume_interrupted(self) -> int:
        """What a user does with a job that was in three crashes."""

        def resume(tx: Transaction) -> int:
            rows = tx.execute("SELECT id FROM jobs WHERE state = 'interrupted'").fetchall()
            for row in rows:
                self.jobs.resume(tx, row["id"])
            return len(rows)

        return await self.db.write(resume)


async def sound(worker: Worker, claim: Claim) -> None:
    """What the product does: files first, then the adapter's row and the job's end in one transaction."""
    seed = int(claim.job_id.removeprefix("j"))
    sample = worker.home / "samples" / f"{seed}-{claim.attempt}-{os.getpid()}"
    await asyncio.to_thread(write_sample, sample, seed)
    new = NewAdapter(id=claim.job_id, task_type="sort", source=Source.QLORA)

    def end(tx: Transaction, _: Adapter) -> None:
        worker.jobs.finish(tx, claim, RunState.SUCCEEDED)

    await worker.registry.publish(sample, new, then=end)


async def naive(worker: Worker, claim: Claim) -> None:
    """The broken variant: the job's end first, then its file, in place."""
    await worker.db.write(lambda tx: worker.jobs.finish(tx, claim, RunState.SUCCEEDED))
    folder = worker.home / "adapters" / claim.job_id
    folder.mkdir(parents=True, exist_ok=True)
    weights = safetensors_bytes(sample_tensors(int(claim.job_id.removeprefix("j"))))

    def write() -> None:
        with (folder / "adapter_model.safetensors").open("wb", buffering=0) as stream:
            for start in range(0, len(weights), 256):
                stream.write(weights[start : start + 256])
                os.fsync(stream.fileno())

    await asyncio.to_thread(write)


HANDS = {"sound": sound, "naive": naive}


async def open_database(home: Path) -> Database:
    """As an engine does; raises when the quick check finds damage."""
    engine = Migrations("engine", files("engine") / "migrations")
    return await Database.open(home / "rune.db", [MIGRATIONS, engine], SystemClock())


async def run(home: Path, hand: str, ready: int, *, last: bool) -> None:
    prepare_home(home)
    lock = HomeLock.acquire(home)
    db = await open_database(home)
    worker = Worker(home, db)
    await worker.recover()
    if last:
        sys.stdout.write(f"resumed {await worker.resume_interrupted()}\n")
    os.write(ready, b"r")
    await worker.drain(HANDS[hand])
    await db.close()
    lock.release()


async def enqueue(home: Path, count: int) -> None:
    prepare_home(home)
    db = await open_database(home)
    worker = Worker(home, db)

    def put(tx: Transaction) -> None:
        for number in range(count):
            worker.jobs.enqueue(tx, f"j{number}", KIND, OnCrash.REQUEUE)

    await db.write(put)
    await db.close()


def forked(work: Callable[[int], Awaitable[None]], kill_after: float | None) -> int:
    """Run in a fork; SIGKILL it so long after it was ready. Its wait status."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            asyncio.run(work(writing))  # type: ignore[arg-type]  # a coroutine function
            status = 0
        finally:
            sys.stdout.flush()
            os._exit(status)
    os.close(writing)
    os.read(reading, 1)
    if kill_after is not None:
        # Ends early when the worker does: the pipe closes.
        select.select([reading], [], [], kill_after)
        os.kill(pid, signal.SIGKILL)
    os.close(reading)
    return os.waitpid(pid, 0)[1]


def main() -> None:
    home, count, kills, seed, hand = Path(sys.argv[1]), *map(int, sys.argv[2:5]), sys.argv[5]
    dice = random.Random(seed)
    assert forked(lambda _: enqueue(home, count), None) == 0
    killed = 0
    for _ in range(kills):
        status = forked(lambda ready: run(home, hand, ready, last=False), dice.uniform(0, LONGEST_S))
        assert os.WIFSIGNALED(status) or status == 0, f"a worker failed: {status}"
        killed += os.WIFSIGNALED(status)
    assert forked(lambda ready: run(home, hand, ready, last=True), None) == 0
    sys.stdout.write(f"killed {killed}\n")


if __name__ == "__main__":
    main()
