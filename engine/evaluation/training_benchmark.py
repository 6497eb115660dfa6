"""What the kill switch of training measures with: tasks of a suite, asked and judged as an evaluation does it.

Implements `engine.training.kill_switch.Benchmark`. Training gives the answers of the model that it trains; this runs
them in the sandbox, and applies the rule of `gates.KillSwitch`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from fractions import Fraction

from engine.api_learning import Split, SuiteTask
from engine.config import TrainSection
from engine.errors import EnvironmentUnfitError, InputError
from engine.evaluation.answers import to_be_judged
from engine.evaluation.evaluator import Judging, Prompting, TaskSource
from engine.evaluation.gates import KillSwitch, KillSwitchSettings
from engine.evaluation.metrics import wilson
from engine.inference.provider import Completion, Message

SPLITS = (Split.SELECTION, Split.GATE)
"""Where tasks are taken from: the first that the suite has. A gate that stopped trainings has been learned from a
little, so it is taken only of suites that have nothing else."""


class TrainingBenchmark:
    """Asks and judges.

    Args:
        at_once: answers that are judged side by side.
    """

    def __init__(
        self,
        suites: TaskSource,
        prompting: Callable[[], Awaitable[Prompting]],
        judge: Callable[[], Awaitable[Judging]],
        at_once: int,
    ) -> None:
        self._suites = suites
        self._prompting = prompting
        self._judge = judge
        self._at_once = at_once

    async def choose(self, recipe: TrainSection, seed: int) -> tuple[SuiteTask, ...]:
        """The suite's first tasks, as `evaluate --limit` takes them.

        Raises:
            NotFoundError: there is no such suite.
            InputError: it has too few tasks, or the settings cannot work.
        """
        _rule(recipe)
        tasks = await asyncio.to_thread(self._suites.tasks, recipe.kill_benchmark, seed)
        split = next((split for split in SPLITS if any(task.split is split for task in tasks)), None)
        found = tuple(task for task in tasks if task.split is split)
        if len(found) < recipe.kill_samples:
            where = f" in {split.value}" if split else ""
            raise InputError(
                f"The suite {recipe.kill_benchmark} has {len(found)} tasks{where} for the kill switch, and "
                f"train.kill_samples is {recipe.kill_samples}."
            )
        return found[: recipe.kill_samples]

    async def questions(self, tasks: Sequence[SuiteTask]) -> tuple[tuple[Message, ...], ...]:
        """As an evaluation asks them, without the documentation of a private API."""
        prompting = await self._prompting()
        return await asyncio.to_thread(lambda: tuple(prompting.render(task) for task in tasks))

    async def solved(self, tasks: Sequence[SuiteTask], answers: Sequence[Completion]) -> int:
        """How many answers pass.

        Raises:
            EnvironmentUnfitError: the judge failed on one of them, twice.
        """
        prompting, judge = await self._prompting(), await self._judge()
        left = iter(list(zip(tasks, answers, strict=True)))
        passed: list[bool] = []

        async def work() -> None:
            for task, answer in left:  # shared: each takes the next
                passed.append(await _passes(prompting, judge, task, answer))

        try:
            async with asyncio.TaskGroup() as group:
                for number in range(self._at_once):
                    group.create_task(work(), name=f"judging for the kill switch {number}")
        except* EnvironmentUnfitError as failures:
            raise _first(failures) from failures
        return passed.count(True)

    def halts(self, recipe: TrainSection, baseline: int, now: int) -> bool:
        """See `gates.KillSwitch.halts`."""
        total = recipe.kill_samples
        return _rule(recipe).halts(wilson(baseline, total), wilson(now, total))

    def can_halt(self, recipe: TrainSection, baseline: int) -> bool:
        """See `gates.KillSwitch.can_halt`."""
        return _rule(recipe).can_halt(wilson(baseline, recipe.kill_samples))


def _rule(recipe: TrainSection) -> KillSwitch:
    # As it is written: the float 0.05 is a little more than one in twenty.
    delta = Fraction(str(recipe.kill_delta))
    settings = KillSwitchSettings(recipe.kill_benchmark, recipe.kill_samples, recipe.kill_cadence, delta)
    try:
        return KillSwitch(settings)
    except ValueError as error:
        raise InputError(f"train.kill_switch: {error}.") from error


async def _passes(prompting: Prompting, judge: Judging, task: SuiteTask, answer: Completion) -> bool:
    code = await asyncio.to_thread(prompting.extract, task, answer)
    if not code:
        return False
    solution, checks = to_be_judged(task, code)
    verdict = await judge.check(solution, checks)
    if verdict.infrastructure:
        verdict = await judge.check(solution, checks)
    if verdict.infrastructure:
        raise EnvironmentUnfitError(f"The judge failed on {task.id}: {verdict.error}")
    return verdict.passed


def _first(failures: BaseException) -> BaseException:
    while isinstance(failures, BaseExceptionGroup):
        failures = failures.exceptions[0]
    return failures
