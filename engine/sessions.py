"""Sessions: a task, how far it is, and what came of it.

A session is a job (`engine.jobs` has the states and their diagram) with a task and results. Both rows are created
in one transaction and every move of the job is a move of the session: state, reason and times live in the job's row
alone, the rest in the session's. Each change writes one event of the subject `session/<id>` with the fields of
`SessionRecord` that changed, so the log replays to the records.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from functools import partial
from typing import Any

from pydantic import JsonValue

from engine.api_models import (
    EventKind,
    Outcome,
    PhaseStatus,
    RunState,
    SessionCreate,
    SessionRecord,
)
from engine.errors import NotFoundError
from engine.jobs import Claim, Job, Jobs, OnCrash
from registry.clock import Clock
from registry.crash import crash_point
from registry.db import Database, Reader, Row, Transaction
from registry.journal import Recorder

KIND = "session"
"""`jobs.kind` of a session."""

MAX_PAGE = 1000
"""Sessions of one answer: about a megabyte of JSON with ordinary tasks."""

_FROM = "FROM sessions JOIN jobs USING (id)"
_COLUMNS = (
    "id, task, state, reason, outcome, phases, attempts, tokens, seconds, adapter, adapter_reason, backend, model,"
    " sandbox_level, run_id, created_at, started_at, finished_at"
)
_EXISTS = "SELECT 1 FROM jobs WHERE id = ?"
_INSERT = "INSERT INTO sessions (id, task, run_id, adapter) VALUES (?, ?, ?, ?)"
_SELECT = f"SELECT {_COLUMNS}, code, summary {_FROM} WHERE id = ?"
_PAGE = f"""
SELECT {_COLUMNS} {_FROM}
WHERE (:state IS NULL OR state = :state) AND (:run_id IS NULL OR run_id = :run_id)
  AND (:since IS NULL OR created_at >= :since)
ORDER BY number DESC LIMIT :limit OFFSET :offset
"""
_COUNTS = "SELECT state, COUNT(*) AS number FROM jobs WHERE kind = ? GROUP BY state"
_UPDATE = """
UPDATE sessions SET outcome = :outcome, phases = :phases, attempts = :attempts, tokens = :tokens, seconds = :seconds,
       adapter = :adapter, adapter_reason = :adapter_reason, backend = :backend, model = :model,
       sandbox_level = :sandbox_level, code = :code, summary = :summary
WHERE id = :id
"""


@dataclass(frozen=True)
class Changes:
    """What a session learned about itself; None leaves a field as it is."""

    outcome: Outcome | None = None
    phases: tuple[PhaseStatus, ...] | None = None
    attempts: int | None = None
    tokens: int | None = None
    seconds: float | None = None
    adapter: str | None = None
    adapter_reason: str | None = None
    backend: str | None = None
    model: str | None = None
    sandbox_level: str | None = None
    code: str | None = None
    summary: Mapping[str, JsonValue] | None = None

    def given(self) -> dict[str, Any]:
        """The fields that are to change."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: value for name, value in values.items() if value is not None}


@dataclass(frozen=True)
class Query:
    """Which sessions to list, newest first."""

    state: RunState | None = None
    run_id: str | None = None
    since: str | None = None
    """ISO timestamp: created then or later."""
    limit: int = 100
    offset: int = 0


class Sessions:
    """Every session of one home."""

    def __init__(self, db: Database, jobs: Jobs, recorder: Recorder, clock: Clock) -> None:
        self._db = db
        self._jobs = jobs
        self._recorder = recorder
        self._clock = clock

    async def create(self, body: SessionCreate) -> SessionRecord:
        """Accept a task. When this returns it is on disk and will not be lost."""
        record = await self._db.write(partial(self._create, body=body))
        crash_point("session.after_create")
        return record

    def _create(self, tx: Transaction, body: SessionCreate) -> SessionRecord:
        session_id = self._free_id(tx)
        self._jobs.enqueue(tx, session_id, KIND, OnCrash.WAIT if body.run_id else OnCrash.REQUEUE)
        task = body.task.model_dump_json()
        tx.execute(_INSERT, (session_id, task, body.run_id, body.adapter))
        record = _read(tx, session_id)
        self._record(tx, EventKind.CREATED, session_id, record.model_dump(mode="json"))
        return record

    def _free_id(self, tx: Transaction) -> str:
        # 8 digits are what a person can type; after 10,000 sessions one in 430,000 new ids is taken.
        while True:
            session_id = f"rune-{self._clock.hex_id(8)}"
            if tx.execute(_EXISTS, (session_id,)).fetchone() is None:
                return session_id

    async def get(self, session_id: str) -> SessionRecord:
        """One session, whole.

        Raises:
            NotFoundError
        """
        return await self._db.read(partial(_read, session_id=session_id))

    async def page(self, query: Query) -> list[SessionRecord]:
        """The sessions that match, newest first, without their code and summary."""
        return await self._db.read(partial(_read_page, query=query))

    async def counts(self) -> dict[RunState, int]:
        """How many sessions stand in each state; every state is a key."""
        return await self._db.read(_read_counts)

    async def claim(self) -> tuple[Claim, SessionRecord] | None:
        """Take the oldest queued session to run it, or None."""
        claimed = await self._db.write(self._claim)
        if claimed is not None:
            crash_point("job.after_claim")
        return claimed

    def _claim(self, tx: Transaction) -> tuple[Claim, SessionRecord] | None:
        claim = self._jobs.claim(tx, KIND)
        if claim is None:
            return None
        return claim, self._moved(tx, self._jobs.get(tx, claim.job_id))

    async def finish(self, claim: Claim, state: RunState, reason: str = "", changes: Changes | None = None) -> None:
        """Record how the session ended, with what came of it, in one transaction.

        Raises:
            LeaseLostError: it is not this claim's any more; nothing is changed.
        """
        crash_point("job.before_finish")
        await self._db.write(partial(self._finish, claim=claim, state=state, reason=reason, changes=changes))
        crash_point("job.after_finish")

    def _finish(
        self, tx: Transaction, claim: Claim, state: RunState, reason: str, changes: Changes | None
    ) -> SessionRecord:
        self._jobs.finish(tx, claim, state, reason)
        return self._moved(tx, self._jobs.get(tx, claim.job_id), (changes or Changes()).given())

    async def update(self, session_id: str, changes: Changes) -> None:
        """Record progress; nothing is written when nothing differs.

        Raises:
            NotFoundError
        """
        await self._db.write(partial(self._update, session_id=session_id, changes=changes))

    def _update(self, tx: Transaction, session_id: str, changes: Changes) -> None:
        changed = self._store(tx, _read(tx, session_id), changes.given())
        if changed:
            self._record(tx, EventKind.UPDATED, session_id, changed)

    def _store(self, tx: Transaction, before: SessionRecord, wanted: Mapping[str, Any]) -> dict[str, Any]:
        """Write the fields that differ; gives them as JSON values."""
        changed = {name: value for name, value in wanted.items() if value != getattr(before, name)}
        if not changed:
            return {}
        after = before.model_copy(update=changed).model_dump(mode="json")
        texts = {name: json.dumps(after[name]) for name in ("phases", "summary") if after[name] is not None}
        tx.execute(_UPDATE, {**after, "task": None, **texts})
        return {name: after[name] for name in changed}

    async def cancel(self, session_id: str) -> SessionRecord:
        """Cancel a queued session, or ask a running one to stop.

        Raises:
            NotFoundError
            ConflictError: it has ended.
        """
        return await self._db.write(partial(self._cancel, session_id=session_id))

    def _cancel(self, tx: Transaction, session_id: str) -> SessionRecord:
        before = _read(tx, session_id)
        job = self._jobs.cancel(tx, session_id)
        return self._moved(tx, job) if (job.state, job.reason) != (before.state, before.reason) else before

    async def resume(self, session_id: str) -> SessionRecord:
        """Queue a stopped session again; it goes on from its last finished step.

        Raises:
            NotFoundError
            ConflictError: it is queued, running, or has succeeded.
        """
        return await self._db.write(partial(self._resume, session_id=session_id))

    def _resume(self, tx: Transaction, session_id: str) -> SessionRecord:
        _read(tx, session_id)
        return self._moved(tx, self._jobs.resume(tx, session_id), {"outcome": None})

    async def release_all(self) -> None:
        """Give up the sessions of this engine because it stops; they stay resumable."""
        await self._db.write(lambda tx: self._follow(tx, self._jobs.release_all(tx, KIND)))

    async def heartbeat(self, claims: Iterable[Claim]) -> list[Claim]:
        """Note that these sessions are being worked on; gives the claims that are not held any more."""
        held = list(claims)
        return await self._db.write(lambda tx: [claim for claim in held if not self._jobs.heartbeat(tx, claim)])

    async def recover(self) -> list[SessionRecord]:
        """Settle the sessions of engines that died; gives those that moved. Call it before the first claim."""
        return await self._db.write(self._recover)

    def _recover(self, tx: Transaction) -> list[SessionRecord]:
        return self._follow(tx, self._jobs.recover(tx))

    def _follow(self, tx: Transaction, jobs: Iterable[Job]) -> list[SessionRecord]:
        return [self._moved(tx, job) for job in jobs if job.kind == KIND]

    def _moved(self, tx: Transaction, job: Job, wanted: Mapping[str, Any] | None = None) -> SessionRecord:
        """The session follows its job, which has just moved: one event for the move and what came with it."""
        wanted = dict(wanted or {})
        if job.state is RunState.CANCELLED:
            wanted["outcome"] = Outcome.CANCELLED
        changed = self._store(tx, _read(tx, job.id), wanted)
        move = {"state": job.state, "reason": job.reason, "started_at": job.started_at, "finished_at": job.finished_at}
        self._record(tx, EventKind.UPDATED, job.id, {**move, **changed})
        return _read(tx, job.id)

    def _record(self, tx: Transaction, kind: EventKind, session_id: str, payload: Mapping[str, object]) -> None:
        self._recorder.record(tx, kind=kind, subject=f"session/{session_id}", payload=payload, session_id=session_id)


def _read(reader: Reader, session_id: str) -> SessionRecord:
    row = reader.execute(_SELECT, (session_id,)).fetchone()
    if row is None:
        raise NotFoundError(f"There is no session {session_id}; `rune-tui sessions list` shows what there is.")
    return _session(row)


def _read_page(reader: Reader, query: Query) -> list[SessionRecord]:
    assert 0 < query.limit <= MAX_PAGE and query.offset >= 0, "a page is bounded by its caller"
    return [_session(row) for row in reader.execute(_PAGE, vars(query))]


def _read_counts(reader: Reader) -> dict[RunState, int]:
    found = {RunState(row["state"]): int(row["number"]) for row in reader.execute(_COUNTS, (KIND,))}
    return {state: found.get(state, 0) for state in RunState}


def _session(row: Row) -> SessionRecord:
    fields: dict[str, Any] = dict(row)
    texts = {name: json.loads(fields[name]) for name in ("task", "phases", "summary") if fields.get(name) is not None}
    return SessionRecord.model_validate(fields | texts)
