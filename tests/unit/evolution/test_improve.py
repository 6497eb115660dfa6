"""The closed loop on a real registry with real evidence; running and training are small honest stand-ins."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from support.evidence_house import KnownOperations, operation
from support.evolution_house import SUITE, TASK_TYPE, Exam, World, open_world, tell_nobody

from engine.api_evolution import Evidence, EvidenceRequest, ImproveReport, ImproveRequest, Verdict
from engine.api_learning import Operation, OperationKind, RehearseRequest, Split, SuiteTask
from engine.api_models import Outcome, RunState, SessionRecord, TaskMode, TaskSpec
from engine.api_training import TrainJob, TrainRequest
from engine.errors import InputError, TrainingError
from engine.evolution.improve import (
    PROBE,
    ImproveHandler,
    Parts,
    Solved,
    elsewhere,
    nothing_to_learn,
    probe_of,
    programs_of,
    tasks_of_round,
)
from engine.evolution.improve_progress import REHEARSED
from engine.evolution.promotion import Promotions
from engine.operations import Progress

TASKS = 24
ELSEWHERE = ("general", "inkwell", "runekit")
"""What is rehearsed where nobody says what."""
BEGUN = "2026-01-01T00:00:00Z"
Skill = Callable[[TaskSpec, int], bool]


def train_task(number: int, task_type: str = TASK_TYPE) -> SuiteTask:
    return SuiteTask(
        id=f"train-{number}",
        prompt=f"sort task number {number}",
        split=Split.TRAIN,
        template=f"train-t{number % 6}",
        tests="assert True",
        visible_tests="assert True",
        task_type=task_type,
    )


@dataclass
class WithTrain:
    """The exam's suite, and a train split."""

    exam: Exam
    task_type: str = TASK_TYPE

    def tasks(self, name: str, seed: int, split: Split | None = None) -> tuple[SuiteTask, ...]:
        if split is Split.TRAIN:
            return tuple(train_task(number, self.task_type) for number in range(TASKS if name == SUITE else 0))
        return self.exam.tasks(name, seed, split)


@dataclass
class Solver:
    """Sessions by rule: what the model can, and what the explorer can."""

    model: Skill
    explorer: Skill = lambda task, number: True
    runs: dict[str, list[str]] = field(default_factory=dict[str, list[str]])
    known: dict[tuple[str, str], SessionRecord] = field(default_factory=dict[tuple[str, str], SessionRecord])

    async def solve(
        self, tasks: Sequence[TaskSpec], run_id: str, progress: Progress, *, adapter: str | None = None
    ) -> list[SessionRecord]:
        self.runs.setdefault(run_id, []).extend(task.id for task in tasks)
        await progress(len(tasks), len(tasks))
        return [self._one(task, run_id) for task in tasks]

    def _one(self, task: TaskSpec, run_id: str) -> SessionRecord:
        explores = task.mode is TaskMode.EXPLORE
        number = int(run_id.removesuffix("-explore").rpartition("-")[2])
        passed = (self.explorer if explores else self.model)(task, number)
        made = SessionRecord(
            id=f"rune-{len(self.known):08x}",
            task=task,
            state=RunState.SUCCEEDED,
            outcome=Outcome.VERIFIED if passed else Outcome.FAILED,
            attempts=1,
            code=f"solved({task.id!r})",
            summary={"explored": {"programs": 100}} if explores else {},
            created_at="2026-01-01T00:00:00Z",
        )
        return self.known.setdefault((run_id, task.id), made)


@dataclass
class Trainer:
    """Publishes an adapter for each request, as able as it was told."""

    world: World
    skills: list[tuple[float, float]]
    """Of each new adapter: share of the tasks as trained, and of the deeper ones."""
    requests: list[TrainRequest] = field(default_factory=list[TrainRequest])
    fails: bool = False

    async def train(self, request: TrainRequest, progress: Progress) -> TrainJob:
        assert request.adapter_id is not None
        if self.fails:
            raise TrainingError("train-1 is failed: no memory")
        if request not in self.requests:
            skill, deeper = self.skills[len(self.requests)]
            self.requests.append(request)
            await self.world.adapter(request.adapter_id, skill, deeper=deeper)
        return TrainJob(
            id="train-00000001",
            state=RunState.SUCCEEDED,
            request=request,
            adapter_id=request.adapter_id,
            created_at="2026-01-01T00:00:00Z",
        )


@dataclass
class Rehearser:
    """Says what was asked of it."""

    asked: list[tuple[RehearseRequest, str]] = field(default_factory=list[tuple[RehearseRequest, str]])

    async def rehearse(self, request: RehearseRequest, since: str, progress: Progress) -> str:
        self.asked.append((request, since))
        await progress(60, 60, "60 rows")
        return "rehearse-0000beef"


@dataclass
class Gatherer:
    """Evidence by the world's own evidences, kept as finished operations."""

    world: World
    operations: KnownOperations = field(default_factory=KnownOperations)

    async def gather(self, request: EvidenceRequest, progress: Progress) -> tuple[str, Evidence]:
        found = await self.world.evidences.gather(request, progress)
        name = f"evidence-{len(self.operations.known)}"
        self.operations.known.append(operation(found, name))
        return name, found


@dataclass
class Loop:
    world: World
    solver: Solver
    trainer: Trainer
    gatherer: Gatherer
    suites: WithTrain
    rehearser: Rehearser = field(default_factory=Rehearser)

    async def improve(
        self, name: str = "improve-0badcafe", tell: Progress = tell_nobody, **fields: object
    ) -> ImproveReport:
        request = ImproveRequest.model_validate({"suite": SUITE, **fields})
        asked = Operation(
            id=name,
            kind=OperationKind.IMPROVE,
            state=RunState.RUNNING,
            request=request.model_dump(mode="json"),
            created_at=BEGUN,
        )
        world = self.world
        parts = Parts(
            suites=self.suites,
            solving=self.solver,
            rehearsing=self.rehearser,
            training=self.trainer,
            gathering=self.gatherer,
            registry=world.registry,
            promotions=Promotions(world.registry, self.gatherer.operations),
            clock=world.parts.clock,
        )
        return await ImproveHandler(parts).run(asked, tell)


def never(task: TaskSpec, number: int) -> bool:
    return False


def after_round_one(task: TaskSpec, number: int) -> bool:
    return number > 1 and not task.id.endswith(("0", "5"))


@pytest.fixture
async def world(home: Path) -> AsyncIterator[World]:
    async with open_world(home) as opened:
        yield opened


def loop(world: World, model: Skill = never, skills: Sequence[tuple[float, float]] = ((1.0, 0.1),)) -> Loop:
    return Loop(world, Solver(model), Trainer(world, list(skills)), Gatherer(world), WithTrain(world.exam))


# --- pure ---


def test_a_round_takes_the_next_tasks_and_begins_again_after_the_last() -> None:
    tasks = [train_task(number) for number in range(5)]
    taken = [[task.id for task in tasks_of_round(tasks, number, 2)] for number in (1, 2, 3)]
    assert taken == [["train-0", "train-1"], ["train-2", "train-3"], ["train-4", "train-0"]]
    assert tasks_of_round(tasks, 3, None) == tasks == tasks_of_round(tasks, 3, 9)


def test_the_probe_is_few_tasks_from_all_over() -> None:
    probe = probe_of([train_task(number) for number in range(100)])
    assert len(probe) <= PROBE
    assert (probe[0].id, int(probe[-1].id[6:]) > 80) == ("train-0", True)
    assert len(probe_of([train_task(0)])) == 1


def test_what_the_explorer_ran_is_counted_and_nonsense_is_not() -> None:
    solver = Solver(never)
    session = solver._one(TaskSpec(id="t", prompt="p", mode=TaskMode.EXPLORE), "x-1")  # pyright: ignore[reportPrivateUsage]
    assert programs_of(session) == 100
    assert programs_of(session.model_copy(update={"summary": {"explored": "many"}})) == 1


def test_when_there_is_nothing_to_learn() -> None:
    solver = Solver(never)

    def solved(mode: TaskMode) -> Solved:
        task = TaskSpec(id="t", prompt="p", mode=mode)
        return Solved(solver._one(task, f"{mode}-1"), 1)  # pyright: ignore[reportPrivateUsage]

    by_model, by_explorer = solved(TaskMode.ATTEMPT), solved(TaskMode.EXPLORE)
    assert nothing_to_learn([], {}, demonstrations=False)
    assert not nothing_to_learn([], {}, demonstrations=True)
    assert not nothing_to_learn([by_model], {}, demonstrations=False)
    assert nothing_to_learn([by_model], {"t": by_model.session.code}, demonstrations=False)
    assert not nothing_to_learn([by_explorer], {"t": by_explorer.session.code}, demonstrations=False)


def test_demonstrations_alone_are_a_dataset() -> None:
    with pytest.raises(ValueError, match="alone they are a dataset"):
        TrainRequest(dataset="/a.jsonl", demonstrations="/b.jsonl")


# --- rounds ---


async def test_where_the_model_solves_nothing_the_explorer_teaches_it(world: World) -> None:
    one = loop(world)
    report = await one.improve()
    (first,) = report.rounds
    assert (first.tasks, first.solved_by_model, first.solved_by_explorer) == (TASKS, 0, TASKS)
    assert (first.calls_per_task_before, first.calls_per_task_after) == (100.0, 1.0)
    assert first.promoted, first.reason
    assert report.adapter_id == first.adapter_id == f"{SUITE}-0badcafe-1"
    champions = await world.registry.get_champions(TASK_TYPE)
    assert champions.champion == report.adapter_id
    assert len(one.solver.runs["improve-0badcafe-1"]) <= PROBE, (
        "a model that solves none of the probe is not asked more"
    )
    (request,) = one.trainer.requests
    assert len(request.sessions) == TASKS
    assert report.adapter_id is not None
    (move,) = await world.registry.get_promotions(report.adapter_id)
    assert not move.forced
    assert Evidence.model_validate(move.evidence).verdict is Verdict.PROVEN


async def test_an_adapter_that_does_not_help_is_not_promoted_and_the_report_says_why(world: World) -> None:
    """Negative control: everything else is as in the round that promotes."""
    report = await loop(world, skills=[(0.0, 0.0)]).improve()
    (first,) = report.rounds
    assert not first.promoted
    assert first.calls_per_task_after is None
    assert first.reason.startswith("Not promoted: ")
    assert report.adapter_id is None
    assert (await world.registry.get_champions(TASK_TYPE)).champion is None


async def test_the_second_round_begins_with_the_first_ones_adapter_and_what_failed(world: World) -> None:
    one = loop(world, after_round_one, [(0.5, 0.0), (1.0, 0.6)])
    report = await one.improve(rounds=2)
    first, second = report.rounds
    assert (second.solved_by_model, second.solved_by_explorer) == (TASKS - 5, 5)
    assert second.calls_per_task_before < first.calls_per_task_before
    assert [request.warm_start for request in one.trainer.requests] == [None, first.adapter_id]
    assert second.promoted, second.reason
    assert report.adapter_id == second.adapter_id
    champions = await world.registry.get_champions(TASK_TYPE)
    assert champions.previous == first.adapter_id
    again = (await one.improve(rounds=2)).rounds  # resumed at its end, when the champion is the second one all along
    counts = {"number", "tasks", "solved_by_model", "solved_by_explorer", "calls_per_task_before", "promoted"}
    assert [each.model_dump(include=counts) for each in again] == [
        each.model_dump(include=counts) for each in report.rounds
    ]


async def test_a_round_after_one_that_was_not_promoted_asks_nobody_again_and_trains_with_another_seed(
    world: World,
) -> None:
    """The model stands where it stood; only the dice of the training are new."""
    one = loop(world, skills=[(0.0, 0.0), (1.0, 0.6)])
    report = await one.improve(rounds=2, seed=7)
    first, second = report.rounds
    assert (first.promoted, second.promoted) == (False, True)
    assert sorted(one.solver.runs) == ["improve-0badcafe-1", "improve-0badcafe-1-explore"]
    assert (second.solved_by_explorer, second.calls_per_task_before) == (TASKS, 100.0)
    assert [request.seed for request in one.trainer.requests] == [7, 8]
    assert one.trainer.requests[0].sessions == one.trainer.requests[1].sessions


async def test_a_limit_gives_each_round_other_tasks_and_training_all_of_them(world: World) -> None:
    one = loop(world, never, [(0.5, 0.0), (1.0, 0.6)])
    report = await one.improve(rounds=2, limit=10)
    assert [each.tasks for each in report.rounds] == [10, 10]
    assert [len(request.sessions) for request in one.trainer.requests] == [10, 20]


async def test_a_round_with_nothing_new_trains_nothing_and_ends_the_loop(world: World) -> None:
    one = loop(world, lambda task, number: True)
    report = await one.improve(rounds=5)
    assert len(report.rounds) == 2
    assert report.rounds[0].solved_by_model == TASKS
    assert report.rounds[1].job_id is None
    assert "nothing is left to learn" in report.rounds[1].reason
    assert len(one.trainer.requests) == 1


async def test_without_the_explorer_a_model_that_solves_nothing_learns_nothing(world: World) -> None:
    one = loop(world)
    report = await one.improve(explore=False)
    assert report.rounds[0].reason == "Nothing was verified in this round."
    assert one.trainer.requests == []
    assert list(one.solver.runs) == ["improve-0badcafe-1"]
    assert len(one.solver.runs["improve-0badcafe-1"]) == TASKS, "every task was tried"


async def test_demonstrations_are_learned_from_alone_or_besides(world: World) -> None:
    alone = loop(world)
    await alone.improve(explore=False, demonstrations="/shown.jsonl")
    assert [(one.dataset, one.from_trajectories) for one in alone.trainer.requests] == [("/shown.jsonl", False)]
    besides = loop(world)
    await besides.improve("improve-00000002", demonstrations="/shown.jsonl")
    (request,) = besides.trainer.requests
    assert (request.dataset, request.demonstrations, len(request.sessions)) == (None, "/shown.jsonl", TASKS)


async def test_the_base_models_answers_elsewhere_are_kept_by_every_round_and_rehearsed_once(world: World) -> None:
    one = loop(world, after_round_one, [(0.5, 0.0), (1.0, 0.6)])
    await one.improve(rounds=2, seed=4)
    assert one.rehearser.asked == [(RehearseRequest(suites=ELSEWHERE, seed=4), BEGUN)]
    assert [request.rehearsal for request in one.trainer.requests] == ["rehearse-0000beef"] * 2


async def test_where_nothing_is_to_be_rehearsed_nothing_is(world: World) -> None:
    one = loop(world)
    await one.improve(rehearse=())
    assert (one.rehearser.asked, one.trainer.requests[0].rehearsal) == ([], None)


async def test_where_nothing_is_learned_nothing_is_rehearsed(world: World) -> None:
    one = loop(world)
    await one.improve(explore=False)
    assert one.rehearser.asked == []


def test_the_suite_that_is_improved_on_is_not_kept_as_it_was() -> None:
    assert elsewhere(ImproveRequest(suite="kit")) == ELSEWHERE
    assert elsewhere(ImproveRequest(suite="general")) == ("inkwell", "runekit")
    assert elsewhere(ImproveRequest(suite="kit", rehearse=("inkwell", "kit", "general"))) == ("inkwell", "general")
    with pytest.raises(ValueError, match="named twice"):
        ImproveRequest(suite="kit", rehearse=("general", "general"))


async def test_resumed_after_a_failure_it_does_nothing_twice(world: World) -> None:
    one = loop(world)
    one.trainer.fails = True
    with pytest.raises(TrainingError):
        await one.improve()
    known = dict(one.solver.known)
    one.trainer.fails = False
    report = await one.improve()
    assert one.solver.known == known, "the same sessions by the same runs"
    again = await one.improve()
    assert again.rounds[0].promoted and report.rounds[0].promoted
    assert len(await world.registry.get_promotions(report.adapter_id or "")) == 1


async def test_a_champion_that_came_meanwhile_is_not_pushed_aside_and_the_report_says_so(world: World) -> None:
    """The evidence is against the base model; who serves now was never beaten. Resumed, it ends the same."""
    one = loop(world)
    gather = one.gatherer.gather

    async def overtaken(request: EvidenceRequest, progress: Progress) -> tuple[str, Evidence]:
        found = await gather(request, progress)
        if (await world.registry.get_champions(TASK_TYPE)).champion is None:
            await world.adapter("rival", 0.9)
            await world.registry.set_alias(f"{TASK_TYPE}@champion", "rival")
        return found

    one.gatherer.gather = overtaken  # type: ignore[method-assign]  # somebody promotes in this very moment
    for _ in range(2):
        report = await one.improve()
        assert not report.rounds[0].promoted
        assert "rival" in report.rounds[0].reason, report.rounds[0].reason
        assert report.adapter_id == "rival"
    assert await world.registry.get_promotions(report.rounds[0].adapter_id or "") == []


async def test_a_suite_without_tasks_to_learn_from_is_refused(world: World) -> None:
    with pytest.raises(InputError, match="no task to learn from"):
        await loop(world).improve(suite="general")


@pytest.mark.parametrize(("model", "explore"), [(never, True), (after_round_one, True), (after_round_one, False)])
async def test_progress_rises_to_the_whole(world: World, model: Skill, explore: bool) -> None:
    told: list[tuple[int, int]] = []

    notes: list[str] = []

    async def tell(done: int, total: int, note: str = "") -> None:
        told.append((done, total))
        notes.append(note)

    one = loop(world, model, [(0.5, 0.0), (1.0, 0.6)])
    report = await one.improve(tell=tell, rounds=2, explore=explore)
    assert [done for done, _ in told] == sorted(done for done, _ in told)
    assert told[-1] == (200, 200)
    said = [(told[place], note) for place, note in enumerate(notes) if "rehearsal" in note]
    learns_in = next((each.number for each in report.rounds if each.job_id), 0)
    where = (100 * (learns_in - 1) + REHEARSED, 200)
    assert said == ([(where, f"round {learns_in} of 2, rehearsal: 60 rows")] if learns_in else [])
