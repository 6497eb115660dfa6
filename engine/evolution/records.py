"""The rows of sweeps: plans, merges and controls. Each write is one event, in its own transaction.

    sweep of a task type:  planned ──► summarised            (`evolution/<sweep>`)
    merge:                 made with its child ──► gated: promoted | challenger | kept    (`evolution/<child>`)
    control:               meant ──► measured ──► ended      (`evolution/<adapter>`)

What a sweep means to do is written before it is done, so that whoever goes on after it does the same, once.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

from pydantic import JsonValue

from engine.api_evolution import ControlResult, TypeSummary
from engine.api_models import EventKind
from registry.clock import Clock, timestamp
from registry.db import Database, Reader, Row, Transaction
from registry.journal import Recorder

_PLAN = "SELECT before, pruned, summary FROM evolution_sweeps WHERE sweep = ? AND task_type = ?"
_MERGE = "SELECT child_id, parents, sweep, operator, generation, outcome FROM evolution_merges"


class Outcome(StrEnum):
    """What the gate made of a child."""

    PROMOTED = "promoted"
    CHALLENGER = "challenger"
    """Not proven, and nothing speaks against it: the next to be looked at."""
    KEPT = "kept"
    """In the population, and no more."""


@dataclass(frozen=True)
class Plan:
    """What a sweep meant to do to a task type when it first looked."""

    before: int
    """Adapters in use."""
    pruned: tuple[str, ...]
    summary: TypeSummary | None
    """Once it was done."""


@dataclass(frozen=True)
class Merge:
    """A child that a sweep made."""

    child_id: str
    parents: frozenset[str]
    sweep: str
    operator: Mapping[str, JsonValue]
    generation: int
    outcome: Outcome | None
    """None: nobody came to look at the gate yet."""


@dataclass(frozen=True)
class Control:
    """An adapter that exists to be compared with."""

    adapter_id: str
    sweep: str
    name: str
    result: ControlResult | None
    ended: bool


class Records:
    """Every sweep of one home."""

    def __init__(self, db: Database, recorder: Recorder, clock: Clock) -> None:
        self._db = db
        self._recorder = recorder
        self._clock = clock

    # --- plans ---

    async def plan(self, sweep: str, task_type: str) -> Plan | None:
        """What was planned; None before."""
        row = await self._db.read(lambda reader: reader.execute(_PLAN, (sweep, task_type)).fetchone())
        if row is None:
            return None
        summary = None if row["summary"] is None else TypeSummary.model_validate_json(row["summary"])
        return Plan(int(row["before"]), tuple(json.loads(row["pruned"])), summary)

    async def put_plan(self, sweep: str, task_type: str, before: int, pruned: Sequence[str]) -> None:
        """Keep what is to be done, before any of it is."""

        def write(tx: Transaction) -> None:
            values = (sweep, task_type, before, json.dumps(list(pruned)))
            tx.execute("INSERT INTO evolution_sweeps (sweep, task_type, before, pruned) VALUES (?, ?, ?, ?)", values)
            payload = {"task_type": task_type, "before": before, "prune": list(pruned)}
            self._record(tx, EventKind.CREATED, sweep, payload)

        await self._db.write(write)

    async def put_summary(self, sweep: str, task_type: str, summary: TypeSummary) -> None:
        """The task type is done with."""

        def write(tx: Transaction) -> None:
            text = summary.model_dump_json()
            tx.execute(
                "UPDATE evolution_sweeps SET summary = ? WHERE sweep = ? AND task_type = ?", (text, sweep, task_type)
            )
            self._record(tx, EventKind.UPDATED, sweep, {"task_type": task_type, "summary": json.loads(text)})

        await self._db.write(write)

    # --- merges ---

    def add_merge(self, tx: Transaction, merge: Merge, task_type: str) -> None:
        """In the transaction that lists the child: neither is ever without the other."""
        tx.execute(
            "INSERT INTO evolution_merges (child_id, parents, sweep, task_type, operator, generation, created_at) "
            "VALUES (?, ?, ?, ?, ?, ?, ?)",
            (
                *(merge.child_id, json.dumps(sorted(merge.parents)), merge.sweep, task_type),
                *(json.dumps(dict(merge.operator)), merge.generation, timestamp(self._clock.now())),
            ),
        )
        payload = {
            "sweep": merge.sweep,
            "parents": sorted(merge.parents),
            "operator": dict(merge.operator),
            "generation": merge.generation,
        }
        self._record(tx, EventKind.CREATED, merge.child_id, payload)

    async def merges(self, task_type: str) -> list[Merge]:
        """Every one of a task type, by child."""

        def read(reader: Reader) -> list[Merge]:
            rows = reader.execute(f"{_MERGE} WHERE task_type = ? ORDER BY created_at, child_id", (task_type,))
            return [_to_merge(row) for row in rows]

        return await self._db.read(read)

    async def gated(self, child_id: str, outcome: Outcome) -> None:
        """The gate was looked at; from now on the child is one of its population."""

        def write(tx: Transaction) -> None:
            tx.execute("UPDATE evolution_merges SET outcome = ? WHERE child_id = ?", (outcome, child_id))
            self._record(tx, EventKind.UPDATED, child_id, {"outcome": outcome})

        await self._db.write(write)

    # --- controls ---

    async def mean_control(self, adapter_id: str, sweep: str, name: str) -> Control:
        """Note that an adapter of that id is to be made for comparison; gives what is known of it already."""

        def write(tx: Transaction) -> Control:
            known = _control(tx, adapter_id)
            if known is not None and known.ended and known.result is None:  # stopped before it was measured
                tx.execute("UPDATE evolution_controls SET ended = 0 WHERE adapter_id = ?", (adapter_id,))
                self._record(tx, EventKind.UPDATED, adapter_id, {"ended": False})
                return replace(known, ended=False)
            if known is not None:
                return known
            tx.execute(
                "INSERT INTO evolution_controls (adapter_id, sweep, name) VALUES (?, ?, ?)", (adapter_id, sweep, name)
            )
            self._record(tx, EventKind.CREATED, adapter_id, {"sweep": sweep, "control": name})
            return Control(adapter_id, sweep, name, None, ended=False)

        return await self._db.write(write)

    async def put_control(self, adapter_id: str, result: ControlResult) -> None:
        """Keep what it came to."""

        def write(tx: Transaction) -> None:
            text = result.model_dump_json()
            tx.execute("UPDATE evolution_controls SET result = ? WHERE adapter_id = ?", (text, adapter_id))
            self._record(tx, EventKind.UPDATED, adapter_id, {"result": json.loads(text)})

        await self._db.write(write)

    async def end_control(self, adapter_id: str) -> None:
        """It was archived, or never came to be."""

        def write(tx: Transaction) -> None:
            tx.execute("UPDATE evolution_controls SET ended = 1 WHERE adapter_id = ?", (adapter_id,))
            self._record(tx, EventKind.UPDATED, adapter_id, {"ended": True})

        await self._db.write(write)

    async def controls(self, *, ended: bool | None = None) -> list[Control]:
        """Every control; with `ended`, only those that have or have not."""

        def read(reader: Reader) -> list[Control]:
            rows = reader.execute(
                "SELECT adapter_id, sweep, name, result, ended FROM evolution_controls "
                "WHERE ?1 IS NULL OR ended = ?1 ORDER BY adapter_id",
                (ended,),
            )
            return [_to_control(row) for row in rows]

        return await self._db.read(read)

    def _record(self, tx: Transaction, kind: EventKind, name: str, payload: Mapping[str, object]) -> None:
        self._recorder.record(tx, kind=kind, subject=f"evolution/{name}", payload=payload)


def _to_merge(row: Row) -> Merge:
    return Merge(
        child_id=row["child_id"],
        parents=frozenset(json.loads(row["parents"])),
        sweep=row["sweep"],
        operator=json.loads(row["operator"]),
        generation=int(row["generation"]),
        outcome=None if row["outcome"] is None else Outcome(row["outcome"]),
    )


def _control(reader: Reader, adapter_id: str) -> Control | None:
    row = reader.execute(
        "SELECT adapter_id, sweep, name, result, ended FROM evolution_controls WHERE adapter_id = ?", (adapter_id,)
    ).fetchone()
    return None if row is None else _to_control(row)


def _to_control(row: Row) -> Control:
    result = None if row["result"] is None else ControlResult.model_validate_json(row["result"])
    return Control(row["adapter_id"], row["sweep"], row["name"], result, bool(row["ended"]))
