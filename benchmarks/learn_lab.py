"""What the proof does through the engine's API, each thing once in a home: train, score, gather evidence, improve."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from pydantic import BaseModel, ValidationError

from benchmarks.learn_notes import Notes, duration
from engine.api_evolution import Evidence, EvidenceRequest, ImproveReport, ImproveRequest, MergeRequest
from engine.api_learning import (
    EvaluateRequest,
    EvaluationReport,
    Operation,
    OperationKind,
    RehearsalReport,
    RehearseRequest,
    Split,
    SuiteTask,
)
from engine.api_models import FINAL_STATES, RunState
from engine.api_training import TrainJob, TrainRequest
from engine.config import Config
from engine.errors import NotFoundError
from rune_tui.client import EngineClient
from rune_tui.client_learning import LearningClient

FIRST_POLL_S, POLL_S = 0.05, 0.5
"""What is only looked up is there at once; what takes minutes need not be asked for more often."""
PAGE = 500
KNOWN_NOTE = "measured before"
"""What an evaluation says that only looked something up."""


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
    """One home's engine, and what was found out in it so far."""

    def __init__(self, client: EngineClient, home: Path, config: Config, preset: str) -> None:
        self.client = client
        self.learning = LearningClient(client)
        self.home = home
        self.config = config
        self.preset = preset
        self.notes = Notes(home / "learn.json")
        self.system = "You answer with Python code."
        """As the template `attempt_brief` says."""
        self._seed: int | None = None

    # --- the seed ---

    def reveal(self, drawn: int) -> None:
        """Fix the seed of the hidden inputs, the first time; what was fixed stays."""
        self._seed = self.notes.reveal(drawn)

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
        request = RehearseRequest(suites=(suite,))
        if not file.exists() or not self.notes.knows(f"rehearse {suite}"):
            asked = await self.asked(OperationKind.REHEARSE, request) or await self.learning.rehearse(request)
            done = await self.done(asked, f"rehearse {suite}")
            rows = RehearsalReport.model_validate(done.result).rows
            file.write_text(json.dumps([row.model_dump(mode="json") for row in rows]))
        return json.loads(file.read_text())

    async def train(
        self, adapter_id: str, task_type: str, rows: Sequence[Mapping[str, Any]], seed: int, steps: int | None = None
    ) -> None:
        """Train an adapter on these rows, unless it is there; a job that was interrupted goes on.

        Args:
            steps: at most so many; None: as many as the preset says.
        """
        what = f"train {adapter_id}"
        jobs = [job for job in await self.client.jobs(limit=PAGE) if job.adapter_id == adapter_id]
        job = jobs[0] if jobs else None
        if await self.has(adapter_id):
            if job is not None:
                self._note(what, job)
            return
        if job is None or job.state is RunState.SUCCEEDED:
            file = self.home / f"{adapter_id}.jsonl"
            file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
            job = await self.client.train(
                TrainRequest(
                    dataset=str(file),
                    adapter_id=adapter_id,
                    task_type=task_type,
                    preset=self.preset,
                    seed=seed,
                    max_steps=steps,
                )
            )
        elif job.state in FINAL_STATES:
            job = await self.client.resume_job(job.id)
        self._note(what, await self._trained(job))

    async def _trained(self, job: TrainJob) -> TrainJob:
        while job.state not in FINAL_STATES:
            await asyncio.sleep(POLL_S)
            job = await self.client.job(job.id)
            if (step := job.progress) is not None:
                line = f"{job.adapter_id}: step {step.step} of {step.steps}, loss {step.loss:.3f}"
                self._say(line, step.eta_seconds)
        if job.state is not RunState.SUCCEEDED:
            raise SystemExit(f"Training {job.adapter_id} ended {job.state}: {job.reason}")
        return job

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
        groups = "".join(f" {group}" for group in (*probe.groups, *(("open book",) if probe.open_book else ())))
        what = f"score {adapter} on {probe.suite}{groups}"
        done = await self.done(await self.learning.evaluate(request), what)
        report = EvaluationReport.model_validate(done.result)
        self.notes.took(what, report.seconds)  # where it was measured by a program that did not note it
        return report

    async def merge(self, request: MergeRequest) -> None:
        """One merge, unless it is there."""
        assert request.adapter_id is not None, "what is found again has a name"
        what = f"merge {request.adapter_id}"
        if not await self.has(request.adapter_id):
            await self.done(await self.learning.merge(request), what)
        elif not self.notes.knows(what) and (made := await self.asked(OperationKind.MERGE, request)):
            self._note(what, made)

    async def evidence(self, adapter: str, suite: str, anchors: tuple[str, ...]) -> Evidence:
        """What a promotion to the tier `domain` would rest on, looked at once: another look would have its price."""
        request = EvidenceRequest(adapter=adapter, suite=suite, to_tier="domain", anchors=anchors, seed=self.seed)
        asked = await self.asked(OperationKind.EVIDENCE, request) or await self.learning.evidence(request)
        return Evidence.model_validate((await self.done(asked, f"evidence {adapter}")).result)

    async def improve(self, suite: str, rounds: int, rehearsed: tuple[str, ...]) -> ImproveReport:
        """Let the loop run, once; the base model is kept on what is rehearsed."""
        request = ImproveRequest(suite=suite, rounds=rounds, preset=self.preset, rehearse=rehearsed)
        asked = await self.asked(OperationKind.IMPROVE, request) or await self.learning.improve(request)
        return ImproveReport.model_validate((await self.done(asked, f"improve {suite}")).result)

    async def asked(self, kind: OperationKind, request: BaseModel) -> Operation | None:
        """The newest operation that was asked just that; one that was stopped or failed goes on where it stood."""
        for operation in await self.learning.operations(kind=kind, limit=PAGE):
            if not _asks(operation, request):
                continue
            if operation.state in (RunState.CANCELLED, RunState.INTERRUPTED, RunState.FAILED):
                return await self.learning.resume_operation(operation.id)
            return await self.learning.operation(operation.id)
        return None

    async def done(self, operation: Operation, what: str) -> Operation:
        """The operation once it has ended well; how long it took is noted."""
        wait = FIRST_POLL_S
        while operation.state not in FINAL_STATES:
            await asyncio.sleep(wait)
            wait = min(2 * wait, POLL_S)
            operation = await self.learning.operation(operation.id)
            if (step := operation.progress) is not None:
                self._say(f"{what}: {step.done} of {step.total}", step.eta_seconds)
        if operation.state is not RunState.SUCCEEDED:
            raise SystemExit(f"{what} ended {operation.state}: {operation.reason}")
        if operation.progress is None or operation.progress.note != KNOWN_NOTE:
            self._note(what, operation)
        return operation

    # --- times ---

    @contextmanager
    def doing(self, what: str) -> Generator[None]:
        """Notes how long something took that is no operation of the engine, if it was done."""
        started = time.monotonic()
        self._say(what, None)
        yield
        self.notes.took(what, time.monotonic() - started)

    def _note(self, what: str, ended: Operation | TrainJob) -> None:
        if (seconds := duration(ended)) is not None:
            self.notes.took(what, seconds)

    def _say(self, line: str, eta_seconds: float | None) -> None:
        left = "" if eta_seconds is None else f", {eta_seconds:.0f} s left"
        print(f"\r\x1b[K{line}{left}", end="", file=sys.stderr, flush=True)


def _asks(operation: Operation, request: BaseModel) -> bool:
    """Whether it was asked just that. Compared as models: one of an older program lacks the newest fields."""
    try:
        return type(request).model_validate(operation.request) == request
    except ValidationError:  # of a newer program
        return False
