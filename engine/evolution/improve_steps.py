"""What `improve` asks of the training queue and of other operations: made once, found again after a crash.

A training job is known by the adapter that it is to make, an evidence operation by whom and for what it was asked, a
rehearsal by what was asked since the rounds were.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import aclosing, suppress
from typing import TypeVar, cast

from pydantic import ValidationError

from engine.api_evolution import Evidence, EvidenceRequest
from engine.api_learning import Operation, OperationKind, OperationProgress, RehearseRequest
from engine.api_models import FINAL_STATES, Event, Frozen, RunState, StreamChunk
from engine.api_training import TrainJob, TrainProgress, TrainRequest
from engine.errors import ConflictError, RuneError, TrainingError
from engine.events import Journal
from engine.operations import Operations, Progress
from engine.training.service import TrainingService
from registry.db import Database, Reader

MAX_LOOKED_AT = 200
"""Newest operations of a kind that are searched for one that was asked before."""
_MAKING = """
SELECT id FROM training_jobs JOIN jobs USING (id) WHERE lower(adapter_id) = lower(?) ORDER BY number DESC LIMIT 1
"""
STOPPED = (RunState.CANCELLED, RunState.INTERRUPTED, RunState.FAILED)

T = TypeVar("T")

log = logging.getLogger(__name__)


class TrainingSteps:
    """Trains an adapter by the engine's queue."""

    def __init__(self, db: Database, journal: Journal, training: TrainingService) -> None:
        self._db = db
        self._journal = journal
        self._training = training

    async def train(self, request: TrainRequest, progress: Progress) -> TrainJob:
        """The job that made `request.adapter_id`; queued, resumed or only waited for, as it stands.

        Raises:
            InputError, RegistryError: the request is not good.
            TrainingError: the training failed.
        """
        assert request.adapter_id is not None, "the job is known by what it makes"
        return await self._made(request.adapter_id, lambda: self._training.enqueue(request), progress)

    async def train_longer(self, job_id: str, adapter_id: str, epochs: int, progress: Progress) -> TrainJob:
        """As `train`: the job that makes `adapter_id` of another job's adapter and its very data.

        Raises:
            As `train`.
        """

        async def queue() -> TrainJob:
            return await self._training.enqueue_longer(await self._training.jobs.get(job_id), adapter_id, epochs)

        return await self._made(adapter_id, queue, progress)

    async def give_up(self, adapter_id: str) -> None:
        """Cancel whatever would still make that adapter; nothing where nothing would."""
        job = await self._making(adapter_id)
        if job is not None and job.state not in FINAL_STATES:
            with suppress(ConflictError):  # it ended in this very moment
                await self._training.cancel(job.id)

    async def _made(self, adapter_id: str, queue: Callable[[], Awaitable[TrainJob]], progress: Progress) -> TrainJob:
        since = await self._journal.last_sequence()
        job = await self._making(adapter_id)
        await progress(0, 1, "waits for its turn")
        if job is None:
            job = await queue()
        elif job.state in STOPPED:
            job = await self._training.resume(job.id)
        try:
            job = await self._ended(job.id, since, progress)
        except asyncio.CancelledError:
            with suppress(ConflictError):
                await self._training.cancel(job.id)
            raise
        if job.state is not RunState.SUCCEEDED:
            raise TrainingError(f"{job.id} is {job.state.value}: {job.reason}")
        return job

    async def _making(self, adapter_id: str) -> TrainJob | None:
        def read(reader: Reader) -> str | None:
            row = reader.execute(_MAKING, (adapter_id,)).fetchone()
            return None if row is None else str(row["id"])

        job_id = await self._db.read(read)
        return None if job_id is None else await self._training.jobs.get(job_id)

    async def _ended(self, job_id: str, since: int, progress: Progress) -> TrainJob:
        async def look(told: Sequence[Event]) -> TrainJob | None:
            for event in told:
                if "step" in event.payload:
                    step = TrainProgress.model_validate(event.payload)
                    await progress(step.step, step.steps, f"step {step.step} of {step.steps}, loss {step.loss:.3f}")
            job = await self._training.jobs.get(job_id)
            return job if job.state in FINAL_STATES else None

        return await until(self._journal, since, (f"training/{job_id}", f"job/{job_id}"), look)


class OperationSteps:
    """Has operations of one kind done, each once.

    Args:
        kind: of the operations.
        form: what they are asked by.
    """

    def __init__(self, journal: Journal, operations: Operations, kind: OperationKind, form: type[Frozen]) -> None:
        self._journal = journal
        self._operations = operations
        self._kind = kind
        self._form = form

    async def done(self, request: Frozen, progress: Progress, since: str = "") -> Operation:
        """The operation that was asked just that, once it has succeeded: asked, resumed or only waited for.

        Args:
            since: time as of `Operation.created_at`; one that was asked before it is another one.

        Raises:
            ConflictError: this engine does no operations of that kind.
            RuneError: it failed.
        """
        followed = await self._journal.last_sequence()
        operation = await self._asked(request, since)
        if operation is None:
            operation = await self._operations.create(self._kind, request)
        elif operation.state in STOPPED:
            operation = await self._operations.resume(operation.id)
        try:
            operation = await self._ended(operation.id, followed, progress)
        except asyncio.CancelledError:
            with suppress(ConflictError):
                await self._operations.cancel(operation.id)
            raise
        if operation.state is not RunState.SUCCEEDED or operation.result is None:
            raise RuneError(f"{operation.id} is {operation.state.value}: {operation.reason}")
        return operation

    async def _asked(self, request: Frozen, since: str) -> Operation | None:
        page = await self._operations.page(self._kind, limit=MAX_LOOKED_AT)
        return next((one for one in page if one.created_at >= since and self._asks(one, request)), None)

    def _asks(self, operation: Operation, request: Frozen) -> bool:
        """Whether it was asked just that. Compared as models: one of an older program lacks the newest fields."""
        try:
            return self._form.model_validate(operation.request) == request
        except ValidationError:  # of a newer program
            return False

    async def _ended(self, operation_id: str, since: int, progress: Progress) -> Operation:
        async def look(told: Sequence[Event]) -> Operation | None:
            for event in told:
                if event.payload.keys() >= {"done", "total"}:
                    step = OperationProgress.model_validate(event.payload)
                    await progress(step.done, step.total, step.note)
            operation = await self._operations.get(operation_id)
            return operation if operation.state in FINAL_STATES else None

        return await until(self._journal, since, (f"operation/{operation_id}",), look)


class EvidenceSteps:
    """Gathers evidence by an operation of its own, which the promotion then names."""

    def __init__(self, journal: Journal, operations: Operations) -> None:
        self._steps = OperationSteps(journal, operations, OperationKind.EVIDENCE, EvidenceRequest)

    async def gather(self, request: EvidenceRequest, progress: Progress) -> tuple[str, Evidence]:
        """Id of the operation, and what it found.

        Raises:
            ConflictError: this engine gathers no evidence.
            RuneError: it could not be measured.
        """
        operation = await self._steps.done(request, progress)
        return operation.id, Evidence.model_validate(operation.result)


class RehearsalSteps:
    """Has the base model's answers written down by an operation of its own, which the training then names."""

    def __init__(self, journal: Journal, operations: Operations) -> None:
        self._steps = OperationSteps(journal, operations, OperationKind.REHEARSE, RehearseRequest)

    async def rehearse(self, request: RehearseRequest, since: str, progress: Progress) -> str:
        """Id of the operation.

        Args:
            since: time at which the rounds were asked for. What was rehearsed before may be of another base model, of
                other prompts or templates: nothing but its age tells.

        Raises:
            ConflictError: this engine does not rehearse.
            RuneError: it could not be rehearsed.
        """
        return (await self._steps.done(request, progress, since)).id


async def until(
    journal: Journal, since: int, subjects: tuple[str, ...], look: Callable[[Sequence[Event]], Awaitable[T | None]]
) -> T:
    """What `look` gives, first at once and then whenever something happened to one of the subjects."""
    batches = cast("AsyncGenerator[Sequence[Event | StreamChunk]]", journal.follow(since))
    async with aclosing(batches):
        if (found := await look(())) is not None:
            return found
        async for batch in batches:
            told = [item for item in batch if isinstance(item, Event) and item.subject in subjects]
            if told and (found := await look(told)) is not None:
                return found
    # The stream ends when the engine stops, and then we are cancelled too: what runs goes on later.
    log.info("the engine stops while %s is under way", subjects[0])
    await asyncio.Event().wait()
    raise AssertionError("nothing sets that event")
