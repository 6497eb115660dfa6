"""Long-running operations: evaluate, merge, evolve, improve and their like, as durable jobs with a result.

    POST ──► queued ──claim──► handler.run ──► succeeded with a result | failed with a reason
                ▲                   │
                ├── engine stopped ─┤   the handler is called again; what it had done, it finds done
                └── engine died ────┘

A kind has one handler and one worker, so two operations of one kind never run side by side. A handler is called again
after a crash with the same operation: it must be able to go on, which is easiest where each of its steps is stored
under a key of what it depends on.

The states are those of `engine.jobs`; both rows are made in one transaction, and every move of the job is one event of
the subject `operation/<id>`. Such an event has the fields of `Operation` that changed, except the result, which may be
large and is read by id; or it is one whole `OperationProgress`.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

from pydantic import JsonValue

from engine.api_learning import Operation, OperationKind, OperationProgress
from engine.api_models import EventKind, Frozen, RunState
from engine.errors import ConflictError, LeaseLostError, RuneError
from engine.jobs import Claim, Job, Jobs, OnCrash
from engine.operation_rows import (
    INSERT,
    MAX_PAGE,
    PAGE,
    eta_seconds,
    move_of,
    read_operation,
    set_columns,
    to_operation,
)
from registry.clock import Clock
from registry.crash import crash_point
from registry.db import Database, Transaction
from registry.errors import DatabaseError, RegistryError
from registry.journal import Recorder

KIND_PREFIX = "operation-"
"""Of `jobs.kind`; the operation's kind follows."""
STORE_EVERY_S = 0.5
"""Progress is written this often at most: often enough to watch, seldom enough to cost no handler anything."""
UNEXPECTED = "An unexpected error; the log in RUNE_HOME/logs has the details."

log = logging.getLogger(__name__)


class Progress(Protocol):
    """Tells how far an operation is; the ETA is made from it."""

    async def __call__(self, done: int, total: int, note: str = "") -> None:
        """`done` of `total` steps; may be called as often as anything changes, few of the calls are stored."""
        ...


class Handler(Protocol):
    """Does the operations of one kind."""

    async def run(self, operation: Operation, progress: Progress) -> Frozen:
        """Do it, or what is left of it; gives the result.

        Cancelled when its user cancels the operation or the engine stops; nothing half made may be left to be seen.

        Raises:
            RuneError, RegistryError: it cannot be done; the sentence becomes the operation's reason.
        """
        ...


@dataclass(frozen=True)
class Ended:
    """How an attempt at an operation ended."""

    state: RunState
    reason: str = ""
    result: Mapping[str, JsonValue] | None = None


class Operations:
    """Every operation of one home, and the workers that do them."""

    def __init__(self, db: Database, jobs: Jobs, recorder: Recorder, clock: Clock) -> None:
        self._db = db
        self._jobs = jobs
        self._recorder = recorder
        self._clock = clock
        self._workers: dict[OperationKind, OperationWorker] = {}

    def add_handler(self, kind: OperationKind, handler: Handler) -> None:
        """From `run` on, operations of that kind are done by this handler. Before `run`, once for each kind."""
        assert kind not in self._workers, f"{kind} has a handler already"
        self._workers[kind] = OperationWorker(kind, handler, self, self._clock)

    async def run(self) -> None:
        """Work on all kinds until cancelled; what runs then is queued again."""
        async with asyncio.TaskGroup() as group:
            for kind, worker in self._workers.items():
                group.create_task(worker.run(), name=f"operations {kind}")

    # --- asking ---

    async def get(self, operation_id: str) -> Operation:
        """One operation, whole.

        Raises:
            NotFoundError
        """
        return await self._db.read(partial(read_operation, operation_id=operation_id))

    async def page(
        self, kind: OperationKind | None = None, state: RunState | None = None, limit: int = 100, offset: int = 0
    ) -> list[Operation]:
        """The operations that match, newest first, without their results."""
        assert 0 < limit <= MAX_PAGE and offset >= 0, "a page is bounded by its caller"
        values = {"kind": kind, "state": state, "limit": limit, "offset": offset}
        return await self._db.read(lambda reader: [to_operation(row) for row in reader.execute(PAGE, values)])

    # --- what its user wants ---

    async def create(self, kind: OperationKind, request: Frozen) -> Operation:
        """Accept an operation. When this returns it is on disk and will not be lost.

        Raises:
            ConflictError: this engine does no operations of that kind.
        """
        if kind not in self._workers:
            raise ConflictError(f"This engine does no operations of the kind {kind.value}.")
        operation = await self._db.write(partial(self._create, kind=kind, request=request.model_dump_json()))
        crash_point("operation.after_create")
        self._workers[kind].wake()
        return operation

    def _create(self, tx: Transaction, kind: OperationKind, request: str) -> Operation:
        operation_id = f"{kind}-{self._clock.hex_id(8)}"
        while tx.execute("SELECT 1 FROM jobs WHERE id = ?", (operation_id,)).fetchone() is not None:
            operation_id = f"{kind}-{self._clock.hex_id(8)}"
        self._jobs.enqueue(tx, operation_id, KIND_PREFIX + kind, OnCrash.REQUEUE)
        tx.execute(INSERT, (operation_id, kind, request))
        operation = read_operation(tx, operation_id)
        self._record(tx, operation_id, operation.model_dump(mode="json", exclude={"result"}), EventKind.CREATED)
        return operation

    async def cancel(self, operation_id: str) -> Operation:
        """A queued operation is cancelled at once, a running one is asked to stop; asking twice is harmless.

        Raises:
            NotFoundError
            ConflictError: it has ended.
        """
        operation = await self._moving(operation_id, self._jobs.cancel)
        worker = self._workers.get(operation.kind)
        if operation.state is RunState.RUNNING and worker is not None:
            worker.stop(operation_id)
        return operation

    async def resume(self, operation_id: str) -> Operation:
        """Queue a stopped operation again; what it had done, it finds done.

        Raises:
            NotFoundError
            ConflictError: it is queued, running, or has succeeded.
        """
        operation = await self._moving(operation_id, self._jobs.resume)
        if worker := self._workers.get(operation.kind):
            worker.wake()
        return operation

    async def _moving(self, operation_id: str, move: _Move) -> Operation:
        def moving(tx: Transaction) -> Operation:
            before = read_operation(tx, operation_id)
            move(tx, operation_id)
            return self._follow(tx, before)

        return await self._db.write(moving)

    # --- its workers ---

    async def claim(self, kind: OperationKind) -> tuple[Claim, Operation] | None:
        """Take the oldest queued operation of that kind, or None."""
        claimed = await self._db.write(partial(self._claim, kind=kind))
        if claimed is not None:
            crash_point("operation.after_claim")
        return claimed

    def _claim(self, tx: Transaction, kind: OperationKind) -> tuple[Claim, Operation] | None:
        claim = self._jobs.claim(tx, KIND_PREFIX + kind)
        if claim is None:
            return None
        operation = read_operation(tx, claim.job_id)
        self._record(tx, operation.id, move_of(operation))
        return claim, operation

    async def progress(self, claim: Claim, progress: OperationProgress) -> None:
        """Keep how far it is and tell who watches; nothing where the claim is not held any more."""

        def store(tx: Transaction) -> None:
            if self._jobs.heartbeat(tx, claim):
                set_columns(tx, claim.job_id, progress=progress.model_dump_json())
                self._record(tx, claim.job_id, progress.model_dump(mode="json"))

        await self._db.write(store)

    async def finish(self, claim: Claim, ended: Ended, progress: OperationProgress | None = None) -> None:
        """Record how the claimed attempt ended, with what came of it, in one transaction.

        Raises:
            LeaseLostError: it is not this claim's any more; nothing is changed.
        """

        def finish(tx: Transaction) -> None:
            before = read_operation(tx, claim.job_id)
            self._jobs.finish(tx, claim, ended.state, ended.reason)
            if ended.result is not None:
                set_columns(tx, claim.job_id, result=json.dumps(dict(ended.result), allow_nan=False))
            if progress is not None:
                set_columns(tx, claim.job_id, progress=progress.model_dump_json())
            self._follow(tx, before)

        crash_point("job.before_finish")
        await self._db.write(finish)
        crash_point("job.after_finish")

    async def release(self, claim: Claim, reason: str) -> None:
        """Let go of a claimed operation because the engine stops: it is queued again, or cancelled if that was asked.

        Raises:
            LeaseLostError: it is not this claim's any more; nothing is changed.
        """

        def release(tx: Transaction) -> None:
            before = read_operation(tx, claim.job_id)
            self._jobs.give_up(tx, claim, reason, crashed=False)
            self._follow(tx, before)

        await self._db.write(release)

    async def is_unwanted(self, operation_id: str) -> bool:
        """Whether its user wants the running operation to stop."""
        return await self._db.read(lambda reader: self._jobs.get(reader, operation_id).cancel_requested)

    async def recover(self) -> list[Operation]:
        """Settle the operations of engines that died; gives those that moved. Before any other recovery of jobs."""

        def recover(tx: Transaction) -> list[Operation]:
            moved = [read_operation(tx, job.id) for job in self._jobs.recover(tx, KIND_PREFIX + "%")]
            for operation in moved:
                self._record(tx, operation.id, move_of(operation))
            return moved

        return await self._db.write(recover)

    # --- rows ---

    def _follow(self, tx: Transaction, before: Operation) -> Operation:
        """Its job has just changed: one event with the fields that differ and how far it is, which steps told flat."""
        before = before.model_copy(update={"progress": None})
        after = read_operation(tx, before.id)
        old, new = (operation.model_dump(mode="json", exclude={"result"}) for operation in (before, after))
        self._record(tx, after.id, {name: value for name, value in new.items() if value != old[name]})
        return after

    def _record(
        self, tx: Transaction, operation_id: str, payload: Mapping[str, Any], kind: EventKind = EventKind.UPDATED
    ) -> None:
        if payload:
            self._recorder.record(tx, kind=kind, subject=f"operation/{operation_id}", payload=payload)


class _Move(Protocol):
    def __call__(self, tx: Transaction, job_id: str, /) -> Job: ...


class OperationWorker:
    """Does the operations of one kind, one after another, with their handler. Owner of the one that runs."""

    def __init__(self, kind: OperationKind, handler: Handler, operations: Operations, clock: Clock) -> None:
        self._kind = kind
        self._handler = handler
        self._operations = operations
        self._clock = clock
        self._wake = asyncio.Event()
        self._operation_id = ""
        self._task: asyncio.Task[None] | None = None
        self._unwanted = False

    def wake(self) -> None:
        """Something was queued."""
        self._wake.set()

    def stop(self, operation_id: str) -> None:
        """Stop the operation if it runs; its row must say already that this is wanted."""
        if operation_id != self._operation_id:
            return
        self._unwanted = True
        if self._task is not None:
            self._task.cancel()

    async def run(self) -> None:
        """Work until cancelled; the operation that runs then is queued again."""
        while True:
            claim, operation = await self._next()
            self._operation_id, self._unwanted = operation.id, False
            try:
                await self._work(claim, operation)
            except LeaseLostError:
                log.error("operation %s was taken from this engine while it ran; its result is dropped", operation.id)
            finally:
                self._operation_id = ""

    async def _next(self) -> tuple[Claim, Operation]:
        while True:
            self._wake.clear()  # before the look: what is queued during it must wake us again
            claimed = await self._operations.claim(self._kind)
            if claimed is not None:
                return claimed
            await self._wake.wait()

    async def _work(self, claim: Claim, operation: Operation) -> None:
        report = Report(self._operations, claim, self._clock)
        ended: list[Ended] = []

        async def handle() -> None:
            # What was asked for between the claim and this line reached nobody but the row.
            if not self._unwanted and not await self._operations.is_unwanted(operation.id):
                ended.append(await self._handled(operation, report))

        try:
            async with asyncio.TaskGroup() as group:  # in a task of its own, so that `stop` cancels it and not us
                storing = group.create_task(report.run(), name=f"progress of {operation.id}")
                self._task = group.create_task(handle(), name=operation.id)
                self._task.add_done_callback(lambda _: storing.cancel())
        except asyncio.CancelledError:  # the engine stops
            if ended:
                await self._operations.finish(claim, ended[0], report.latest)
            else:
                await self._operations.release(claim, "the engine stopped")
            raise
        finally:
            self._task = None
        await self._operations.finish(
            claim, ended[0] if ended else Ended(RunState.CANCELLED, "cancelled"), report.latest
        )

    async def _handled(self, operation: Operation, report: Report) -> Ended:
        try:
            result = await self._handler.run(operation, report)
        except (RuneError, RegistryError) as error:
            log.warning("operation %s failed: %s", operation.id, error)
            return Ended(RunState.FAILED, str(error))
        except Exception:  # the operation's work ends here; the engine goes on with the others
            log.exception("operation %s failed unexpectedly", operation.id)
            return Ended(RunState.FAILED, UNEXPECTED)
        return Ended(RunState.SUCCEEDED, "", result.model_dump(mode="json"))


class Report:
    """Takes a handler's progress at any rate and stores the newest of it now and then. Implements `Progress`."""

    def __init__(self, operations: Operations, claim: Claim, clock: Clock) -> None:
        self._operations = operations
        self._claim = claim
        self._clock = clock
        self._changed = asyncio.Event()
        self._begun: tuple[int, float] | None = None
        self.latest: OperationProgress | None = None
        """The newest, stored or not."""

    async def __call__(self, done: int, total: int, note: str = "") -> None:
        """See `Progress`; never waits."""
        now = self._clock.monotonic()
        self._begun = self._begun or (done, now)
        since, started = self._begun
        left = eta_seconds(done - since, total - done, now - started)
        self.latest = OperationProgress(done=done, total=total, eta_seconds=left, note=note)
        self._changed.set()

    async def run(self) -> None:
        """Store what is new until cancelled."""
        while True:
            await self._changed.wait()
            self._changed.clear()
            if self.latest is not None:
                try:
                    await self._operations.progress(self._claim, self.latest)
                except DatabaseError as error:  # it is only progress: the work goes on, and its end will be told
                    log.error("progress of %s was not stored: %s", self._claim.job_id, error)
            await asyncio.sleep(STORE_EVERY_S)
