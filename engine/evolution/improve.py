"""Closes the loop: run, keep what was verified, train, measure, promote, and again with what was promoted.

    tasks of the train split ──► the model tries ──► the explorer tries what it did not solve
         ▲                                                      │ verified sessions of all rounds, demonstrations;
         │                                                      ▼ to be kept: the base model's answers elsewhere
    next round, with ◄── promoted, if it is proven ◄── evidence on the gate ◄── training job
    whatever is in use

An adapter that learns one domain alone forgets the others, and is refused for it. So what the base model says on other
suites is rehearsed, once for all rounds and not before there is something to learn.

Nothing here is stored: sessions are known by the round's run, the job by the adapter that it makes, evidence and the
rehearsal by what they were asked. So whoever goes on after a crash finds every step that was done, and does the first
that was not.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from engine.api_evolution import (
    Evidence,
    EvidenceRequest,
    ImproveReport,
    ImproveRequest,
    ImproveRound,
    PromoteRequest,
    Verdict,
)
from engine.api_learning import Operation, RehearseRequest, Split, SuiteTask
from engine.api_models import PASSING, SessionRecord, TaskMode, TaskSpec
from engine.api_training import TrainJob, TrainRequest
from engine.errors import ConflictError, InputError
from engine.evolution.evidence import fresh_seed
from engine.evolution.improve_progress import PROBED, REHEARSED, SOLVED, STEPS, TRAINED, TRIED, Rounds
from engine.evolution.promotion import Promotions
from engine.evolution.seams import SuiteTasks
from engine.operations import Progress
from registry.clock import Clock
from registry.errors import TransitionRefused
from registry.files import run_to_end
from registry.models import Tier
from registry.registry import Registry

PROBE = 8
"""Tasks that the model tries first: if it solves none of them, the explorer has the rest to itself."""


MAX_SEED = 1 << 31
"""Seeds are below it."""


class Solving(Protocol):
    """Has tasks worked on (`engine.evolution.session_runs`)."""

    async def solve(
        self, tasks: Sequence[TaskSpec], run_id: str, progress: Progress, *, adapter: str | None = None
    ) -> list[SessionRecord]:
        """Every task's session, ended, in the order of the tasks."""
        ...


class Training(Protocol):
    """Trains an adapter (`engine.evolution.improve_steps`)."""

    async def train(self, request: TrainRequest, progress: Progress) -> TrainJob:
        """The job that made `request.adapter_id`."""
        ...


class Rehearsing(Protocol):
    """Writes down what the base model says (`engine.evolution.improve_steps`)."""

    async def rehearse(self, request: RehearseRequest, since: str, progress: Progress) -> str:
        """Id of the operation that did it, asked at `since` (`Operation.created_at`) or later."""
        ...


class Gathering(Protocol):
    """Measures what a promotion rests on (`engine.evolution.improve_steps`)."""

    async def gather(self, request: EvidenceRequest, progress: Progress) -> tuple[str, Evidence]:
        """Id of the operation, and what it found."""
        ...


@dataclass(frozen=True)
class Parts:
    """What a round is made of."""

    suites: SuiteTasks
    solving: Solving
    rehearsing: Rehearsing
    training: Training
    gathering: Gathering
    registry: Registry
    promotions: Promotions
    clock: Clock


@dataclass(frozen=True)
class Solved:
    """A task that somebody solved, and what it cost."""

    session: SessionRecord
    calls: int
    """Programs that were run for it."""

    @property
    def by_explorer(self) -> bool:
        """Not by the model."""
        return self.session.task.mode is TaskMode.EXPLORE


@dataclass(frozen=True)
class Found:
    """What was solved of some tasks while one adapter, or none, was in use for them."""

    tasks: tuple[str, ...]
    champion: str | None
    solved: tuple[Solved, ...]


class ImproveHandler:
    """Operations of the kind `improve`. Implements `engine.operations.Handler`."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts

    async def run(self, operation: Operation, progress: Progress) -> ImproveReport:
        """See `Handler`.

        Raises:
            NotFoundError: there is no such suite.
            InputError: it has no tasks to learn from, or they are of several task types.
            RuneError, RegistryError: a job, or the measuring, failed; resumed, it goes on there.
        """
        request = ImproveRequest.model_validate(operation.request)
        await run_to_end(lambda: importlib.import_module("engine.pipeline.prompting"))  # Jinja: a moment of imports
        tasks = await run_to_end(lambda: self._parts.suites.tasks(request.suite, request.seed, Split.TRAIN))
        kinds = {task.task_type for task in tasks}
        if len(kinds) != 1:
            what = "has no task to learn from" if not tasks else f"has tasks of several types: {sorted(kinds)}"
            raise InputError(f"The suite {request.suite} {what}.")
        return await _Improving(self._parts, operation, tasks, progress).run()


class _Improving:
    """One operation at work. Owner of what the rounds so far came to."""

    def __init__(self, parts: Parts, operation: Operation, tasks: Sequence[SuiteTask], progress: Progress) -> None:
        request = ImproveRequest.model_validate(operation.request)
        self._parts = parts
        self._id = operation.id
        self._asked_at = operation.created_at
        self._request = request
        self._tasks = tasks
        self._progress = Rounds(progress, request.rounds, parts.clock.monotonic)
        self._task_type = tasks[0].task_type
        self._solved: dict[str, Solved] = {}
        """By task id: the newest solution of each."""
        self._rehearsal: str | None = None
        """The operation with what every round keeps; None: nothing is kept, or nothing was learned yet."""
        self._promoted: str | None = None
        """The last adapter of this operation that is in use: the next one begins with its weights."""
        self._found: Found | None = None
        """What the last round came to, before it learned."""

    async def run(self) -> ImproveReport:
        rounds: list[ImproveRound] = []
        for number in range(1, self._request.rounds + 1):
            rounds.append(await self._round(number))
            if rounds[-1].job_id is None:
                break  # nothing to learn: the next round would find the same
        champions = await self._parts.registry.get_champions(self._task_type)
        await self._progress.done()
        return ImproveReport(rounds=tuple(rounds), adapter_id=champions.champion)

    async def _round(self, number: int) -> ImproveRound:
        tasks = tasks_of_round(self._tasks, number, self._request.limit)
        before = {task: solved.session.code for task, solved in self._solved.items()}
        solved = await self._work(number, tasks)
        self._solved |= {one.session.task.id: one for one in solved}
        counts = ImproveRound(
            number=number,
            tasks=len(tasks),
            solved_by_model=sum(not one.by_explorer for one in solved),
            solved_by_explorer=sum(one.by_explorer for one in solved),
            calls_per_task_before=sum(one.calls for one in solved) / len(solved) if solved else 0.0,
            calls_per_task_after=None,
            job_id=None,
            adapter_id=None,
            evidence=None,
            promoted=False,
            reason="",
        )
        if against := nothing_to_learn(solved, before, demonstrations=self._request.demonstrations is not None):
            return counts.model_copy(update={"reason": against})
        return await self._learn(counts)

    async def _work(self, number: int, tasks: Sequence[SuiteTask]) -> list[Solved]:
        """What is solved of the tasks; asked of a model that stands where it stood, it would be what it was."""
        champion = (await self._parts.registry.get_champions(self._task_type)).champion
        asked = tuple(task.id for task in tasks)
        if self._found is None or (self._found.tasks, self._found.champion) != (asked, champion):
            self._found = Found(asked, champion, tuple(await self._solve(number, tasks)))
        return list(self._found.solved)

    async def _solve(self, number: int, tasks: Sequence[SuiteTask]) -> list[Solved]:
        """The model tries; what it does not solve, the explorer does, if it may."""
        from engine.pipeline.prompting import as_task

        first = probe_of(tasks) if self._request.explore else list(tasks)
        tell = self._progress.step(number, 0, PROBED if self._request.explore else SOLVED, "model")
        runs = f"{self._id}-{number}"
        sessions = await self._parts.solving.solve([as_task(task, attempts=1) for task in first], runs, tell)
        if self._request.explore and any(session.outcome in PASSING for session in sessions):
            asked = {task.id for task in first}
            rest = [as_task(task, attempts=1) for task in tasks if task.id not in asked]
            tell = self._progress.step(number, PROBED, TRIED, "model")
            sessions += await self._parts.solving.solve(rest, runs, tell)
        solved = [Solved(session, max(1, session.attempts)) for session in sessions if session.outcome in PASSING]
        if not self._request.explore:
            return solved
        done = {one.session.task.id for one in solved}
        left = [as_task(task, attempts=1).model_copy(update={"mode": TaskMode.EXPLORE}) for task in tasks]
        tell = self._progress.step(number, TRIED, SOLVED, "explorer")
        explored = await self._parts.solving.solve(
            [task for task in left if task.id not in done], f"{runs}-explore", tell
        )
        return solved + [Solved(session, programs_of(session)) for session in explored if session.outcome in PASSING]

    async def _learn(self, counts: ImproveRound) -> ImproveRound:
        number = counts.number
        adapter_id = f"{self._request.suite}-{self._id.rsplit('-', 1)[-1]}-{number}"
        await self._rehearse(number)
        tell = self._progress.step(number, REHEARSED if self._rehearsal else SOLVED, TRAINED, "training")
        job = await self._parts.training.train(self._training_request(adapter_id, number), tell)
        adapter = await self._parts.registry.get(adapter_id)
        request = EvidenceRequest(
            adapter=adapter_id,
            suite=self._request.suite,
            to_tier=Tier.TASK.value,
            seed=fresh_seed(self._request.seed, adapter.digest),
        )
        tell = self._progress.step(number, TRAINED, STEPS, "evidence")
        operation, evidence = await self._parts.gathering.gather(request, tell)
        against = await self._promote(adapter_id, operation, evidence)
        if not against:
            self._promoted = adapter_id
            # The model has moved. A round that is gone through again finds today's champion before it and after it.
            self._found = None
        rate = evidence.adapter_rate
        return counts.model_copy(
            update={
                "calls_per_task_after": rate.total / rate.passed if rate.passed else None,
                "job_id": job.id,
                "adapter_id": adapter_id,
                "evidence": evidence,
                "promoted": not against,
                "reason": against or _praise(evidence),
            }
        )

    async def _rehearse(self, number: int) -> None:
        suites = elsewhere(self._request)
        if suites and self._rehearsal is None:
            tell = self._progress.step(number, SOLVED, REHEARSED, "rehearsal")
            request = RehearseRequest(suites=suites, seed=self._request.seed)
            self._rehearsal = await self._parts.rehearsing.rehearse(request, self._asked_at, tell)

    def _training_request(self, adapter_id: str, number: int) -> TrainRequest:
        """All that was verified in this operation, from the weights of its last adapter that is in use.

        The base model's answers are kept besides. Each round has a seed of its own: where the one before was not
        promoted the data is the same, and so would be the adapter.
        """
        sessions = tuple(solved.session.id for solved in self._solved.values())
        source = {"from_trajectories": True, "sessions": sessions, "demonstrations": self._request.demonstrations}
        return TrainRequest.model_validate(
            {
                "adapter_id": adapter_id,
                "task_type": self._task_type,
                "preset": self._request.preset,
                "seed": (self._request.seed + number - 1) % MAX_SEED,
                "warm_start": self._promoted,
                "rehearsal": self._rehearsal,
                **(source if sessions else {"dataset": self._request.demonstrations}),
            }
        )

    async def _promote(self, adapter_id: str, operation: str, evidence: Evidence) -> str:
        """Put it to use if that is proven; gives why it is not, or nothing where it is."""
        if await self._parts.registry.get_promotions(adapter_id):
            return ""  # by an earlier run of this operation, or by its user meanwhile
        if evidence.verdict is not Verdict.PROVEN:
            return f"Not promoted: {evidence.verdict.value}. {' '.join(evidence.reasons)}".strip()
        wanted = PromoteRequest(adapter_id=adapter_id, to_tier=Tier.TASK.value, evidence=operation)
        try:
            await self._parts.promotions.promote(wanted)
        except (ConflictError, TransitionRefused) as error:
            # Somebody else is in use since it was measured, or it was archived: what this round found stands, and a
            # resumed operation would find the same. `rune-tui promote` has it measured against whom it must beat now.
            return f"Not promoted: {error}"
        return ""


def elsewhere(request: ImproveRequest) -> tuple[str, ...]:
    """The suites to rehearse: not the one whose answers are to change. Pure."""
    return tuple(suite for suite in request.rehearse if suite != request.suite)


def tasks_of_round(tasks: Sequence[SuiteTask], number: int, limit: int | None) -> list[SuiteTask]:
    """What a round works on: everything, or the next `limit` tasks, from the first again after the last. Pure."""
    if limit is None or limit >= len(tasks):
        return list(tasks)
    first = (number - 1) * limit
    return [tasks[place % len(tasks)] for place in range(first, first + limit)]


def probe_of(tasks: Sequence[SuiteTask]) -> list[SuiteTask]:
    """A few tasks from all over the round, always the same ones. Pure."""
    return list(tasks[:: max(1, -(-len(tasks) // PROBE))])


def programs_of(session: SessionRecord) -> int:
    """Programs that the explorer ran for a session."""
    explored = (session.summary or {}).get("explored")
    programs = explored.get("programs") if isinstance(explored, dict) else None
    return programs if isinstance(programs, int) else max(1, session.attempts)


def nothing_to_learn(solved: Sequence[Solved], before: dict[str, str | None], *, demonstrations: bool) -> str:
    """Why a round trains nothing; empty where there is something to learn. Pure.

    What the explorer had to solve, the model cannot do yet, even where it was shown it in an earlier round. What the
    model solved is new only if it had no such solution.
    """
    if not solved:
        return "" if demonstrations and not before else "Nothing was verified in this round."
    new = any(one.by_explorer or before.get(one.session.task.id) != one.session.code for one in solved)
    return "" if new else "The model solved every task of this round as before: nothing is left to learn from them."


def _praise(evidence: Evidence) -> str:
    return f"Promoted: e-value {evidence.e_value:.4g} of {evidence.threshold:g} against {evidence.incumbent}."
