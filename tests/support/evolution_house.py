"""Sweeps on a real database and a real registry; measuring, merging and training are small stand-ins.

The stand-ins do what they say: a report has an outcome for each task of the suite, a merged adapter is a directory of
real files that is gone afterwards, a parent trained on is published. How well an adapter does is the test's to say.
"""

from __future__ import annotations

import asyncio
import hashlib
import shutil
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from itertools import combinations
from pathlib import Path

from support.learning_reports import of_samples
from support.training_house import SETS, configured

from engine.api_evolution import EvolveRequest, MergeMethod, MergeRequest, SweepSummary, TextDrift
from engine.api_learning import EvaluateRequest, EvaluationReport, Sampled, SampleOutcome, Split, SuiteTask
from engine.api_training import TrainRequest
from engine.config import Config
from engine.errors import InputError, NotFoundError
from engine.events import Bus, Journal
from engine.evolution.controls import Controls
from engine.evolution.drift.spec import UnmeasuredError
from engine.evolution.evidence import Evidences
from engine.evolution.evidence import Parts as EvidenceParts
from engine.evolution.learned import Learned
from engine.evolution.looks import Looks
from engine.evolution.measure import Examiner
from engine.evolution.merging.spec import Example as Solved
from engine.evolution.merging.spec import Learning, MergeRefusedError
from engine.evolution.records import Records
from engine.evolution.scoring import Scoring
from engine.evolution.seams import Made
from engine.evolution.sweep import Parts, sweep
from engine.jobs import Jobs
from engine.operations import Progress
from engine.training.dataset import DataStore, build
from engine.training.ending import Ending
from engine.training.jobs import NewJob, TrainingJobs
from engine.training.selection import Example
from engine.training.spec import Turn
from registry.clock import SeededClock
from registry.db import Database
from registry.models import Adapter, LoadableAdapter, NewAdapter, Source
from registry.registry import AdapterLimits, Registry
from registry.samples import write_sample

SUITE = "lists"
TASK_TYPE = "sort"
SIZES = {
    SUITE: {(Split.SELECTION, "in"): 20, (Split.GATE, "in"): 60, (Split.GATE, "deeper"): 30},
    "general": {(Split.GATE, "anchor"): 40},
}
TEMPLATES = 10
NOTHING: Mapping[str, float] = {}

Pass = Callable[[], Awaitable[None]]


async def go_on() -> None:
    """A checkpoint that stops nobody, but lets a cancellation arrive."""
    await asyncio.sleep(0)


async def tell_nobody(done: int, total: int, note: str = "") -> None:
    """Progress for whoever does not watch."""


@dataclass
class Exam:
    """Measures by what it was told of each adapter: group -> share of its tasks that it solves, the first ones."""

    registry: Registry
    skills: dict[str, Mapping[str, float]] = field(default_factory=dict[str, Mapping[str, float]])
    """Of adapters by id; `control-random` and `control-longer` by that, a merged child by `child`."""
    checkpoint: Pass = go_on
    asked: list[EvaluateRequest] = field(default_factory=list[EvaluateRequest])

    def tasks(self, name: str, seed: int, split: Split | None = None) -> tuple[SuiteTask, ...]:
        if name not in SIZES:
            raise NotFoundError(f"There is no suite {name}.")
        return tuple(
            SuiteTask(
                id=f"{group}-{number}",
                prompt=f"{name} {split_of} {group} number {number}, seed {seed}",
                split=split_of,
                template=f"{split_of}-{group}-t{number % TEMPLATES}",
                tests="assert True",
                group=group,
            )
            for (split_of, group), size in SIZES[name].items()
            if split in (None, split_of)
            for number in range(size)
        )

    async def evaluate(self, request: EvaluateRequest, progress: Progress) -> EvaluationReport:
        await self.checkpoint()
        self.asked.append(request)
        known = [task for task in self.tasks(request.suite, request.seed) if task.split is request.split]
        chosen = [task for task in known if not request.groups or task.group in request.groups][: request.limit]
        if not chosen:
            raise InputError(f"The suite {request.suite} has no such tasks in {request.split.value}.")
        loadable = None if request.adapter == "base" else await self.registry.resolve_for_load(request.adapter)
        await progress(len(chosen), len(chosen))
        skill = self.skills.get(request.adapter) or self.skills.get(_kind(request.adapter), NOTHING)
        return of_samples(
            [_sampled(task, skill, SIZES[request.suite]) for task in chosen],
            suite=request.suite,
            split=request.split,
            seed=request.seed,
            adapter=request.adapter,
            adapter_digest=loadable.adapter.digest if loadable else None,
        )


def _kind(adapter_id: str) -> str:
    return next((kind for kind in ("control-random", "control-longer") if adapter_id.startswith(kind)), "child")


def _sampled(task: SuiteTask, skill: Mapping[str, float], sizes: Mapping[tuple[Split, str], int]) -> Sampled:
    number, total = int(task.id.rpartition("-")[2]), sizes[task.split, task.group]
    solved = number < round(skill.get(task.group, 0.0) * total)
    outcome = SampleOutcome.PASSED if solved else SampleOutcome.FAILED
    return Sampled(task=task.id, template=task.template, group=task.group, sample=0, outcome=outcome)


@dataclass
class Nursery:
    """Makes directories of real adapter files."""

    root: Path
    checkpoint: Pass = go_on
    merged: list[tuple[str, ...]] = field(default_factory=list[tuple[str, ...]])
    alike: dict[frozenset[str], float] = field(default_factory=dict[frozenset[str], float])
    refusal: Exception | None = None
    learned_from: list[Learning | None] = field(default_factory=list[Learning | None])

    @asynccontextmanager
    async def merge(
        self,
        request: MergeRequest,
        parents: Sequence[LoadableAdapter],
        progress: Progress,
        learning: Learning | None = None,
    ) -> AsyncGenerator[Made]:
        if self.refusal is not None:
            raise self.refusal
        if request.method is MergeMethod.CAT_LEARNED and learning is None:  # as the merging child says
            raise MergeRefusedError("There is nothing to learn the scalars from.")
        self.learned_from.append(learning)
        self.merged.append(tuple(parent.adapter.id for parent in parents))
        async with self._made("merge", *sorted(parent.adapter.digest for parent in parents)) as made:
            await progress(1, 1)
            yield replace(made, facts={"rank": 4})

    @asynccontextmanager
    async def random_like(self, adapter: LoadableAdapter, seed: int) -> AsyncGenerator[Made]:
        async with self._made("random", adapter.adapter.digest, str(seed)) as made:
            yield made

    async def cosines(self, adapters: Sequence[LoadableAdapter]) -> Mapping[frozenset[str], float]:
        await self.checkpoint()
        pairs = (frozenset(one.adapter.id for one in pair) for pair in combinations(adapters, 2))
        return {pair: self.alike.get(pair, 0.0) for pair in pairs}

    @asynccontextmanager
    async def _made(self, *names: str) -> AsyncGenerator[Made]:
        seed = int(hashlib.sha256(" ".join(names).encode()).hexdigest()[:8], 16)
        place = self.root / f"{names[0]}-{seed}"
        try:
            await self.checkpoint()
            await asyncio.to_thread(write_sample, place, seed)
            await self.checkpoint()
            yield Made(place, None)
        finally:
            await asyncio.to_thread(shutil.rmtree, place, ignore_errors=True)


@dataclass
class School:
    """Publishes other weights under the new id, unless it was told that nobody was trained here."""

    registry: Registry
    root: Path
    trained: bool = True
    checkpoint: Pass = go_on
    given_up: list[str] = field(default_factory=list[str])

    async def train_on(self, adapter_id: str, new_id: str, progress: Progress) -> str:
        if not self.trained:
            raise NotFoundError(f"No training job of this home made {adapter_id}.")
        await self.checkpoint()
        parent = await self.registry.get(adapter_id)
        place = self.root / new_id
        if not await asyncio.to_thread(place.exists):
            await asyncio.to_thread(write_sample, place, int(parent.digest[:7], 16))
        new = NewAdapter(new_id, parent.task_type, Source.QLORA, parent_ids=(adapter_id,))
        await self.registry.publish(place, new)
        return "as it was told"

    async def give_up(self, new_id: str) -> None:
        await self.checkpoint()
        self.given_up.append(new_id)


@dataclass
class Prose:
    """What adapters do to the general text: as it was told, for those that it was told of."""

    rises: dict[str, float] = field(default_factory=dict[str, float])

    async def measure(self, adapter: LoadableAdapter, progress: Progress) -> TextDrift:
        if adapter.adapter.id not in self.rises:
            raise UnmeasuredError("There is no base model here.")
        after = 20.0 * (1 + self.rises[adapter.adapter.id])
        digest = "0" * 64
        return TextDrift(
            text_digest=digest, base_digest=digest, tokens=2000, base_perplexity=20.0, adapter_perplexity=after, kl=0.02
        )


async def prepare(request: MergeRequest, parents: Sequence[LoadableAdapter], progress: Progress) -> Learning:
    """One solved task of the request's suite."""
    solved = Solved(messages=(("user", f"a task of {request.suite}"),), completion="x = 1", group=str(request.suite))
    return Learning(base_directory=Path("/base"), examples=(solved,))


@dataclass
class World:
    """One home in which sweeps run."""

    home: Path
    config: Config
    db: Database
    journal: Journal
    registry: Registry
    records: Records
    exam: Exam
    prose: Prose
    nursery: Nursery
    school: School
    evidences: Evidences
    parts: Parts
    jobs: TrainingJobs

    async def adapter(
        self, name: str, skill: float, *, deeper: float | None = None, seed: int = 0, trained: bool = True
    ) -> Adapter:
        """Publish one that solves that share of the tasks as trained; `trained` by a job of this home."""
        if trained:
            await self.lesson(name)
        place = self.home / "samples" / name
        await asyncio.to_thread(write_sample, place, seed or int(hashlib.sha256(name.encode()).hexdigest()[:6], 16))
        self.exam.skills[name] = skilled(skill, deeper)
        return await self.registry.publish(place, NewAdapter(name, TASK_TYPE, Source.QLORA))

    async def lesson(self, adapter_id: str, *prompts: str) -> None:
        """A training job that made it, of rows that ask this."""
        asked = prompts or tuple(f"what {adapter_id} was taught, row {number}" for number in range(10))
        examples = [Example((Turn(role="user", content=text),), f"x = {text!r}", text) for text in asked]
        recipe = self.config.recipe("standard")
        data = build(examples, recipe, seed=0)
        await asyncio.to_thread(DataStore(self.home / "training").put, data)
        request = TrainRequest(adapter_id=adapter_id, task_type=TASK_TYPE, dataset="/data.jsonl")
        await self.jobs.enqueue(NewJob(request, recipe, data.digest))
        claimed = await self.jobs.claim()
        assert claimed is not None
        await self.jobs.settle(claimed.claim, Ending.SUCCEEDED, "", None)

    async def population(self, *skills: float) -> list[Adapter]:
        """Adapters a0, a1, ... with these shares."""
        return [await self.adapter(f"a{number}", skill) for number, skill in enumerate(skills)]

    def skill_of_population(self, *skills: float) -> None:
        """What `population` said, for a home that is opened again."""
        for number, skill in enumerate(skills or (0.9, 0.8, 0.7, 0.65, 0.6)):
            self.exam.skills[f"a{number}"] = skilled(skill)

    def undisturbed(self) -> None:
        """From now on nothing happens at the checkpoints."""
        self.exam.checkpoint = self.nursery.checkpoint = self.school.checkpoint = go_on

    def request(self, **fields: object) -> EvolveRequest:
        """A sweep by the suite of this world."""
        return EvolveRequest.model_validate({"suite": SUITE, **fields})

    async def sweep(self, name: str = "evolve-1", **fields: object) -> SweepSummary:
        return await sweep(self.parts, name, self.request(**fields), tell_nobody)

    async def in_use(self) -> list[str]:
        known = await self.registry.query_by_task_type(TASK_TYPE)
        return sorted(adapter.id for adapter in known if not adapter.is_archived)

    async def events(self) -> list[tuple[str, str]]:
        """(subject, action) of everything that the journal tells."""
        return [(one.subject, str(one.payload.get("action", ""))) for one in await self.journal.replay(limit=1000)]


def skilled(share: float, deeper: float | None = None) -> Mapping[str, float]:
    """Of the tasks as trained, of the deeper ones (None: as many), and half of the anchors."""
    return {"in": share, "deeper": share if deeper is None else deeper, "anchor": 0.5}


@asynccontextmanager
async def open_world(home: Path, *overrides: str, seed: int = 3) -> AsyncGenerator[World]:
    """`seed` is of the clock: two openings of one home must not make the same ids."""
    await asyncio.to_thread(home.mkdir, parents=True, exist_ok=True)
    clock = SeededClock(seed)
    config = await asyncio.to_thread(configured, home, "evaluation.bootstrap=200", *overrides)
    db = await Database.open(home / "rune.db", SETS, clock)
    bus = Bus(queue_limit=1000)
    journal = Journal(db, bus, clock, "engine")
    registry = Registry(db, home / "adapters", AdapterLimits(512 << 20, 256), clock, journal.source("registry"))
    records = Records(db, journal.source("evolution"), clock)
    exam = Exam(registry, {"base": skilled(0.0), "child": skilled(1.0), "control-longer": skilled(0.2)})
    nursery, school = Nursery(home / "nursery"), School(registry, home / "school")
    examiner = Examiner(exam)
    learned = Learned(db, registry, DataStore(home / "training"))
    prose, looks = Prose(), Looks(db, journal.source("evolution"), clock)
    evidences = Evidences(EvidenceParts(config, registry, exam, examiner, learned, looks, prose))
    parts = Parts(
        section=config.evolution,
        registry=registry,
        records=records,
        examiner=examiner,
        scoring=Scoring(registry, examiner, nursery, config.evolution.pass_weight),
        breeding=nursery,
        prepare=prepare,
        controls=Controls(registry, records, examiner, nursery, school),
        evidences=evidences,
        clock=clock,
    )
    jobs = TrainingJobs(db, Jobs(journal, clock, owner="first"), journal, clock)
    try:
        yield World(home, config, db, journal, registry, records, exam, prose, nursery, school, evidences, parts, jobs)
    finally:
        bus.close()
        await db.close()
