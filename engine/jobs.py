"""The durable queue: what was accepted is never lost, and its result is recorded exactly once.

A job is a row. A running row is a lease: it names its owner (one engine process), the attempt, and the machine's
boot. The engine holds the home's lock for as long as it lives, so at start every running row belongs to the dead,
and recovery needs no timeout: nothing that really runs is ever taken away.

                    claim                    finish
        ┌────────┐ ───────► ┌─────────┐ ─────────────► succeeded, failed, cancelled
        │ queued │          │ running │
        └────────┘ ◄─────── └─────────┘ ─────────────► interrupted
          ▲    │   requeue               interrupt         │
          │    └── cancel ──► cancelled                    │
          └──────────────── resume ◄── cancelled, failed, interrupted

Requeue and interrupt happen when the owner went away: `on_crash` of the job says which. A job that took its engine
down `MAX_CRASHES` times is interrupted in either case, so that it cannot do so for ever.

Execution is at least once, the outcome exactly once: `finish` is fenced by owner, attempt and state, and a writer
whose lease is gone changes nothing. Every method takes the caller's transaction, so that a job and what it belongs
to move together; each change writes one event of the subject `job/<id>` in it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from enum import StrEnum
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any

from engine.api_models import EventKind, RunState
from engine.errors import ConflictError, LeaseLostError, NotFoundError
from registry.clock import Clock, timestamp
from registry.db import Reader, Row, Transaction
from registry.journal import Recorder

MAX_CRASHES = 3
"""A job during which its engine died this often waits for its user: it may be the cause."""

LEGAL: Mapping[RunState, frozenset[RunState]] = MappingProxyType(
    {
        RunState.QUEUED: frozenset({RunState.RUNNING, RunState.CANCELLED, RunState.INTERRUPTED}),
        RunState.RUNNING: frozenset(
            {RunState.SUCCEEDED, RunState.FAILED, RunState.CANCELLED, RunState.INTERRUPTED, RunState.QUEUED}
        ),
        RunState.SUCCEEDED: frozenset(),
        RunState.FAILED: frozenset({RunState.QUEUED}),
        RunState.CANCELLED: frozenset({RunState.QUEUED}),
        RunState.INTERRUPTED: frozenset({RunState.QUEUED}),
    }
)
"""State -> the states that may follow it."""

RESUMABLE = frozenset(state for state, after in LEGAL.items() if RunState.QUEUED in after) - {RunState.RUNNING}
"""States from which a user may put a job back into the queue."""

_COLUMNS = (
    "id, kind, state, reason, on_crash, owner, boot_id, attempt, crashes, cancel_requested,"
    " created_at, started_at, finished_at"
)
_SELECT = f"SELECT {_COLUMNS} FROM jobs WHERE id = ?"
_INSERT = "INSERT INTO jobs (id, kind, state, on_crash, created_at) VALUES (?, ?, 'queued', ?, ?)"
_NEXT = f"SELECT {_COLUMNS} FROM jobs WHERE state = 'queued' AND kind = ? ORDER BY number LIMIT 1"
_ORPHANS = f"SELECT {_COLUMNS} FROM jobs WHERE state = 'running' AND kind LIKE ? ORDER BY number"
_HELD = f"SELECT {_COLUMNS} FROM jobs WHERE state = 'running' AND owner = ? AND kind LIKE ? ORDER BY number"
_WAITING = f"SELECT {_COLUMNS} FROM jobs WHERE state = 'queued' AND on_crash = 'wait' AND kind LIKE ? ORDER BY number"
_UPDATE = """
UPDATE jobs SET state = :state, reason = :reason, owner = :owner, boot_id = :boot_id, attempt = :attempt,
       crashes = :crashes, cancel_requested = :cancel_requested, started_at = :started_at, finished_at = :finished_at
WHERE id = :id AND state = :from_state AND attempt = :from_attempt
"""
_FINISH = """
UPDATE jobs SET state = ?, reason = ?, owner = NULL, boot_id = NULL, cancel_requested = 0, finished_at = ?
WHERE id = ? AND owner = ? AND attempt = ? AND state = 'running'
"""
_HEARTBEAT = """
UPDATE jobs SET heartbeat_at = ? WHERE id = ? AND owner = ? AND attempt = ? AND state = 'running'
"""


class OnCrash(StrEnum):
    """What becomes of a job whose engine went away."""

    REQUEUE = "requeue"
    """It starts again by itself, from its last finished step."""
    WAIT = "wait"
    """It is interrupted and waits for its user: a batch is only resumed when asked for."""


@dataclass(frozen=True)
class Job:
    """A row of the queue."""

    id: str
    kind: str
    state: RunState
    reason: str
    on_crash: OnCrash
    owner: str | None
    boot_id: str | None
    attempt: int
    crashes: int
    cancel_requested: bool
    created_at: str
    started_at: str | None
    finished_at: str | None


@dataclass(frozen=True)
class Claim:
    """The right to finish one attempt of a job."""

    job_id: str
    owner: str
    attempt: int


class Jobs:
    """The queue, as one engine process sees it.

    Args:
        owner: names this process among all that ever ran; never used again.
    """

    def __init__(self, recorder: Recorder, clock: Clock, owner: str) -> None:
        self._recorder = recorder
        self._clock = clock
        self._owner = owner

    def enqueue(self, tx: Transaction, job_id: str, kind: str, on_crash: OnCrash) -> Job:
        """Accept a job; from the commit on it is never lost."""
        tx.execute(_INSERT, (job_id, kind, on_crash, self._now()))
        job = self.get(tx, job_id)
        self._recorder.record(tx, kind=EventKind.CREATED, subject=f"job/{job_id}", payload=asdict(job))
        return job

    def get(self, reader: Reader, job_id: str) -> Job:
        """The job as it is now.

        Raises:
            NotFoundError
        """
        row = reader.execute(_SELECT, (job_id,)).fetchone()
        if row is None:
            raise NotFoundError(f"There is no job {job_id}.")
        return _job(row)

    def claim(self, tx: Transaction, kind: str) -> Claim | None:
        """Take the oldest queued job of this kind, or None."""
        row = tx.execute(_NEXT, (kind,)).fetchone()
        return None if row is None else self._claim(tx, _job(row))

    def claim_one(self, tx: Transaction, job_id: str) -> Claim:
        """Take this queued job: for a queue with an order of its own.

        Raises:
            NotFoundError
            ConflictError: it is not queued.
        """
        job = self.get(tx, job_id)
        if job.state is not RunState.QUEUED:
            raise ConflictError(f"{job_id} is {job.state}: only a queued one is taken.")
        return self._claim(tx, job)

    def _claim(self, tx: Transaction, job: Job) -> Claim:
        self._move(
            tx,
            job,
            state=RunState.RUNNING,
            reason="",
            owner=self._owner,
            boot_id=boot_id(),
            attempt=job.attempt + 1,
            started_at=job.started_at or self._now(),
            finished_at=None,
        )
        return Claim(job.id, self._owner, job.attempt + 1)

    def finish(self, tx: Transaction, claim: Claim, state: RunState, reason: str = "") -> None:
        """Record how the claimed attempt ended.

        Raises:
            LeaseLostError: the job is not this claim's any more; nothing is changed.
        """
        assert state in LEGAL[RunState.RUNNING], f"running -> {state} is not a transition"
        fence = (claim.job_id, claim.owner, claim.attempt)
        done = tx.execute(_FINISH, (state, reason, self._now(), *fence))
        if done.rowcount != 1:
            raise LeaseLostError
        after = self.get(tx, claim.job_id)
        changed = ("state", "reason", "owner", "boot_id", "cancel_requested", "finished_at")
        self._record(tx, claim.job_id, {name: getattr(after, name) for name in changed})

    def give_up(self, tx: Transaction, claim: Claim, reason: str, *, crashed: bool) -> Job:
        """Let go of a claimed attempt that neither succeeded nor failed: the job is requeued or interrupted.

        Args:
            crashed: counts towards `MAX_CRASHES`.

        Raises:
            LeaseLostError: the job is not this claim's any more; nothing is changed.
        """
        job = self.get(tx, claim.job_id)
        if (job.owner, job.attempt, job.state) != (claim.owner, claim.attempt, RunState.RUNNING):
            raise LeaseLostError
        return self._give_up(tx, job, reason, crashed=crashed)

    def heartbeat(self, tx: Transaction, claim: Claim) -> bool:
        """Note that the claim is alive; False if it is not held any more. No event, since no state changes."""
        done = tx.execute(_HEARTBEAT, (self._now(), claim.job_id, claim.owner, claim.attempt))
        return done.rowcount == 1

    def cancel(self, tx: Transaction, job_id: str) -> Job:
        """A queued job is cancelled at once, a running one is asked to stop; asking twice is harmless.

        Raises:
            NotFoundError
            ConflictError: it has ended.
        """
        job = self.get(tx, job_id)
        match job.state:
            case RunState.QUEUED:
                self._move(tx, job, state=RunState.CANCELLED, reason="cancelled", finished_at=self._now())
            case RunState.RUNNING if not job.cancel_requested:
                self._move(tx, job, state=RunState.RUNNING, reason="cancel requested", cancel_requested=True)
            case RunState.RUNNING:
                pass
            case _:
                raise ConflictError(f"{job_id} is {job.state}: there is nothing to cancel.")
        return self.get(tx, job_id)

    def hold(self, tx: Transaction, job_id: str, reason: str) -> Job:
        """Take a queued job out of the queue until its user resumes it.

        Raises:
            NotFoundError
            ConflictError: it is not queued.
        """
        job = self.get(tx, job_id)
        if job.state is not RunState.QUEUED:
            raise ConflictError(f"{job_id} is {job.state}: only a queued one is held.")
        self._move(tx, job, state=RunState.INTERRUPTED, reason=reason, finished_at=self._now())
        return self.get(tx, job_id)

    def resume(self, tx: Transaction, job_id: str) -> Job:
        """Put a stopped job back into the queue, in its old place.

        Raises:
            NotFoundError
            ConflictError: it is queued, running, or has succeeded.
        """
        job = self.get(tx, job_id)
        if job.state not in RESUMABLE:
            raise ConflictError(f"{job_id} is {job.state}: only a cancelled, failed or interrupted one resumes.")
        self._move(tx, job, state=RunState.QUEUED, reason="", crashes=0, finished_at=None)
        return self.get(tx, job_id)

    def release_all(self, tx: Transaction, kind: str = "%") -> list[Job]:
        """Give up what this engine holds of a kind because it stops; each is requeued or interrupted, as it wants."""
        held = [_job(row) for row in tx.execute(_HELD, (self._owner, kind)).fetchall()]
        return [self._give_up(tx, job, "the engine stopped", crashed=False) for job in held]

    def recover(self, tx: Transaction, kind: str = "%") -> list[Job]:
        """Settle what dead engines left of a kind. Call it once, with the home's lock held, before the first claim.

        Returns:
            The jobs that moved, as they are now.
        """
        orphans = [_job(row) for row in tx.execute(_ORPHANS, (kind,)).fetchall()]
        moved = [self._give_up(tx, job, "the engine died while it ran", crashed=True) for job in orphans]
        for job in [_job(row) for row in tx.execute(_WAITING, (kind,)).fetchall()]:
            reason = "the engine stopped before its turn"
            self._move(tx, job, state=RunState.INTERRUPTED, reason=reason, finished_at=self._now())
            moved.append(self.get(tx, job.id))
        return moved

    def _give_up(self, tx: Transaction, job: Job, reason: str, *, crashed: bool) -> Job:
        crashes = job.crashes + int(crashed)
        gone: dict[str, Any] = {"owner": None, "boot_id": None, "crashes": crashes, "cancel_requested": False}
        if job.cancel_requested:
            self._move(tx, job, state=RunState.CANCELLED, reason="cancelled", finished_at=self._now(), **gone)
        elif job.on_crash is OnCrash.WAIT or crashes >= MAX_CRASHES:
            self._move(tx, job, state=RunState.INTERRUPTED, reason=reason, finished_at=self._now(), **gone)
        else:
            self._move(tx, job, state=RunState.QUEUED, reason=reason, **gone)
        return self.get(tx, job.id)

    def _move(self, tx: Transaction, job: Job, *, state: RunState, **changes: object) -> None:
        assert state == job.state or state in LEGAL[job.state], f"{job.state} -> {state} is not a transition"
        changed = {"state": state, **changes}
        fence = {"from_state": job.state, "from_attempt": job.attempt}
        done = tx.execute(_UPDATE, {**asdict(job), **changed, **fence})
        assert done.rowcount == 1, f"{job.id} changed under the only writer"
        self._record(tx, job.id, changed)

    def _record(self, tx: Transaction, job_id: str, changed: Mapping[str, object]) -> None:
        self._recorder.record(tx, kind=EventKind.UPDATED, subject=f"job/{job_id}", payload=changed)

    def _now(self) -> str:
        return timestamp(self._clock.now())


@cache
def boot_id() -> str:
    """The kernel's name for this boot; empty where it has none."""
    path = Path("/proc/sys/kernel/random/boot_id")
    return path.read_text(encoding="ascii").strip() if path.exists() else ""


def _job(row: Row) -> Job:
    fields: dict[str, Any] = dict(row)
    fields["state"] = RunState(fields["state"])
    fields["on_crash"] = OnCrash(fields["on_crash"])
    fields["cancel_requested"] = bool(fields["cancel_requested"])
    return Job(**fields)
