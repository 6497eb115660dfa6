"""Rows of training jobs: how they are read, and where one stands between others."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from engine.api_models import RunState
from engine.api_training import TrainJob
from engine.errors import ConflictError, NotFoundError
from registry.db import Reader, Row
from registry.errors import AdapterAlreadyExists

KIND = "train"
"""`jobs.kind` of a training job."""
MAX_PAGE = 1000
"""Jobs of one answer: about two megabytes of JSON."""

_COLUMNS = "id, kind, state, reason, request, recipe, adapter_id, data_digest, base_digest, progress, metrics"
FROM = "FROM training_jobs JOIN jobs USING (id)"
"""A training job with its job."""
_QUEUE = f"""
WITH queue AS (SELECT id, row_number() OVER (ORDER BY place, number) AS position {FROM} WHERE state = 'queued')
SELECT {_COLUMNS}, created_at, started_at, finished_at, position {FROM} LEFT JOIN queue USING (id)
"""
_ONE = f"{_QUEUE} WHERE id = ?"
_PAGE = f"""
{_QUEUE} WHERE (:state IS NULL OR state = :state)
ORDER BY CASE state WHEN 'running' THEN 0 WHEN 'queued' THEN 1 ELSE 2 END, position, number DESC
LIMIT :limit OFFSET :offset
"""
_COUNTS = "SELECT state, COUNT(*) AS number FROM jobs WHERE kind = ? GROUP BY state"
_SPOKEN_FOR = f"""
SELECT id {FROM} WHERE lower(adapter_id) = lower(?) AND state IN ('queued', 'running', 'interrupted') AND id <> ?
"""
_LATEST_SPEED = f"""
SELECT metrics ->> 'tokens_per_second' AS speed, metrics ->> 'start_seconds' AS start {FROM}
WHERE state = 'succeeded' AND recipe ->> 'method' = ? AND base_digest = ? AND metrics ->> 'tokens_per_second' > 0
ORDER BY finished_at DESC LIMIT 1
"""


@dataclass(frozen=True)
class Speed:
    """How fast a job was on this machine."""

    tokens_per_second: float
    start_seconds: float
    """From its child's start to its first step."""


def check_free(reader: Reader, adapter_id: str, job_id: str = "") -> None:
    """Whether a job may make an adapter of that id.

    Raises:
        AdapterAlreadyExists
        ConflictError: another job is to make it.
    """
    if reader.execute("SELECT 1 FROM adapters WHERE lower(id) = lower(?)", (adapter_id,)).fetchone() is not None:
        raise AdapterAlreadyExists(
            f"adapter {adapter_id} is already published and adapters never change; choose another id"
        )
    other = reader.execute(_SPOKEN_FOR, (adapter_id, job_id)).fetchone()
    if other is not None:
        raise ConflictError(f"Job {other['id']} is to make the adapter {adapter_id}; choose another id, or cancel it.")


def between(others: list[tuple[str, float]], index: int) -> float | None:
    """A place between the neighbours of that index; None where there is no number between them."""
    after = others[index][1] if index < len(others) else None
    before = others[index - 1][1] if index > 0 else None
    if after is None:
        return 1.0 if before is None else before + 1
    if before is None:
        return after - 1
    middle = (before + after) / 2
    return middle if before < middle < after else None


def read_job(reader: Reader, job_id: str) -> TrainJob:
    """One job.

    Raises:
        NotFoundError
    """
    row = reader.execute(_ONE, (job_id,)).fetchone()
    if row is None:
        raise NotFoundError(f"There is no training job {job_id}; `rune-tui jobs list` shows what there is.")
    return _to_job(row)


def read_page(reader: Reader, state: RunState | None, limit: int, offset: int) -> list[TrainJob]:
    """The running one, the queued ones in their order, then the others, newest first."""
    assert 0 < limit <= MAX_PAGE and offset >= 0, "a page is bounded by its caller"
    rows = reader.execute(_PAGE, {"state": state, "limit": limit, "offset": offset}).fetchall()
    return [_to_job(row) for row in rows]


def read_counts(reader: Reader) -> dict[RunState, int]:
    """How many jobs stand in each state; every state is a key."""
    found = {RunState(row["state"]): int(row["number"]) for row in reader.execute(_COUNTS, (KIND,)).fetchall()}
    return {state: found.get(state, 0) for state in RunState}


def latest_speed(reader: Reader, method: str, base_digest: str) -> Speed | None:
    """Of the newest job of that method on that base that succeeded; None where there was none."""
    row = reader.execute(_LATEST_SPEED, (method, base_digest)).fetchone()
    return None if row is None else Speed(float(row["speed"]), float(row["start"] or 0.0))


def _to_job(row: Row) -> TrainJob:
    fields: dict[str, Any] = dict(row)
    parsed = {name: json.loads(fields[name]) for name in ("request", "recipe", "metrics", "progress") if fields[name]}
    return TrainJob.model_validate(fields | parsed)
