"""Trajectories: every attempt of every session, stored whole, in one transaction with its event.

An attempt is appended once and never changed. Its number counts up within its session without gaps: it is given inside
the transaction, so that attempts made side by side cannot take the same one. Its step names where in the session it
was made; appending a step that is there already gives back what was recorded, which is what makes a resume safe.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from functools import partial

from engine.api_models import AttemptRecord, EventKind
from registry.clock import Clock, timestamp
from registry.db import Database, Reader, Transaction
from registry.journal import Recorder

PAGE = 200
"""Attempts that an export holds in memory at once: a few megabytes."""

_INSERT = """
INSERT INTO attempts (session_id, number, step, phase, passed, record, schema_version, created_at)
VALUES (?, ?, ?, ?, ?, ?, ?, ?)
"""
_BY_STEP = "SELECT record FROM attempts WHERE session_id = ? AND step = ?"
_NEXT = "SELECT COALESCE(MAX(number), 0) + 1 AS number FROM attempts WHERE session_id = ?"
_OF_SESSION = "SELECT record FROM attempts WHERE session_id = ? ORDER BY number"
_EXPORT = """
SELECT created_at, session_id, number, record FROM attempts
WHERE (created_at, session_id, number) > (:created_at, :after_session, :number)
  AND (:session_id IS NULL OR session_id = :session_id)
ORDER BY created_at, session_id, number LIMIT :limit
"""


class TrajectoryStore:
    """The attempts of one home."""

    def __init__(self, db: Database, recorder: Recorder, clock: Clock) -> None:
        self._db = db
        self._recorder = recorder
        self._clock = clock

    async def append_step(self, step: str, draft: AttemptRecord) -> tuple[AttemptRecord, bool]:
        """Store an attempt under the next number of its session and the present time, whatever the draft has.

        Returns:
            The record as it is stored, and whether it is new: a step that was recorded before gives that record.
        """
        return await self._db.write(partial(self._append_step, step=step, draft=draft))

    async def attempts(self, session_id: str) -> tuple[AttemptRecord, ...]:
        """All attempts of a session in order; empty for a session that made none."""

        def read(reader: Reader) -> tuple[AttemptRecord, ...]:
            return tuple(_parse(row["record"]) for row in reader.execute(_OF_SESSION, (session_id,)))

        return await self._db.read(read)

    async def export(self, *, since: str | None = None, session_id: str | None = None) -> AsyncIterator[AttemptRecord]:
        """Attempts in order of time, read page by page.

        Args:
            since: ISO timestamp: made then or later.
            session_id: only this session's.
        """
        after = (since or "", "", 0)
        while True:
            page = await self._db.read(partial(_read_page, after=after, session_id=session_id))
            for _, record in page:
                yield record
            if len(page) < PAGE:
                return
            after = page[-1][0]

    def _append_step(self, tx: Transaction, step: str, draft: AttemptRecord) -> tuple[AttemptRecord, bool]:
        known = tx.execute(_BY_STEP, (draft.session_id, step)).fetchone()
        if known is not None:
            return _parse(known["record"]), False
        number = int(tx.execute(_NEXT, (draft.session_id,)).fetchone()["number"])
        record = draft.model_copy(update={"number": number, "created_at": timestamp(self._clock.now())})
        self._insert(tx, record, step)
        return record, True

    def _insert(self, tx: Transaction, record: AttemptRecord, step: str) -> None:
        assert record.number >= 1, "attempts are counted from 1"
        whole = record.model_dump(mode="json")
        # ASCII only: a model's half a surrogate pair is legal in a Python string and not in SQLite's UTF-8.
        text = json.dumps(whole, allow_nan=False, separators=(",", ":"))
        key = (record.session_id, record.number, step, record.phase.value, int(record.passed))
        tx.execute(_INSERT, (*key, text, record.schema_version, record.created_at))
        self._recorder.record(
            tx,
            kind=EventKind.CREATED,
            subject=f"attempt/{record.session_id}.{record.number}",
            payload=whole,
            session_id=record.session_id,
        )


def _read_page(
    reader: Reader, after: tuple[str, str, int], session_id: str | None
) -> list[tuple[tuple[str, str, int], AttemptRecord]]:
    created_at, after_session, number = after
    named = {"created_at": created_at, "after_session": after_session, "number": number}
    rows = reader.execute(_EXPORT, named | {"session_id": session_id, "limit": PAGE})
    return [((row["created_at"], row["session_id"], row["number"]), _parse(row["record"])) for row in rows]


def _parse(text: str) -> AttemptRecord:
    return AttemptRecord.model_validate_json(text)
