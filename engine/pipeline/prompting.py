"""How a task of a suite is put to a model: as the first attempt of the pipeline, with the pipeline's templates.

So what is measured is what the pipeline asks, and an adapter that learned from the pipeline's own runs is asked in the
words that it learned. Implements `engine.evaluation.evaluator.Prompting`.
"""

from __future__ import annotations

from engine.api_learning import SuiteTask
from engine.api_models import TaskMode, TaskSpec
from engine.inference.provider import Completion, Message
from engine.pipeline.extract import extract_code
from engine.pipeline.files import example
from engine.pipeline.imports import complete_imports
from engine.pipeline.prompts import SHRINK, Prompts
from engine.pipeline.single import attempt_facts, first_key
from engine.pipeline.work import with_prelude


class PipelinePrompting:
    """The pipeline's first attempt, without a session."""

    def __init__(self, prompts: Prompts) -> None:
        self._prompts = prompts

    def render(self, task: SuiteTask, *, open_book: bool = False, shrink: bool = False) -> tuple[Message, ...]:
        """What the model is given; hidden tests, cases and the reference are not in it.

        Args:
            open_book: show it the modules that the prelude imports.
            shrink: after a context overflow: each part at half of its budget.
        """
        asked = as_task(task.model_copy(update={"prelude": ""}) if open_book else task)
        prompt = self._prompts.render(first_key(asked), attempt_facts(asked), shrink=SHRINK if shrink else 1.0)
        return Message("system", prompt.system), Message("user", prompt.user)

    def extract(self, task: SuiteTask, completion: Completion) -> str:
        """The program that is judged: the answer's code under the task's prelude; empty where there is none."""
        code = extract_code(completion.text, cut=completion.finish_reason == "length").code
        code = complete_imports(code, task.prompt)
        return with_prelude(task.prelude, code) if code.strip() else ""


def as_task(task: SuiteTask, *, attempts: int | None = None, seed: int | None = None) -> TaskSpec:
    """A task of a suite as a task for a session: its visible tests drive the loop, its own tests and cases decide."""
    return TaskSpec(
        id=task.id,
        prompt=task.prompt,
        tests=task.visible_tests,
        hidden_tests=hidden_tests(task),
        entry_point=task.entry_point or (task.cases.function if task.cases else None),
        files=task.files,
        prelude=task.prelude,
        task_type=task.task_type,
        mode=TaskMode.ATTEMPT,
        max_attempts=attempts,
        seed=seed,
    )


def hidden_tests(task: SuiteTask) -> str:
    """The task's tests, with its cases as assertions."""
    cases = [f"assert {example(task.cases, case)}" for case in task.cases.items] if task.cases is not None else []
    return "\n".join([*([task.tests] if task.tests else []), *cases])
