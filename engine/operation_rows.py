"""Rows of operations: how they are read and written, and how long one will still take."""

from __future__ import annotations

import json
from typing import Any

from engine.api_learning import Operation
from engine.errors import NotFoundError
from registry.db import Reader, Row, Transaction

MAX_PAGE = 1000
"""Operations of one answer."""

_FROM = "FROM operations JOIN jobs USING (id)"
_STATE = "state, reason, created_at, started_at, finished_at"
_ONE = f"SELECT id, operations.kind, {_STATE}, request, progress, result {_FROM} WHERE id = ?"
PAGE = f"""
SELECT id, operations.kind, {_STATE}, request, progress {_FROM}
WHERE (:kind IS NULL OR operations.kind = :kind) AND (:state IS NULL OR state = :state)
ORDER BY number DESC LIMIT :limit OFFSET :offset
"""
INSERT = "INSERT INTO operations (id, kind, request) VALUES (?, ?, ?)"


def eta_seconds(done: int, left: int, elapsed_s: float) -> float | None:
    """Seconds that what is left will take at the pace so far; None where nothing was done yet. Pure.

    Args:
        done: steps of this run alone; what an earlier run did took no time of this one.
    """
    if left <= 0:
        return 0.0
    return None if done <= 0 else elapsed_s / done * left


def read_operation(reader: Reader, operation_id: str) -> Operation:
    """One operation, whole.

    Raises:
        NotFoundError
    """
    row = reader.execute(_ONE, (operation_id,)).fetchone()
    if row is None:
        raise NotFoundError(f"There is no operation {operation_id}; `rune-tui operations list` shows what there is.")
    return to_operation(row)


def set_columns(tx: Transaction, operation_id: str, **columns: str) -> None:
    """Write these columns of it."""
    assignments = ", ".join(f"{name} = ?" for name in columns)
    tx.execute(f"UPDATE operations SET {assignments} WHERE id = ?", (*columns.values(), operation_id))


def move_of(operation: Operation) -> dict[str, Any]:
    """The fields that follow its job, as JSON values."""
    return operation.model_dump(mode="json", include={"state", "reason", "started_at", "finished_at"})


def to_operation(row: Row) -> Operation:
    """The row of a query of this module."""
    fields: dict[str, Any] = dict(row)
    parsed = {name: json.loads(fields[name]) for name in ("request", "progress", "result") if fields.get(name)}
    return Operation.model_validate(fields | parsed)
