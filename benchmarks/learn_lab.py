"""What the proof does through the engine's API, each thing once in a home: train, evaluate, improve."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from engine.api_evolution import ImproveReport, ImproveRequest
from engine.api_learning import (
    EvaluateRequest,
    EvaluationReport,
    Operation,
    RehearsalReport,
    RehearseRequest,
    Split,
    SuiteTask,
)
from engine.api_models import FINAL_STATES, RunState
from engine.api_training import TrainRequest
from engine.errors import NotFoundError
from rune_tui.client import EngineClient
from rune_tui.client_learning import LearningClient

POLL_S = 0.5


class Asked(Protocol):
    """A probe: which tasks of which suite."""

    @property
    def suite(self) -> str: ...
    @property
    def groups(self) -> tuple[str, ...]: ...
    @property
    def limit(self) -> int: ...
    @property
    def max_tokens(self) -> int | None: ...
    @property
    def open_book(self) -> bool: ...


class Lab:
    """One home's engine, and what was found out in it so far (`learn.json` in the home)."""

    def __init__(self, client: EngineClient, home: Path, preset: str) -> None:
        self.client = client
        self.learning = LearningClient(client)
        self.home = home
        self.preset = preset
        self.system = "You answer with Python code."
        """As the template `attempt_brief` says."""
        self._file = home / "learn.json"
        self._seed: int | None = None

    # --- the seed ---

    def reveal(self, drawn: int) -> None:
        """Fix the seed of the hidden inputs, the first time; what was fixed stays."""
        known = json.loads(self._file.read_text()) if self._file.exists() else {}
        self._seed = int(known.setdefault("seed", drawn))
        self._file.write_text(json.dumps(known))

    @property
    def seed(self) -> int:
        """Of the deciding tasks; the adapters' digests were recorded before it was drawn."""
        assert self._seed is not None, "nothing is scored before the seed is drawn"
        return self._seed

    # --- tasks and adapters ---

    async def tasks(self, suite: str, split: Split, *groups: str) -> list[SuiteTask]:
        """Of a suite as it is for seed 0: what is learned from has no hidden inputs."""
        return [task for task in await self.learning.suite_tasks(suite, split=split) if task.group in groups]

    async def has(self, adapter_id: str) -> bool:
        """Whether an earlier run made it."""
        try:
            await self.client.adapter(adapter_id)
        except NotFoundError:
            return False
        return True

    async def rehearsal(self, suite: str) -> list[dict[str, Any]]:
        """The base model's own answers to what the suite's train split asks; asked once in a home."""
        file = self.home / f"rehearsal-{suite}.json"
        if not file.exists():
            asked = await self.learning.rehearse(RehearseRequest(suites=(suite,)))
            done = await self.done(asked, f"rehearsing {suite}")
            rows = RehearsalReport.model_validate(done.result).rows
            file.write_text(json.dumps([row.model_dump(mode="json") for row in rows]))
        return json.loads(file.read_text())

    async def train(self, adapter_id: str, task_type: str, rows: Sequence[dict[str, Any]], seed: int) -> None:
        """Train an adapter on these rows, unless it is there."""
        if await self.has(adapter_id):
            return
        file = self.home / f"{adapter_id}.jsonl"
        file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        request = TrainRequest(
            dataset=str(file), adapter_id=adapter_id, task_type=task_type, preset=self.preset, seed=seed
        )
        job = await self.client.train(request)
        while job.state not in FINAL_STATES:
            await asyncio.sleep(POLL_S)
            job = await self.client.job(job.id)
            if job.progress is not None:
                self._say(
                    f"{adapter_id}: step {job.progress.step} of {job.progress.steps}, loss {job.progress.loss:.3f}"
                )
        if job.state is not RunState.SUCCEEDED:
            raise SystemExit(f"Training {adapter_id} ended {job.state}: {job.reason}")

    # --- operations ---

    async def evaluate(self, adapter: str, probe: Asked) -> EvaluationReport:
        """Score an adapter on a probe; what was measured before is only looked up."""
        request = EvaluateRequest(
            suite=probe.suite,
            adapter=adapter,
            split=Split.GATE,
            groups=probe.groups,
            limit=probe.limit,
            max_tokens=probe.max_tokens,
            seed=self.seed,
            open_book=probe.open_book,
        )
        done = await self.done(await self.learning.evaluate(request), f"{adapter} on {probe.suite} {probe.groups}")
        return EvaluationReport.model_validate(done.result)

    async def improve(self, suite: str, rounds: int) -> str | None:
        """Let the loop run; gives the adapter that is in use at its end."""
        request = ImproveRequest(suite=suite, rounds=rounds, preset=self.preset)
        done = await self.done(await self.learning.improve(request), f"improve on {suite}")
        return ImproveReport.model_validate(done.result).adapter_id

    async def done(self, operation: Operation, what: str) -> Operation:
        """The operation once it has ended well."""
        while operation.state not in FINAL_STATES:
            await asyncio.sleep(POLL_S)
            operation = await self.learning.operation(operation.id)
            if operation.progress is not None:
                self._say(f"{what}: {operation.progress.done} of {operation.progress.total}")
        if operation.state is not RunState.SUCCEEDED:
            raise SystemExit(f"{what} ended {operation.state}: {operation.reason}")
        return operation

    def _say(self, line: str) -> None:
        print(f"\r\x1b[K{line}", end="", file=sys.stderr, flush=True)
