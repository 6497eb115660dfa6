"""The registry's history: every change with what was there before it, and the place that undo and redo stand at.

    (new change) ──► done ◄──redo── undone ──(another new change)──► dropped        dropped: seen, never redone
                      │               ▲
                      └─────undo──────┘

Undo takes the newest change that is done, redo the oldest that is undone: those are neighbours, as in an editor.
The rows are in the database, so both work after a restart, and for what a script, a sweep or another terminal did.
Each row, and each move of its state, is also an event (`change/<number>`), so the journal alone gives them back.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, cast

from registry.clock import Clock, timestamp
from registry.db import Reader, Row, Transaction
from registry.errors import AdapterRejected
from registry.journal import Recorder

MAX_HISTORY = 500
"""Changes of one page; more than anybody reads at once."""

PUBLISHED = "published"
"""The one change whose way back is not what was before it: an adapter is never deleted, so it is archived."""

Value = str | float | bool | None
Values = Mapping[str, Value]
"""Column of the adapter, or alias (with an @ in it), to its value."""


class ChangeState(StrEnum):
    """Where a change stands."""

    DONE = "done"
    UNDONE = "undone"
    DROPPED = "dropped"
    """It was undone, and then something else was changed: it cannot be redone."""


@dataclass(frozen=True, slots=True)
class Change:
    """One change of the registry."""

    number: int
    subject: str
    """`adapter/<id>` or `alias/<name>`."""
    what: str
    """published, archived, restored, evaluated, promoted, demoted, alias moved, alias removed, rolled back."""
    before: Values
    after: Values
    forced: bool
    state: ChangeState
    recorded_at: str
    """ISO 8601, UTC."""

    @property
    def way_back(self) -> Values:
        """The values that undo it."""
        return {"is_archived": True} if self.what == PUBLISHED else self.before

    @property
    def sentence(self) -> str:
        """The change in one line, as a person is asked about it."""
        return f"change {self.number}: {self.subject.partition('/')[2]} {self.what}"


@dataclass(frozen=True, slots=True)
class History:
    """Writes of the history. Every method runs inside one `Database.write`."""

    clock: Clock
    recorder: Recorder

    def note(
        self, tx: Transaction, subject: str, what: str, before: Values, after: Values, *, forced: bool = False
    ) -> int:
        """Add a change that was done in this transaction; gives its number. What was undone can no more be redone."""
        for row in tx.execute("SELECT number FROM registry_changes WHERE state = 'undone'").fetchall():
            self.mark(tx, int(row[0]), ChangeState.DROPPED)
        now = timestamp(self.clock.now())
        number = int(
            tx.execute(
                "INSERT INTO registry_changes (subject, what, was, became, forced, state, recorded_at) "
                "VALUES (?, ?, ?, ?, ?, 'done', ?) RETURNING number",
                (subject, what, json.dumps(before), json.dumps(after), forced, now),
            ).fetchone()[0]
        )
        payload: dict[str, object] = {"subject": subject, "what": what, "before": before, "after": after}
        payload |= {"forced": forced, "state": ChangeState.DONE, "recorded_at": now}
        self.recorder.record(tx, kind="created", subject=f"change/{number}", payload=payload)
        return number

    def mark(self, tx: Transaction, number: int, state: ChangeState) -> None:
        """Move a change to another state."""
        tx.execute("UPDATE registry_changes SET state = ? WHERE number = ?", (state, number))
        self.recorder.record(tx, kind="updated", subject=f"change/{number}", payload={"state": state})


def next_undo(reader: Reader) -> Change | None:
    """The change that undo would take back: the newest that is done."""
    return _one(reader, "SELECT * FROM registry_changes WHERE state = 'done' ORDER BY number DESC LIMIT 1")


def next_redo(reader: Reader) -> Change | None:
    """The change that redo would do again: the oldest that is undone."""
    return _one(reader, "SELECT * FROM registry_changes WHERE state = 'undone' ORDER BY number LIMIT 1")


def page(reader: Reader, limit: int, before: int | None = None, subject: str | None = None) -> list[Change]:
    """Changes with a number below `before`, newest first.

    Raises:
        AdapterRejected: the limit is not one of a page.
    """
    if not 1 <= limit <= MAX_HISTORY:
        raise AdapterRejected(f"a page of the history has 1 to {MAX_HISTORY} changes")
    rows = reader.execute(
        "SELECT * FROM registry_changes WHERE (?1 IS NULL OR number < ?1) AND (?2 IS NULL OR subject = ?2) "
        "ORDER BY number DESC LIMIT ?3",
        (before, subject, limit),
    )
    return [_change(row) for row in rows]


def is_rolled_back(reader: Reader, adapter_id: str, champion: str) -> bool:
    """Whether the last that befell an adapter as champion was that it was rolled back.

    Args:
        champion: alias of the champions of its task type.
    """
    rows = reader.execute(
        "SELECT * FROM registry_changes WHERE state = 'done' AND "
        "(subject = ?1 AND what = 'rolled back' OR subject = ?2 AND what = 'promoted') ORDER BY number DESC",
        (f"alias/{champion}", f"adapter/{adapter_id}"),
    )
    for change in map(_change, rows):
        if change.what == "promoted" or change.after.get(champion) == adapter_id:
            return False
        if change.before.get(champion) == adapter_id:
            return True
    return False


def _one(reader: Reader, sql: str) -> Change | None:
    row = reader.execute(sql, ()).fetchone()
    return None if row is None else _change(row)


def _change(row: Row) -> Change:
    return Change(
        number=row["number"],
        subject=row["subject"],
        what=row["what"],
        before=_values(row["was"]),
        after=_values(row["became"]),
        forced=bool(row["forced"]),
        state=ChangeState(row["state"]),
        recorded_at=row["recorded_at"],
    )


def _values(text: str) -> Values:
    return cast("dict[str, Any]", json.loads(text))
