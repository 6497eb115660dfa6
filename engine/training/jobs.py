"""The queue of training jobs: durable, in an order that its user decides.

A training job is a job (`engine.jobs` has the states) with a request, a place in the order and results. Both rows are
made in one transaction and every move of the job is a move of the training job. Each change writes one event of the
subject `training/<id>`: fields of `TrainJob` that changed, or one whole `TrainProgress`.
How a claimed attempt ends is in `ending`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType
from typing import Any

from pydantic import JsonValue

from engine.api_models import EventKind, RunState
from engine.api_training import TrainJob, TrainProgress, TrainRequest
from engine.config import TrainSection
from engine.errors import ConflictError, InputError
from engine.jobs import Claim, Jobs, OnCrash
from engine.training.ending import Ending, decide
from engine.training.job_rows import (
    FROM,
    KIND,
    Speed,
    between,
    check_free,
    latest_speed,
    read_counts,
    read_job,
    read_page,
)
from engine.training.recipes import read_recipe
from registry.clock import Clock
from registry.crash import crash_point
from registry.db import Database, Reader, Transaction
from registry.journal import Recorder

PAUSED = "paused"
"""Reason of a job that its user took out of the queue."""
LACKING: Mapping[str, object] = MappingProxyType(
    {"kill_switch": False, "kill_benchmark": "", "kill_samples": 1, "kill_cadence": 1, "kill_delta": 0.5}
)
"""Keys of a recipe that jobs do not have which were queued before there was a kill switch."""
MAX_MADE_UP = 80
"""Characters of the task type in an adapter id that is made up."""

_INSERT = """
INSERT INTO training_jobs (id, request, recipe, adapter_id, data_digest, place)
VALUES (?, ?, ?, ?, ?, (SELECT COALESCE(MAX(place), 0) + 1 FROM training_jobs))
"""
_WAITING = f"SELECT id, place {FROM} WHERE state = 'queued' ORDER BY place, number"
_WISHES = f"SELECT pause_requested, cancel_requested {FROM} WHERE id = ?"
_WORK = "SELECT recipe, from_scratch FROM training_jobs WHERE id = ?"
_UNPAUSED = f"SELECT id {FROM} WHERE state = 'queued' AND pause_requested = 1"


@dataclass(frozen=True)
class NewJob:
    """A request that was found good, with its data on disk."""

    request: TrainRequest
    recipe: TrainSection
    data_digest: str


@dataclass(frozen=True)
class Claimed:
    """A job to be worked on now."""

    claim: Claim
    job: TrainJob
    recipe: TrainSection
    from_scratch: bool
    """What an earlier attempt left is not to be continued."""


class TrainingJobs:
    """Every training job of one home."""

    def __init__(self, db: Database, jobs: Jobs, recorder: Recorder, clock: Clock) -> None:
        self._db = db
        self._jobs = jobs
        self._recorder = recorder
        self._clock = clock

    # --- asking ---

    async def get(self, job_id: str) -> TrainJob:
        """One job.

        Raises:
            NotFoundError
        """
        return await self._db.read(partial(read_job, job_id=job_id))

    async def page(self, state: RunState | None = None, limit: int = 100, offset: int = 0) -> list[TrainJob]:
        """The running one, the queued ones in their order, then the others, newest first."""
        return await self._db.read(partial(read_page, state=state, limit=limit, offset=offset))

    async def counts(self) -> dict[RunState, int]:
        """How many jobs stand in each state; every state is a key."""
        return await self._db.read(read_counts)

    async def latest_speed(self, method: str, base_digest: str) -> Speed | None:
        """Of the newest job of that method on that base that succeeded; None where there was none."""
        return await self._db.read(partial(latest_speed, method=method, base_digest=base_digest))

    # --- what its user wants ---

    async def enqueue(self, new: NewJob) -> TrainJob:
        """Accept a job at the end of the queue. When this returns it is on disk and will not be lost.

        Raises:
            AdapterAlreadyExists: the id of the adapter is taken.
            ConflictError: another job is to make it.
        """
        job = await self._db.write(partial(self._enqueue, new=new))
        crash_point("training.after_enqueue")
        return job

    def _enqueue(self, tx: Transaction, new: NewJob) -> TrainJob:
        job_id = f"train-{self._clock.hex_id(8)}"
        while tx.execute("SELECT 1 FROM jobs WHERE id = ?", (job_id,)).fetchone() is not None:
            job_id = f"train-{self._clock.hex_id(8)}"
        request = new.request
        adapter_id = request.adapter_id or f"{request.task_type[:MAX_MADE_UP]}-{job_id.removeprefix('train-')}"
        check_free(tx, adapter_id, job_id)
        self._jobs.enqueue(tx, job_id, KIND, OnCrash.REQUEUE)
        texts = (request.model_dump_json(), new.recipe.model_dump_json())
        tx.execute(_INSERT, (job_id, *texts, adapter_id, new.data_digest))
        job = read_job(tx, job_id)
        self._record(tx, job_id, job.model_dump(mode="json"), EventKind.CREATED)
        return job

    async def move(self, job_id: str, position: int) -> TrainJob:
        """Give a queued job that 1-based place; beyond the end means last.

        Raises:
            NotFoundError
            ConflictError: it is not queued.
        """
        return await self._db.write(partial(self._move, job_id=job_id, position=position))

    def _move(self, tx: Transaction, job_id: str, position: int) -> TrainJob:
        job = read_job(tx, job_id)
        if job.state is not RunState.QUEUED:
            raise ConflictError(f"{job_id} is {job.state}: only a queued job has a place in the queue.")
        others = [(str(row["id"]), float(row["place"])) for row in tx.execute(_WAITING).fetchall()]
        others = [(name, place) for name, place in others if name != job_id]
        index = min(position - 1, len(others))
        place = between(others, index)
        if place is None:  # a gap that was halved fifty times has no middle any more
            for number, (name, _) in enumerate(others, start=1):
                self._set(tx, name, place=float(number))
            others = [(name, float(number)) for number, (name, _) in enumerate(others, start=1)]
            place = between(others, index)
        self._set(tx, job_id, place=place)
        moved = read_job(tx, job_id)
        self._record(tx, job_id, {"position": moved.position, "place": place})
        return moved

    async def pause(self, job_id: str) -> TrainJob:
        """Take a job out of the queue until it is resumed; a running one is asked to stop at a checkpoint.

        Raises:
            NotFoundError
            ConflictError: it has ended.
        """
        return await self._db.write(partial(self._pause, job_id=job_id))

    def _pause(self, tx: Transaction, job_id: str) -> TrainJob:
        before = read_job(tx, job_id)
        match before.state:
            case RunState.QUEUED:
                self._jobs.hold(tx, job_id, PAUSED)
                return self._follow(tx, job_id, before)
            case RunState.RUNNING:
                self._set(tx, job_id, pause_requested=1)
                self._record(tx, job_id, {"pause_requested": True})
                return before
            case _:
                raise ConflictError(f"{job_id} is {before.state}: there is nothing to pause.")

    async def cancel(self, job_id: str) -> TrainJob:
        """A queued job is cancelled at once, a running one is asked to stop; asking twice is harmless.

        Raises:
            NotFoundError
            ConflictError: it has ended.
        """

        def cancel(tx: Transaction) -> TrainJob:
            before = read_job(tx, job_id)
            self._jobs.cancel(tx, job_id)
            return self._follow(tx, job_id, before)

        return await self._db.write(cancel)

    async def resume(self, job_id: str, *, from_scratch: bool = False) -> TrainJob:
        """Put a stopped job back into the queue, in its old place; it goes on from its last checkpoint.

        Args:
            from_scratch: it starts over instead.

        Raises:
            NotFoundError
            AdapterAlreadyExists: its adapter's id was taken meanwhile.
            ConflictError: it is queued, running, or has succeeded; or another job is to make its adapter.
        """

        def resume(tx: Transaction) -> TrainJob:
            before = read_job(tx, job_id)
            self._jobs.resume(tx, job_id)
            check_free(tx, before.adapter_id, job_id)
            self._set(tx, job_id, pause_requested=0)
            if from_scratch:
                self._set(tx, job_id, from_scratch=1, progress=None)
            return self._follow(tx, job_id, before)

        return await self._db.write(resume)

    # --- its worker ---

    async def claim(self) -> Claimed | None:
        """Take the first queued job, or None. One whose recipe cannot be read fails here, and the next is taken."""
        claimed = await self._db.write(self._claim)
        if claimed is not None:
            crash_point("training.after_claim")
        return claimed

    def _claim(self, tx: Transaction) -> Claimed | None:
        while (first := tx.execute(f"{_WAITING} LIMIT 1").fetchone()) is not None:
            before = read_job(tx, first["id"])
            claim = self._jobs.claim_one(tx, before.id)
            job = self._follow(tx, before.id, before)
            row = tx.execute(_WORK, (before.id,)).fetchone()
            try:
                recipe = read_recipe(dict(LACKING) | json.loads(row["recipe"]))
            except InputError as error:  # raised from here it would end the engine, and the next one at its start
                self.settle_in(tx, claim, Ending.FAILED, str(error), None)
            else:
                return Claimed(claim, job, recipe, bool(row["from_scratch"]))
        return None

    async def begun(self, claim: Claim, base_digest: str) -> None:
        """Note the base model, and that what an earlier attempt left is gone if it was not wanted."""

        def note(tx: Transaction) -> None:
            self._set(tx, claim.job_id, base_digest=base_digest, from_scratch=0)
            self._record(tx, claim.job_id, {"base_digest": base_digest})

        await self._db.write(note)

    async def progress(self, claim: Claim, progress: TrainProgress) -> None:
        """Keep the newest step and tell who watches; nothing where the claim is not held any more."""

        def store(tx: Transaction) -> None:
            if self._jobs.heartbeat(tx, claim):
                self._set(tx, claim.job_id, progress=progress.model_dump_json())
                self._record(tx, claim.job_id, progress.model_dump(mode="json"))

        await self._db.write(store)

    async def shrink(self, claim: Claim, micro_batch: int) -> None:
        """The next attempt takes fewer sequences at once; the number of a step stays."""

        def store(tx: Transaction) -> None:
            row = tx.execute(_WORK, (claim.job_id,)).fetchone()
            recipe = {**json.loads(row["recipe"]), "micro_batch": micro_batch}
            self._set(tx, claim.job_id, recipe=json.dumps(recipe))
            self._record(tx, claim.job_id, {"recipe": recipe})

        await self._db.write(store)

    async def settle(self, claim: Claim, ending: Ending, reason: str, metrics: Mapping[str, JsonValue] | None) -> None:
        """Record how the claimed attempt ended.

        Raises:
            LeaseLostError: the job is not this claim's any more; nothing is changed.
        """
        crash_point("job.before_finish")
        await self._db.write(lambda tx: self.settle_in(tx, claim, ending, reason, metrics))
        crash_point("job.after_finish")

    def settle_in(
        self, tx: Transaction, claim: Claim, ending: Ending, reason: str, metrics: Mapping[str, JsonValue] | None
    ) -> TrainJob:
        """`settle` inside the caller's transaction: the published adapter and the end of its job are one."""
        before = read_job(tx, claim.job_id)
        wishes = tx.execute(_WISHES, (claim.job_id,)).fetchone()
        match decide(ending, cancel=bool(wishes["cancel_requested"]), pause=bool(wishes["pause_requested"])):
            case None:
                self._jobs.give_up(tx, claim, reason, crashed=ending is Ending.CRASHED)
            case RunState.CANCELLED:
                self._jobs.finish(tx, claim, RunState.CANCELLED, "cancelled")
            case RunState.INTERRUPTED:
                self._jobs.finish(tx, claim, RunState.INTERRUPTED, PAUSED)
            case state:
                self._jobs.finish(tx, claim, state, reason)
        self._set(tx, claim.job_id, pause_requested=0)
        if metrics is not None:
            self._set(tx, claim.job_id, metrics=json.dumps(dict(metrics), allow_nan=False))
        return self._follow(tx, claim.job_id, before)

    async def is_unwanted(self, job_id: str) -> bool:
        """Whether its user wants the running job to stop."""

        def read(reader: Reader) -> bool:
            wishes = reader.execute(_WISHES, (job_id,)).fetchone()
            return bool(wishes["cancel_requested"] or wishes["pause_requested"])

        return await self._db.read(read)

    async def recover(self) -> None:
        """Hold the jobs that were to be paused when their engine died. After `Jobs.recover`, before the first claim."""

        def recover(tx: Transaction) -> None:
            for row in tx.execute(_UNPAUSED).fetchall():
                before = read_job(tx, row["id"])
                self._jobs.hold(tx, before.id, PAUSED)
                self._set(tx, before.id, pause_requested=0)
                self._follow(tx, before.id, before)

        await self._db.write(recover)

    # --- rows ---

    def _set(self, tx: Transaction, job_id: str, **columns: object) -> None:
        assignments = ", ".join(f"{name} = ?" for name in columns)
        done = tx.execute(f"UPDATE training_jobs SET {assignments} WHERE id = ?", (*columns.values(), job_id))
        assert done.rowcount == 1, f"{job_id} has no row"

    def _follow(self, tx: Transaction, job_id: str, before: TrainJob) -> TrainJob:
        """The job has just changed: one event with the fields that differ."""
        after = read_job(tx, job_id)
        old, new = before.model_dump(mode="json"), after.model_dump(mode="json")
        self._record(tx, job_id, {name: value for name, value in new.items() if value != old[name]})
        return after

    def _record(
        self, tx: Transaction, job_id: str, payload: Mapping[str, Any], kind: EventKind = EventKind.UPDATED
    ) -> None:
        if payload:
            self._recorder.record(tx, kind=kind, subject=f"training/{job_id}", payload=payload)
