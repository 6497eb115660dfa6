"""What was measured, kept: single samples as they come, and reports.

Samples and reports never change and are found by the digest of what they depend on, so an evaluation that was broken
off goes on where it stood, and a larger one takes over what a smaller one measured. Samples that say nothing (the
model server or the judge failed) are not kept: asked again, they are measured again.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial

from engine.api_learning import EvaluationReport, SampleOutcome, Split
from engine.api_models import EventKind
from registry.clock import Clock, timestamp
from registry.crash import crash_point
from registry.db import Database, Reader, Row, Transaction
from registry.journal import Recorder

MAX_PAGE = 1000
KEYS_AT_ONCE = 500
"""Of one query: well below the variables that SQLite takes."""

_KEEP_SAMPLE = """
INSERT INTO evaluation_samples (key, outcome, reason, code, backend, proven, tokens, created_at)
VALUES (?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (key) DO NOTHING
"""
_SAMPLES = "SELECT key, outcome, reason, code, backend, proven, tokens FROM evaluation_samples WHERE key IN ({})"
_KEEP_REPORT = """
INSERT INTO evaluations (key, adapter, adapter_digest, suite, split, report) VALUES (?, ?, ?, ?, ?, ?)
ON CONFLICT (key) DO UPDATE SET report = excluded.report
"""
_FIND = "SELECT report FROM evaluations WHERE key = ?"
_LATEST = """
SELECT report FROM evaluations WHERE adapter_digest IS ? AND suite = ? AND split = ? ORDER BY number DESC LIMIT 1
"""
_PAGE = """
SELECT report FROM evaluations
WHERE (:adapter IS NULL OR adapter = :adapter) AND (:suite IS NULL OR suite = :suite)
ORDER BY number DESC LIMIT :limit OFFSET :offset
"""


@dataclass(frozen=True)
class Measured:
    """One answer, judged."""

    outcome: SampleOutcome
    reason: str = ""
    """Why it failed, one line."""
    code: str = ""
    backend: str = ""
    """That answered."""
    proven: bool = False
    """The server said that it answered with the very adapter that was asked for, or with none."""
    tokens: int = 0


class Reports:
    """Every sample and every report of one home."""

    def __init__(self, db: Database, recorder: Recorder, clock: Clock) -> None:
        self._db = db
        self._recorder = recorder
        self._clock = clock

    async def samples(self, keys: Sequence[str]) -> dict[str, Measured]:
        """Those of these samples that were measured, by key."""
        return await self._db.read(partial(_read_samples, keys=keys))

    async def keep_sample(self, key: str, sample: Measured) -> None:
        """Store a sample; one that is stored stays as it is."""
        assert sample.outcome is not SampleOutcome.INFRASTRUCTURE, "what says nothing is not kept"
        reason, code = (text.replace("\0", "\N{REPLACEMENT CHARACTER}") for text in (sample.reason, sample.code))
        created = timestamp(self._clock.now())
        row = (key, sample.outcome, reason, code, sample.backend, int(sample.proven), sample.tokens, created)
        await self._db.write(lambda tx: tx.execute(_KEEP_SAMPLE, row))
        crash_point("evaluation.after_sample")

    async def keep(self, report: EvaluationReport) -> None:
        """Store a report, and tell of it; with a key that is stored it takes the other's place."""

        def keep(tx: Transaction) -> None:
            split = report.split.value
            named = (report.key, report.adapter, report.adapter_digest, report.suite, split)
            tx.execute(_KEEP_REPORT, (*named, report.model_dump_json()))
            told = report.model_dump(mode="json", exclude={"sampled"})
            self._recorder.record(tx, kind=EventKind.CREATED, subject=f"evaluation/{report.key[:16]}", payload=told)

        await self._db.write(keep)
        crash_point("evaluation.after_report")

    async def find(self, key: str) -> EvaluationReport | None:
        """The report of that key."""
        return await self._db.read(lambda reader: _first(reader.execute(_FIND, (key,)).fetchall()))

    async def latest(self, adapter_digest: str | None, suite: str, split: Split) -> EvaluationReport | None:
        """The newest report about that adapter, or about the base model, on that split."""
        values = (adapter_digest, suite, split.value)
        return await self._db.read(lambda reader: _first(reader.execute(_LATEST, values).fetchall()))

    async def page(
        self, adapter: str | None = None, suite: str | None = None, limit: int = 100, offset: int = 0
    ) -> list[EvaluationReport]:
        """Reports, newest first.

        Args:
            adapter: only those of this adapter id, or of `base`.
        """
        assert 0 < limit <= MAX_PAGE and offset >= 0, "a page is bounded by its caller"
        values = {"adapter": adapter, "suite": suite, "limit": limit, "offset": offset}
        return await self._db.read(lambda reader: [_report(row) for row in reader.execute(_PAGE, values)])


def _read_samples(reader: Reader, keys: Sequence[str]) -> dict[str, Measured]:
    found: dict[str, Measured] = {}
    for start in range(0, len(keys), KEYS_AT_ONCE):
        some = keys[start : start + KEYS_AT_ONCE]
        rows = reader.execute(_SAMPLES.format(", ".join("?" * len(some))), tuple(some)).fetchall()
        found |= {str(row["key"]): _measured(row) for row in rows}
    return found


def _measured(row: Row) -> Measured:
    outcome = SampleOutcome(row["outcome"])
    return Measured(outcome, row["reason"], row["code"], row["backend"], bool(row["proven"]), row["tokens"])


def _first(rows: Iterable[Row]) -> EvaluationReport | None:
    return next((_report(row) for row in rows), None)


def _report(row: Row) -> EvaluationReport:
    return EvaluationReport.model_validate_json(row["report"])
