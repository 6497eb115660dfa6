"""Evidence to decide by, and finished operations that hold it, without measuring anything."""

from __future__ import annotations

import json
from typing import Any

from engine.api_evolution import AnchorResult, Contamination, Evidence, EvidenceRequest, TextDrift, Verdict
from engine.api_learning import Operation, OperationKind, RateRecord
from engine.api_models import RunState
from engine.core import Engine
from engine.errors import NotFoundError
from engine.jobs import Jobs, OnCrash
from engine.operation_rows import INSERT, set_columns
from engine.operations import KIND_PREFIX
from registry.clock import SystemClock
from registry.db import Transaction

START = "2026-01-01T00:00:00.000000+00:00"


def rate(passed: int, total: int) -> RateRecord:
    """A rate with a made-up interval around it."""
    value = passed / total
    return RateRecord(passed=passed, total=total, value=value, low=max(0.0, value - 0.1), high=min(1.0, value + 0.05))


def evidence(adapter: str = "sort-v1", digest: str = "ab" * 32, **changes: Any) -> Evidence:
    """Evidence that proves a gain over the base model."""
    fields: dict[str, Any] = {
        "adapter": adapter,
        "adapter_digest": digest,
        "incumbent": "base",
        "to_tier": "domain",
        "suite": "runekit",
        "seed": 7,
        "tasks": 60,
        "wins": 52,
        "losses": 1,
        "ties": 7,
        "e_value": 3.1e13,
        "threshold": 20.0,
        "difference": 0.85,
        "difference_low": 0.75,
        "difference_high": 0.93,
        "adapter_rate": rate(55, 60),
        "incumbent_rate": rate(4, 60),
        "ood_delta": 0.12,
        "ood_low": 0.03,
        "memoriser": False,
        "anchors": (
            AnchorResult(name="general", adapter=rate(30, 40), reference=rate(31, 40), difference_low=-0.04, kept=True),
        ),
        "contamination": Contamination(checked=True, rows=230, exact=0, near=0),
        "text": TextDrift(
            text_digest="0" * 64,
            base_digest="1" * 64,
            tokens=2021,
            base_perplexity=21.19,
            adapter_perplexity=21.49,
            kl=0.017,
        ),
        "verdict": Verdict.PROVEN,
        "reasons": (),
    }
    return Evidence(**{**fields, **changes})


def operation(found: Evidence, operation_id: str = "evidence-1") -> Operation:
    """A finished operation with that result."""
    request = EvidenceRequest(adapter=found.adapter, suite=found.suite, to_tier=found.to_tier)
    return Operation(
        id=operation_id,
        kind=OperationKind.EVIDENCE,
        state=RunState.SUCCEEDED,
        request=request.model_dump(mode="json"),
        result=found.model_dump(mode="json"),
        created_at=START,
    )


class KnownOperations:
    """Operations as a list that a test fills, oldest first."""

    def __init__(self, *known: Operation) -> None:
        self.known = list(known)

    async def get(self, operation_id: str) -> Operation:
        for one in self.known:
            if one.id == operation_id:
                return one
        raise NotFoundError(f"There is no operation {operation_id}.")

    async def page(
        self, kind: OperationKind | None = None, state: RunState | None = None, limit: int = 100, offset: int = 0
    ) -> list[Operation]:
        found = [one for one in reversed(self.known) if kind in (None, one.kind) and state in (None, one.state)]
        return [one.model_copy(update={"result": None}) for one in found[offset : offset + limit]]


async def plant(engine: Engine, found: Evidence, operation_id: str = "evidence-1") -> None:
    """Let the engine have that operation behind it: queued, claimed and finished in one transaction."""
    jobs = Jobs(engine.journal, SystemClock(), owner="test")
    known = operation(found, operation_id)

    def write(tx: Transaction) -> None:
        jobs.enqueue(tx, operation_id, KIND_PREFIX + OperationKind.EVIDENCE, OnCrash.REQUEUE)
        tx.execute(INSERT, (operation_id, OperationKind.EVIDENCE, json.dumps(known.request)))
        claim = jobs.claim(tx, KIND_PREFIX + OperationKind.EVIDENCE)
        assert claim is not None
        jobs.finish(tx, claim, RunState.SUCCEEDED, "")
        set_columns(tx, operation_id, result=json.dumps(known.result))

    await engine.db.write(write)
