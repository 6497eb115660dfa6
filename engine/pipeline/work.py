"""What the phases share: the session's identity and parts, its loops, and its way to run things side by side."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, TypeVar

from engine.api_models import PhaseName, TaskSpec
from engine.errors import RuneError
from engine.evaluation.judge import Checks, Solution
from engine.evaluation.suites.solutions import with_prelude
from engine.evaluation.verdict import Verdict
from engine.pipeline.attempt import AttemptLoop
from engine.pipeline.files import entry_point, importable_files
from engine.pipeline.limits import TokenBudget, phase_cap
from engine.pipeline.parts import Parts
from engine.pipeline.turns import Loop, Turn

if TYPE_CHECKING:
    from langgraph.checkpoint.base import BaseCheckpointSaver

T = TypeVar("T")
Item = TypeVar("Item")


@dataclass(frozen=True)
class Work:
    """One session at work."""

    session_id: str
    task: TaskSpec
    parts: Parts
    budget: TokenBudget
    saver: BaseCheckpointSaver[str] | None
    slots: asyncio.Semaphore = field(compare=False)
    """How many loops of this session run side by side."""

    def cap(self, phase: PhaseName) -> int:
        """How many attempts a loop of that phase has."""
        return phase_cap(phase, self.parts.pipeline, self.task.max_attempts)

    @property
    def has_tests(self) -> bool:
        """Whether the task gives tests that the loop may use."""
        return self.task.tests is not None or self.task.cases is not None

    async def run(self, loop: Loop) -> list[Turn]:
        """Run one attempt loop to its end, from where it stood before a crash."""
        seed = self.parts.generation.seed if self.task.seed is None else self.task.seed
        async with self.slots:
            attempts = AttemptLoop(self.session_id, self.task.prompt, seed, self.parts, self.budget, loop)
            return await attempts.run(self.saver)

    async def check(self, code: str) -> Verdict:
        """The verdict of the task's visible tests and cases, or of the code's own tests where there are none."""
        solution = self.solution(code)
        if not self.has_tests:
            return self._in_lines_of_code(await self.parts.judge.self_check(solution))
        checks = Checks(tests=self.task.tests, cases=self.task.cases, in_process=self.task.in_process)
        return self._in_lines_of_code(await self.parts.judge.check(solution, checks))

    async def self_check(self, code: str) -> Verdict:
        """The verdict of the tests that the code of a subtask brings with it."""
        return await self.parts.judge.self_check(self.solution(code))

    async def decide(self, code: str) -> Verdict:
        """The last word where the task has hidden tests: they alone."""
        hidden = Checks(tests=self.task.hidden_tests, cases=None, in_process=self.task.in_process)
        return await self.parts.judge.check(self.solution(code), hidden)

    def solution(self, code: str) -> Solution:
        """The code beside the starting project, under its prelude."""
        return Solution(
            code=with_prelude(self.task.prelude, code),
            files=importable_files(self.task),
            entry_point=entry_point(self.task),
        )

    def _in_lines_of_code(self, verdict: Verdict) -> Verdict:
        """The model never saw the prelude: where it is told a line, it is one of its own code."""
        above = with_prelude(self.task.prelude, "").count("\n")
        if not above or not verdict.failures:
            return verdict
        failures = tuple(
            failure if failure.line is None else replace(failure, line=max(1, failure.line - above))
            for failure in verdict.failures
        )
        return replace(verdict, failures=failures)


async def side_by_side(work: Callable[[Item], Awaitable[T]], items: Sequence[Item]) -> list[T]:
    """`work` on every item at once, results in the order of the items; the first failure stops the others.

    Raises:
        The first of our own errors as it is, so that callers need not know about groups.
    """
    results: dict[int, T] = {}

    async def one(index: int, item: Item) -> None:
        results[index] = await work(item)

    try:
        async with asyncio.TaskGroup() as group:
            for index, item in enumerate(items):
                group.create_task(one(index, item), name=f"subtask-{index}")
    except BaseExceptionGroup as errors:
        raise _first_of_ours(errors) from errors
    return [results[index] for index in range(len(items))]


def _first_of_ours(errors: BaseExceptionGroup[BaseException]) -> BaseException:
    ours = errors.subgroup(RuneError)
    leaf: BaseException = errors if ours is None else ours
    while isinstance(leaf, BaseExceptionGroup):
        leaf = leaf.exceptions[0]
    return leaf
