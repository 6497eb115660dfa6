"""One engine's operations in a process of its own, to be killed at a crash point and begun again.

What the model server is asked is appended to `asked` before it is asked, so that it outlives the kill.
"""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

from support.evaluation_house import Answers, Tasks, make_bench, make_task, right
from support.pipeline_fakes import FakeJudge
from support.training_house import SETS, configured

from engine.api_learning import EvaluateRequest, Operation, OperationKind
from engine.evaluation.evaluator import EvaluateHandler, Evaluator
from engine.evaluation.reports import Measured, Reports
from engine.events import Bus, Journal
from engine.inference.provider import Request
from engine.jobs import Jobs
from engine.operations import Operations
from registry.clock import SeededClock
from registry.db import Database
from registry.registry import AdapterLimits, Registry

TASKS = 8
REQUEST = EvaluateRequest(suite="mine")


class Forgetful(Reports):
    """The planted bug: what was measured is not kept."""

    async def keep_sample(self, key: str, sample: Measured) -> None:
        await super().keep_sample("0" * 64, sample)


def work(home: Path, crash_at: str, broken: bool) -> None:
    """Open the home as the next engine, do the one operation to its end."""
    os.environ["RUNE_CRASH_AT"] = crash_at
    if not crash_at:
        del os.environ["RUNE_CRASH_AT"]
    asyncio.run(_work(home, broken))


async def _work(home: Path, broken: bool) -> None:
    def says(prompt: str, request: Request) -> str:
        with (home / "asked").open("a") as file:
            file.write(prompt + "\n")
        return right(prompt, request)

    config = configured(home, "inference.parallel=2", "inference.backend=scripted")
    clock = SeededClock(os.getpid())
    db = await Database.open(home / "rune.db", SETS, clock)
    try:
        journal = Journal(db, Bus(1000), clock, "engine")
        operations = Operations(db, Jobs(journal, clock, clock.uuid()), journal, clock)
        reports = (Forgetful if broken else Reports)(db, journal, clock)
        registry = Registry(db, home / "adapters", AdapterLimits(1 << 20, 64), clock, journal)
        tasks = Tasks(tuple(make_task(number) for number in range(TASKS)))
        bench = make_bench(config, tasks, reports, registry, Answers(says), FakeJudge(), clock)
        operations.add_handler(OperationKind.EVALUATE, EvaluateHandler(Evaluator(bench)))
        await operations.recover()
        if not await operations.page():
            await operations.create(OperationKind.EVALUATE, REQUEST)
        done = await _to_the_end(operations)
        (home / "result.json").write_text(done.model_dump_json())
    finally:
        await db.close()


async def _to_the_end(operations: Operations) -> Operation:
    async with asyncio.TaskGroup() as group:
        running = group.create_task(operations.run())
        (known,) = await operations.page()
        while (found := await operations.get(known.id)).finished_at is None:
            await asyncio.sleep(0.005)
        running.cancel()
    return found
