"""What `cat-learned` learns its scalars from: solved tasks of the train splits, asked as the pipeline asks them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Protocol

from engine.api_evolution import MergeRequest
from engine.api_learning import Split, SuiteTask
from engine.config import Config
from engine.errors import InputError
from engine.evolution.merging.spec import Example, Learning
from engine.evolution.seams import SuiteTasks
from engine.inference.base_weights import ensure_base_weights
from engine.inference.provider import Message
from engine.operations import Progress
from registry.files import run_to_end
from registry.models import LoadableAdapter

PER_SUITE = 12
"""Examples of one suite: their loss tells scalars apart well, and forty passes over them take a minute on a CPU."""


class Asking(Protocol):
    """See `engine.pipeline.prompting.PipelinePrompting`."""

    def render(self, task: SuiteTask) -> tuple[Message, ...]:
        """What the model is given."""
        ...


AskingSource = Callable[[], Awaitable[Asking]]
"""Made when it is first needed: templates are read from the disk."""


class Examples:
    """Prepares `cat-learned`. Implements `engine.evolution.merging.handler.PrepareLearning`."""

    def __init__(
        self, config: Config, home: Path, suites: SuiteTasks, prompting: Callable[[], Awaitable[Asking]]
    ) -> None:
        self._config = config
        self._home = home
        self._suites = suites
        self._prompting = prompting

    async def __call__(self, request: MergeRequest, parents: Sequence[LoadableAdapter], progress: Progress) -> Learning:
        """Examples of the request's suite, or of those of the parents' task types; and the base model's weights.

        Raises:
            InputError: there is no such suite, or none of its tasks has a reference solution.
            EnvironmentUnfitError: the base model cannot be unpacked.
        """
        names = suite_names(request, parents, self._config.evolution.suites)
        asking = await self._prompting()
        examples = await run_to_end(lambda: self._examples(names, request.seed, asking))
        await progress(0, 1, "unpacking the base model")
        base = await ensure_base_weights(self._config, self._home, lambda line: None)
        return Learning(base_directory=base.directory, examples=examples)

    def _examples(self, names: Sequence[str], seed: int, asking: Asking) -> tuple[Example, ...]:
        found: list[Example] = []
        for name in names:
            tasks = [task for task in self._suites.tasks(name, seed, Split.TRAIN) if task.reference]
            if not tasks:
                raise InputError(
                    f"{name} has no tasks with a reference solution to learn scalars from; name a --suite."
                )
            found += [as_example(task, asking, name) for task in spread(tasks, PER_SUITE)]
        return tuple(found)


def suite_names(
    request: MergeRequest, parents: Sequence[LoadableAdapter], suites: Mapping[str, str]
) -> tuple[str, ...]:
    """The suites to learn from, each once.

    Raises:
        InputError: none is named, and a parent's task type has none.
    """
    if request.suite is not None:
        return (request.suite,)
    types = sorted({parent.adapter.task_type for parent in parents})
    for task_type in types:
        if task_type not in suites:
            raise InputError(f"[evolution.suites] names no suite for the task type {task_type}; name a --suite.")
    return tuple(dict.fromkeys(suites[task_type] for task_type in types))


def spread(tasks: Sequence[SuiteTask], count: int) -> list[SuiteTask]:
    """At most so many, from the whole length of the list: neighbours are often alike."""
    step = max(1.0, len(tasks) / count)
    return [tasks[int(number * step)] for number in range(min(count, len(tasks)))]


def as_example(task: SuiteTask, asking: Asking, group: str) -> Example:
    """The task as the model is asked it, with its reference as the answer, in the form of the training data."""
    messages = tuple((message.role, message.content) for message in asking.render(task))
    return Example(messages=messages, completion=f"```python\n{(task.reference or '').strip()}\n```", group=group)
