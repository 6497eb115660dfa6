"""The parent side of training on a real database, a real registry and real children, without the engine."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from importlib.resources import files
from pathlib import Path

from engine.api_models import EventKind
from engine.api_training import TrainJob, TrainRequest
from engine.config import Config, load_config
from engine.events import Bus, Journal
from engine.jobs import Jobs
from engine.training.dataset import DataStore, build
from engine.training.jobs import Claimed, NewJob, TrainingJobs
from engine.training.kill_switch import KillSwitch
from engine.training.selection import Example
from engine.training.spec import TrainSpec, Turn
from engine.training.trainer import JobTrainer, Parts
from engine.training.workplace import Workplace
from registry.clock import SystemClock
from registry.db import Database, Migrations
from registry.registry import MIGRATIONS, AdapterLimits, Registry
from registry.samples import SAMPLE_BASE_MODEL

SETS = (MIGRATIONS, Migrations("engine", files("engine") / "migrations"))
FAKE_CHILD = str(Path(__file__).with_name("fake_trainer.py"))


def configured(home: Path, *overrides: str) -> Config:
    # In a thread: the product reads its configuration before there is an event loop.
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(load_config, home / "config.toml", overrides).result()


@dataclass
class House:
    home: Path
    config: Config
    db: Database
    journal: Journal
    queue: Jobs
    jobs: TrainingJobs
    registry: Registry
    clock: SystemClock

    def restarted(self, owner: str) -> House:
        """The same rows as the next engine process sees them."""
        queue = Jobs(self.journal, self.clock, owner)
        return replace(self, queue=queue, jobs=TrainingJobs(self.db, queue, self.journal, self.clock))

    async def recovered(self, owner: str) -> House:
        """The next engine after this one died."""
        after = self.restarted(owner)
        await self.db.write(after.queue.recover)
        await after.jobs.recover()
        return after

    async def enqueue(self, **fields: object) -> TrainJob:
        request = TrainRequest.model_validate({"dataset": "/data.jsonl", **fields})
        recipe = self.config.recipe("standard")
        data = build([_example(number) for number in range(10)], recipe, seed=request.seed)
        await asyncio.to_thread(DataStore(self.home / "training").put, data)
        return await self.jobs.enqueue(NewJob(request, recipe, data.digest))

    async def queued(self) -> list[str]:
        """Ids of the queue in its order."""
        return [job.id for job in await self.jobs.page() if job.position is not None]

    async def claimed(self) -> Claimed:
        found = await self.jobs.claim()
        assert found is not None
        return found

    async def trainer(self, *play: object, **fields: object) -> tuple[JobTrainer, Claimed]:
        """The trainer of a new job whose child plays a script of `fake_trainer`."""
        await self.enqueue(**fields)
        claimed = await self.claimed()
        return await self.trainer_of(claimed, *play), claimed

    async def trainer_of(self, claimed: Claimed, *play: object, kill_switch: KillSwitch | None = None) -> JobTrainer:
        place = Workplace.of_job(self.home, claimed.job.id)
        await asyncio.to_thread(place.prepare, from_scratch=claimed.from_scratch)
        script = self.home / "play.json"
        await asyncio.to_thread(script.write_text, json.dumps(play))
        parts = Parts(
            config=self.config,
            home=self.home,
            jobs=self.jobs,
            registry=self.registry,
            clock=self.clock,
            lock=lambda: None,
            program=(sys.executable, FAKE_CHILD, str(script)),
        )
        return JobTrainer(parts, claimed, self.spec(claimed), need_mib=100, kill_switch=kill_switch)

    def spec(self, claimed: Claimed) -> TrainSpec:
        place = Workplace.of_job(self.home, claimed.job.id)
        return TrainSpec(
            job_id=claimed.job.id,
            base_directory=self.home / "base",
            base_model_id=SAMPLE_BASE_MODEL,
            base_digest="b" * 64,
            data=DataStore(self.home / "training").path(claimed.job.data_digest),
            recipe=claimed.recipe,
            seed=claimed.job.request.seed,
            output=place.output,
            checkpoints=place.checkpoints,
            heartbeat_s=self.config.device.heartbeat_s,
        )

    async def events(self, subject: str) -> list[dict[str, object]]:
        """Payloads of the updates of a subject."""
        found = await self.journal.replay()
        return [one.payload for one in found if one.subject == subject and one.kind == EventKind.UPDATED]


@asynccontextmanager
async def open_house(home: Path, *overrides: str) -> AsyncIterator[House]:
    home.mkdir(parents=True, exist_ok=True)
    clock = SystemClock()
    db = await Database.open(home / "rune.db", SETS, clock)
    bus = Bus(queue_limit=1000)
    journal = Journal(db, bus, clock, "engine")
    queue = Jobs(journal, clock, owner="first")
    registry = Registry(db, home / "adapters", AdapterLimits(512 << 20, 256), clock, journal.source("registry"))
    jobs = TrainingJobs(db, queue, journal, clock)
    try:
        yield House(home, configured(home, *overrides), db, journal, queue, jobs, registry, clock)
    finally:
        bus.close()
        await db.close()


SHAPE = {
    "hidden_size": 576, "num_attention_heads": 9, "num_key_value_heads": 3, "vocab_size": 49152,
    "intermediate_size": 1536, "num_hidden_layers": 30, "tie_word_embeddings": True,
}  # fmt: skip


def write_base(base: Path) -> Path:
    """A directory that says it is SmolLM2's size and has no weights to speak of."""
    base.mkdir(parents=True)
    (base / "config.json").write_text(json.dumps(SHAPE))
    (base / "model.safetensors").write_bytes(b"weights")
    return base


def _example(number: int) -> Example:
    return Example((Turn(role="user", content=f"p{number}"),), f"x = {number}", f"t{number}")
