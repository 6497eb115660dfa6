"""The evaluator on a real database and a real registry, with a model server and a judge of plain rules."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from support.pipeline_fakes import FakeJudge
from support.training_house import SETS, configured

from engine.api_device import BackendName
from engine.api_learning import EvaluateRequest, EvaluationReport, Split, SuiteTask
from engine.config import Config
from engine.device.contracts import LiveAdapter
from engine.evaluation.evaluator import Bench, Evaluator
from engine.evaluation.reports import Reports
from engine.inference.admitted import Answered
from engine.inference.provider import Completion, Message, Request
from registry.clock import SeededClock
from registry.db import Database
from registry.journal import MemoryRecorder
from registry.models import NewAdapter, Source
from registry.registry import AdapterLimits, Registry
from registry.samples import write_sample

BASE_MODEL = "base-model"
Says = Callable[[str, Request], str | Exception]
"""Task's prompt and request -> answer, or what goes wrong."""


def make_task(number: int, *, template: str = "", group: str = "in", split: Split = Split.GATE) -> SuiteTask:
    return SuiteTask(
        id=f"t{number}",
        prompt=f"task {number}",
        split=split,
        template=template or f"c{number // 2}",
        tests="assert True",
        entry_point="f",
        group=group,
    )


def right(prompt: str, request: Request) -> str:
    """Solves tasks with an even number; an adapter solves all."""
    number = int(prompt.split()[-1])
    return "# pass" if request.adapter or number % 2 == 0 else "# fail 0/1"


@dataclass
class Tasks:
    """A suite whose hidden inputs hang on the seed."""

    found: tuple[SuiteTask, ...]

    def tasks(self, name: str, seed: int, split: Split | None = None) -> tuple[SuiteTask, ...]:
        del name
        wanted = [one for one in self.found if split in (None, one.split)]
        return tuple(one.model_copy(update={"tests": f"assert {seed} >= 0"}) for one in wanted)


class Plain:
    """Puts a task as it is; an answer that starts with `none` has no code."""

    def render(self, task: SuiteTask, *, open_book: bool = False, shrink: bool = False) -> tuple[Message, ...]:
        return (Message("user", f"{'open ' if open_book else ''}{'short ' if shrink else ''}{task.prompt}"),)

    def extract(self, task: SuiteTask, completion: Completion) -> str:
        del task
        return "" if completion.text.startswith("none") else completion.text


@dataclass
class Answers:
    """A model server that says what a rule says and remembers what it was asked."""

    says: Says
    asked: list[Request] = field(default_factory=list[Request])
    under_way: int = 0
    most: int = 0
    served: str | None = None
    adapter: LiveAdapter | None = None

    def open(self, adapter: LiveAdapter | None) -> Answers:
        self.adapter = adapter
        return self

    async def answer(self, request: Request) -> Answered:
        self.asked.append(request)
        self.under_way += 1
        self.most = max(self.most, self.under_way)
        try:
            await asyncio.sleep(0)
            said = self.says(request.messages[-1].content, request)
        finally:
            self.under_way -= 1
        if isinstance(said, Exception):
            raise said
        served = self.served if self.served is not None else request.adapter or BASE_MODEL
        completion = Completion(said, BASE_MODEL, request.adapter, 10, 5, "stop", served)
        return Answered(completion, BackendName.SCRIPTED, served == (request.adapter or BASE_MODEL))


@dataclass
class House:
    reports: Reports
    answers: Answers
    bench: Bench
    evaluator: Evaluator
    judge: FakeJudge
    recorder: MemoryRecorder
    digest: str
    """Of the adapter `mine`."""
    told: list[tuple[int, int, str]] = field(default_factory=list[tuple[int, int, str]])

    async def progress(self, done: int, total: int, note: str = "") -> None:
        self.told.append((done, total, note))

    async def evaluate(self, **fields: object) -> EvaluationReport:
        request = EvaluateRequest.model_validate({"suite": "mine", **fields})
        return await self.evaluator.evaluate(request, self.progress)

    def with_tasks(self, tasks: Sequence[SuiteTask]) -> House:
        bench = replace(self.bench, suites=Tasks(tuple(tasks)))
        return replace(self, bench=bench, evaluator=Evaluator(bench))

    def configured(self, config: Config) -> House:
        bench = replace(self.bench, config=config)
        return replace(self, bench=bench, evaluator=Evaluator(bench))


@asynccontextmanager
async def open_house(home: Path) -> AsyncGenerator[House]:
    """Six tasks, of which the base solves three, and an adapter that solves all."""
    config = configured(home, "inference.parallel=3", "inference.backend=scripted")
    clock, recorder, answers, judge = SeededClock(3), MemoryRecorder(), Answers(right), FakeJudge()
    db = await Database.open(home / "rune.db", SETS, clock)
    try:
        registry = Registry(db, home / "adapters", AdapterLimits(1 << 20, 64), clock, recorder)
        sample = await asyncio.to_thread(write_sample, home / "sample", 1)
        adapter = await registry.publish(sample, NewAdapter(id="mine", task_type="code-gen", source=Source.MANUAL))
        reports = Reports(db, recorder, clock)
        tasks = Tasks(tuple(make_task(number) for number in range(6)))
        bench = make_bench(config, tasks, reports, registry, answers, judge, clock)
        yield House(reports, answers, bench, Evaluator(bench), judge, recorder, adapter.digest)
    finally:
        await db.close()


def make_bench(
    config: Config,
    tasks: Tasks,
    reports: Reports,
    registry: Registry,
    answers: Answers,
    judge: FakeJudge,
    clock: SeededClock,
) -> Bench:
    async def ready_judge() -> FakeJudge:
        return judge

    async def prompting() -> Plain:
        return Plain()

    return Bench(config, tasks, reports, registry, answers.open, lambda: "scripted", ready_judge, prompting, clock)
