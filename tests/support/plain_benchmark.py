"""What the kill switch measures with where answers come from a script: the real rule, a judge that runs nothing."""

from __future__ import annotations

from collections.abc import Sequence

from support.evaluation_house import Plain, Tasks, make_task
from support.pipeline_fakes import FakeJudge

from engine.api_learning import SuiteTask
from engine.evaluation.training_benchmark import TrainingBenchmark


def plain_benchmark(tasks: Sequence[SuiteTask]) -> TrainingBenchmark:
    """These tasks, whatever the suite is called; `# pass` passes."""
    judge = FakeJudge()

    async def prompting() -> Plain:
        return Plain()

    async def judging() -> FakeJudge:
        return judge

    return TrainingBenchmark(Tasks(tuple(tasks)), prompting, judging, at_once=4)


def numbered(count: int, first: int = 0) -> tuple[SuiteTask, ...]:
    """So many tasks of the gate."""
    return tuple(make_task(number) for number in range(first, first + count))
