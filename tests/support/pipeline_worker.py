"""One session in a process of its own that a test may kill: same task, same model, whatever the process.

The model answers by what it is asked, never by how often, so that a resumed session meets the same answers as an
undisturbed one. The session has all there is to lose: subtasks side by side, a retry, a cut answer, a diagnosis by the
model, and a round of repair.
"""

from __future__ import annotations

import asyncio
import json
import os
from enum import StrEnum
from importlib import import_module
from pathlib import Path

from support.engine_parts import SETS
from support.pipeline_fakes import Reply, ScriptedProvider, Told, comparable, make_parts

from engine.api_models import AttemptRecord, TaskSpec
from engine.events import Bus, Journal
from engine.inference.provider import Request
from engine.pipeline.run import run_session
from engine.training.trajectories import TrajectoryStore
from registry.clock import SystemClock
from registry.db import Database

for module in ("langgraph.graph", "langgraph.checkpoint.sqlite.aio"):
    import_module(module)  # once in the fork server instead of once in every worker

SESSION = "rune-0000beef"
TASK = TaskSpec(id="t", prompt="Make an adder. It adds.", tests="assert core(1, 2) == 3", max_attempts=2, seed=11)

LIST = "1. core - adds\n2. shell - shows [depends: core]\n3. input - reads"
PLAN = "It has one function that takes two numbers and gives their sum."


class Variant(StrEnum):
    """The product, or a deliberately broken form of it."""

    PRODUCT = "product"
    NO_CHECKPOINT = "no checkpoint"
    """Every process begins with an empty checkpoint file."""
    NO_STEP = "no step"
    """The store does not know where an attempt was made, and no checkpoint either."""


def answer(request: Request, number: int) -> Reply:
    """What the model says: by persona, and for code by whether it was shown an earlier try."""
    del number
    system, user = (message.content for message in request.messages)
    match system:
        case _ if "split a programming" in system:
            return Reply(LIST)
        case _ if "architect" in system:
            return Reply(PLAN if "Part: shell" not in user or "earlier plan" in user else "too short")
        case _ if "goes on" in system or "You go on" in system:
            return Reply(" a + b  # pass\n```")
        case _ if "cause of failing" in system:
            return Reply("The sign is wrong." if "one sentence" in user else "1. core - subtracts")
        case _ if "repairs one part" in system:
            return Reply("```python\n# pass mended\n```")
        case _ if "puts parts together" in system:
            return Reply("```python\n# pass whole\n```" if "mended" in user else "```python\n# fail 1/2\n```")
        case _ if "fixes failing" in system:
            return Reply("```python\n# pass fixed\n```")
        case _ if "Part: input" in user:
            return Reply("```python\ndef read(a, b):\n    return", "length")
        case _:
            return Reply("```python\n# opaque\n```")


class StepBlindStore(TrajectoryStore):
    """Broken on purpose: an attempt that is made again is recorded again."""

    async def append_step(self, step: str, draft: AttemptRecord) -> tuple[AttemptRecord, bool]:
        return await super().append_step(f"{os.getpid()} {step}", draft)


def work(home: Path, crash_at: str, variant: Variant) -> None:
    """Run or resume the session of `home`; dies at `crash_at` if that comes."""
    if crash_at:
        os.environ["RUNE_CRASH_AT"] = crash_at
    else:
        os.environ.pop("RUNE_CRASH_AT", None)
    asyncio.run(_work(home, variant))


async def _work(home: Path, variant: Variant) -> None:
    clock = SystemClock()
    db = await Database.open(home / "rune.db", SETS, clock)
    try:
        journal = Journal(db, Bus(1000), clock, "test")
        store = (StepBlindStore if variant is Variant.NO_STEP else TrajectoryStore)(db, journal, clock)
        recorded = [record.seed for record in await store.attempts(SESSION)]
        told = Told()
        calls: list[int] = []

        def logged(request: Request, number: int) -> Reply:
            calls.append(request.sampling.seed)
            return answer(request, number)

        name = "checkpoints.db" if variant is Variant.PRODUCT else f"checkpoints-{os.getpid()}.db"
        provider = ScriptedProvider(logged)
        parts = make_parts(home, store, provider, report=told, checkpoints=home / name)
        result = await run_session(SESSION, TASK, parts)
        attempts = await store.attempts(SESSION)
        events = [event.subject for event in await journal.replay() if event.subject.startswith("attempt/")]
        _write(
            home / "result.json",
            {
                "outcome": result.outcome,
                "reason": result.reason,
                "code": result.code,
                "summary": dict(result.summary),
                "attempts": result.attempts,
                "tokens": result.tokens,
                "phases": [status.model_dump(mode="json") for status in result.phases],
                "records": comparable(attempts),
                "numbers": [record.number for record in attempts],
                "events": sorted(events),
            },
        )
        _write(home / "calls.json", {"recorded_before": recorded, "calls": calls})
    finally:
        await db.close()


def _write(path: Path, value: object) -> None:
    path.write_text(json.dumps(value), encoding="utf-8")
