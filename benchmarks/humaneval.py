"""HumanEval as tasks of a session; the data is the built-in suite's."""

from __future__ import annotations

from engine.api_models import TaskMode, TaskSpec
from engine.evaluation.suites import humaneval
from engine.evaluation.suites.humaneval import Problem, visible_examples

__all__ = ["Problem", "as_task", "problems", "visible_examples"]


def problems(count: int) -> tuple[Problem, ...]:
    """The first `count` problems, in the benchmark's order."""
    return humaneval.problems()[:count]


def as_task(problem: Problem, *, attempts: int, seed: int) -> TaskSpec:
    """The problem in attempt mode; its visible examples drive the loop, its own tests decide."""
    return TaskSpec(
        id=f"{problem.name}-x{attempts}",
        prompt=humaneval.request(problem),
        tests="\n".join(visible_examples(problem)) or None,
        hidden_tests=problem.test,
        entry_point=problem.entry_point,
        mode=TaskMode.ATTEMPT,
        max_attempts=attempts,
        seed=seed,
    )
