"""Training as the API offers it: preview, queue, and what a user may do to a job.

A request is checked whole before anything is written or any model is loaded: its preset, its adapter id, its warm
start, its sessions or its file, and that there is enough to learn from. Then its data is kept and the job is queued.
"""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from pathlib import Path

from engine.api_models import PASSING, AttemptRecord, RunState, SessionRecord
from engine.api_training import TrainJob, TrainPreview, TrainRequest
from engine.config import TrainSection
from engine.errors import EnvironmentUnfitError, InputError, NotFoundError, TrainingError
from engine.inference.base_weights import ensure_base_weights
from engine.sessions import Query, Sessions
from engine.training.base import look_at_base
from engine.training.dataset import (
    Dataset,
    DataStore,
    build,
    check_verified,
    from_trajectories,
    read_file,
)
from engine.training.estimate import ModelShape, adapter_parameters, host_mib, read_shape
from engine.training.job_rows import check_free
from engine.training.jobs import Claimed, NewJob, TrainingJobs
from engine.training.kill_switch import Benchmark, KillSwitch
from engine.training.preview import Room, cpu_has_bf16, need_mib, preview
from engine.training.recipes import check_steps, recipe_of
from engine.training.rehearsed import beside, read_rehearsal
from engine.training.selection import Example
from engine.training.spec import TrainSpec
from engine.training.trainer import JobTrainer, Parts
from engine.training.trajectories import TrajectoryStore
from engine.training.worker import Seat, TrainingWorker
from engine.training.workplace import Workplace
from registry.db import Database
from registry.files import run_to_end
from registry.models import Adapter, LoadableAdapter, check_id

MAX_SESSIONS = 10_000
"""Verified sessions that one job learns from; the newest."""
PAGE = 500
"""Sessions of one read."""
CHECKPOINT_BYTES = 16
"""Of each trained weight: value, two moments, the best so far."""
CHECKPOINT_COPIES = 3
"""On disk at once: the last checkpoint, the next one being written, and the adapter with its GGUF form."""


@dataclass(frozen=True)
class Prepared:
    """A request that was found good, with what it learns from."""

    request: TrainRequest
    recipe: TrainSection
    data: Dataset


class Trajectories:
    """Where examples of this home's own work are read from."""

    def __init__(self, sessions: Sessions, store: TrajectoryStore) -> None:
        self._sessions = sessions
        self._store = store

    async def read(self, wanted: tuple[str, ...]) -> list[tuple[SessionRecord, tuple[AttemptRecord, ...]]]:
        """These sessions, or every verified one, with their attempts.

        Raises:
            NotFoundError: there is no such session.
            InputError: one that was named is not verified, or there is none.
        """
        if wanted:
            records = [await self._sessions.get(session_id) for session_id in dict.fromkeys(wanted)]
            check_verified(records)
        else:
            records = [await self._sessions.get(session_id) for session_id in await self._verified()]
        found = [(record, await self._store.attempts(record.id)) for record in records]
        if not wanted:  # of those that nobody named, one without anything to learn is no mistake
            found = [(record, attempts) for record, attempts in found if record.code and attempts]
        if not found:
            raise InputError("There is no verified session to learn from; run some tasks that have tests first.")
        return found

    async def _verified(self) -> list[str]:
        found: list[str] = []
        query = Query(state=RunState.SUCCEEDED, limit=PAGE)
        while len(found) < MAX_SESSIONS and (page := await self._sessions.page(query)):
            found += [record.id for record in page if record.outcome in PASSING]
            query = replace(query, offset=query.offset + PAGE)
        return found[:MAX_SESSIONS]


class TrainingService:
    """Checks, previews and queues requests; makes the trainer of a claimed job.

    Args:
        room: the device's memory as a trainer would find it.
    """

    def __init__(
        self, parts: Parts, db: Database, trajectories: Trajectories, room: Callable[[], Awaitable[Room]], seat: Seat
    ) -> None:
        self._parts = parts
        self._db = db
        self._trajectories = trajectories
        self._room = room
        self._store = DataStore(parts.home / "training")
        self._worker = TrainingWorker(parts.jobs, self.prepare, seat)
        self._benchmark: Benchmark | None = None
        self.jobs = parts.jobs
        """To ask; what changes a job is asked of the service."""

    def measure_with(self, benchmark: Benchmark) -> None:
        """What the kill switch measures with. Before the first request: without it, a recipe that has the switch on is
        refused."""
        self._benchmark = benchmark

    async def recover(self) -> None:
        """Settle what a dead engine left. After `Jobs.recover`, before `run`."""
        await self.jobs.recover()
        await clear_published(self._parts.home, self.jobs)

    async def run(self) -> None:
        """Work on the queue until cancelled, or until the device's owner says that the engine stops."""
        await self._worker.run()

    # --- requests ---

    async def preview(self, request: TrainRequest) -> TrainPreview:
        """What the job would take; nothing is written and nothing is loaded.

        Raises:
            As `enqueue`.
            ModelNotFoundError: there is no base model.
        """
        prepared = await self._check(request)
        base = await run_to_end(lambda: look_at_base(self._parts.config, self._parts.home))
        speed = await self.jobs.latest_speed(prepared.recipe.method, base.digest)
        bf16 = await asyncio.to_thread(cpu_has_bf16)
        return preview(base.shape, prepared.recipe, prepared.data, await self._room(), speed, bf16=bf16)

    async def enqueue(self, request: TrainRequest) -> TrainJob:
        """Queue a job. When this returns, it and its data are on disk.

        Raises:
            InputError: the file, a session, the rehearsal, the preset or a value is not good; says which.
            NotFoundError: there is no such session, or no such suite for the kill switch.
            ConflictError, RegistryError: the adapter's id is taken, or the warm start cannot be used.
        """
        prepared = await self._check(request)
        await run_to_end(lambda: self._store.put(prepared.data))
        job = await self.jobs.enqueue(NewJob(prepared.request, prepared.recipe, prepared.data.digest))
        self._worker.wake()
        return job

    async def enqueue_longer(self, job: TrainJob, adapter_id: str, epochs: int) -> TrainJob:
        """Queue a job that begins with the adapter of another and sees that one's very data again.

        Raises:
            InputError: that would be too few steps to learn anything.
            ConflictError, RegistryError: the id is taken, or the adapter of the first cannot be begun with.
        """
        given = {"adapter_id": adapter_id, "warm_start": job.adapter_id, "epochs": epochs, "rank": None}
        request = job.request.model_copy(update=given)
        recipe = recipe_of(request, self._parts.config, await self._parent(request))
        await self._check_kill_switch(recipe, request.seed)
        check_steps(await run_to_end(lambda: self._store.learned_rows(job.data_digest)), recipe)
        queued = await self.jobs.enqueue(NewJob(request, recipe, job.data_digest))
        self._worker.wake()
        return queued

    # --- what a user may do to a job; the errors are those of `TrainingJobs` ---

    async def cancel(self, job_id: str) -> TrainJob:
        """Cancel a queued job at once; ask a running one to stop."""
        return self._stopping(await self.jobs.cancel(job_id))

    async def pause(self, job_id: str) -> TrainJob:
        """Take a job out of the queue until it is resumed; a running one writes a checkpoint first."""
        return self._stopping(await self.jobs.pause(job_id))

    async def resume(self, job_id: str, *, from_scratch: bool = False) -> TrainJob:
        """Queue a stopped job again: from its last checkpoint, or from scratch."""
        job = await self.jobs.resume(job_id, from_scratch=from_scratch)
        self._worker.wake()
        return job

    async def move(self, job_id: str, position: int) -> TrainJob:
        """Give a queued job another place."""
        return await self.jobs.move(job_id, position)

    def _stopping(self, job: TrainJob) -> TrainJob:
        if job.state is RunState.RUNNING:
            self._worker.stop(job.id)
        return job

    async def _check(self, request: TrainRequest) -> Prepared:
        if (adapter_id := request.adapter_id) is not None:
            check_id(adapter_id)
            await self._db.read(lambda reader: check_free(reader, adapter_id))
        recipe = recipe_of(request, self._parts.config, await self._parent(request))
        await self._check_kill_switch(recipe, request.seed)
        data = await self._data(request, recipe)
        check_steps(len(data.learned), recipe)
        return Prepared(request, recipe, data)

    async def _check_kill_switch(self, recipe: TrainSection, seed: int) -> None:
        if recipe.kill_switch:
            await self._measured_with().choose(recipe, seed)

    def _measured_with(self) -> Benchmark:
        if self._benchmark is None:
            raise InputError("train.kill_switch is on, and there is nothing to evaluate the model with; switch it off.")
        return self._benchmark

    async def _parent(self, request: TrainRequest) -> Adapter | None:
        loadable = await self._warm_start(request)
        return loadable.adapter if loadable else None

    async def _warm_start(self, request: TrainRequest) -> LoadableAdapter | None:
        """Its files are checked, not only its row: a damaged parent is refused before anything is loaded."""
        return None if request.warm_start is None else await self._parts.registry.resolve_for_load(request.warm_start)

    async def _data(self, request: TrainRequest, recipe: TrainSection) -> Dataset:
        rehearsed = await self._rehearsed(request)
        if request.dataset is not None:
            path = Path(request.dataset)
            return await run_to_end(lambda: build(beside(read_file(path), rehearsed), recipe, request.seed))
        known = await self._trajectories.read(request.sessions)
        shown = Path(request.demonstrations) if request.demonstrations is not None else None

        def select() -> Dataset:
            examples, leaking = from_trajectories(known)
            examples += read_file(shown) if shown is not None else []
            return build(beside(examples, rehearsed), recipe, request.seed, leaking=leaking)

        return await run_to_end(select)

    async def _rehearsed(self, request: TrainRequest) -> list[Example]:
        if request.rehearsal is None:
            return []
        return await read_rehearsal(self._db, request.rehearsal, self._parts.config.model.base_id)

    # --- a claimed job ---

    async def prepare(self, claimed: Claimed) -> JobTrainer:
        """Everything that training needs and the device is not needed for.

        Raises:
            RuneError, RegistryError: the base model, the data, the warm start or the disk is not as it must be; or the
                kill switch has halted the job before.
        """
        parts, job = self._parts, claimed.job
        place = Workplace.of_job(parts.home, job.id)
        await run_to_end(lambda: place.prepare(from_scratch=claimed.from_scratch))
        base = await ensure_base_weights(parts.config, parts.home, lambda line: None)
        await self.jobs.begun(claimed.claim, base.digest)
        longest = await run_to_end(lambda: self._store.longest_row(job.data_digest))
        if longest is None:
            raise TrainingError(f"The data of {job.id} is damaged; queue the job again.")
        warm = await self._warm_start(job.request)
        shape = await asyncio.to_thread(read_shape, base.directory)
        await asyncio.to_thread(_check_disk, parts.home, shape, claimed.recipe)
        kill_switch = await self._kill_switch(claimed, place)
        room = await self._room()
        bf16 = await asyncio.to_thread(cpu_has_bf16)
        spec = TrainSpec(
            job_id=job.id,
            base_directory=base.directory,
            base_model_id=parts.config.model.base_id,
            base_digest=base.digest,
            data=self._store.path(job.data_digest),
            recipe=claimed.recipe,
            seed=job.request.seed,
            warm_start=warm.directory if warm else None,
            output=place.output,
            checkpoints=place.checkpoints,
            heartbeat_s=parts.config.device.heartbeat_s,
        )
        need = need_mib(shape, claimed.recipe, longest, gpu=room.is_gpu, bf16=bf16)
        return JobTrainer(parts, claimed, spec, need, host_mib(shape) if room.is_gpu else 0, kill_switch)

    async def _kill_switch(self, claimed: Claimed, place: Workplace) -> KillSwitch | None:
        recipe, seed = claimed.recipe, claimed.job.request.seed
        if not recipe.kill_switch:
            return None
        tokens = self._parts.config.evaluation.max_tokens
        return await KillSwitch.prepare(self._measured_with(), recipe, seed, place.kill_switch, tokens)


async def clear_published(home: Path, jobs: TrainingJobs) -> None:
    """Remove the directories of jobs whose adapters are published: an engine died between the two."""
    root = Workplace.all(home)
    for job_id in await run_to_end(lambda: sorted(path.name for path in root.iterdir()) if root.is_dir() else []):
        try:
            done = (await jobs.get(job_id)).state is RunState.SUCCEEDED
        except NotFoundError:
            done = True
        if done:
            await run_to_end(Workplace.of_job(home, job_id).remove)


def _check_disk(home: Path, shape: ModelShape, recipe: TrainSection) -> None:
    """A checkpoint that cannot be written ends a job after hours; it is better told before.

    Raises:
        EnvironmentUnfitError
    """
    weights = adapter_parameters(shape, recipe)
    need = weights * CHECKPOINT_BYTES * CHECKPOINT_COPIES
    free = shutil.disk_usage(home).free
    if free < need:
        raise EnvironmentUnfitError(
            f"Training needs about {need >> 20} MiB of disk for its checkpoints; {free >> 20} MiB are free in {home}."
        )
