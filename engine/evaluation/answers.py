"""What is judged of an answer: its code, against all that the task is decided by."""

from __future__ import annotations

from engine.api_learning import SuiteTask
from engine.evaluation.judge import Checks, Solution


def to_be_judged(task: SuiteTask, code: str) -> tuple[Solution, Checks]:
    """The code with the task's files, and the task's tests and cases."""
    entry_point = task.entry_point or (task.cases.function if task.cases else None)
    return Solution(code, task.files, entry_point), Checks(tests=task.tests, cases=task.cases)
