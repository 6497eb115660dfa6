"""What the kill switch of training asks and how it judges (A78): as an evaluation does, by the rule of the gates."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path

import pytest
from support.evaluation_house import Plain, Tasks, make_task, open_house
from support.pipeline_fakes import FakeJudge
from support.plain_benchmark import numbered, plain_benchmark

from engine.api_learning import Split, SuiteTask
from engine.config import TrainSection, load_config
from engine.errors import EnvironmentUnfitError, InputError, NotFoundError
from engine.evaluation.judge import Checks, Solution
from engine.evaluation.suites.library import Suites
from engine.evaluation.training_benchmark import TrainingBenchmark
from engine.evaluation.verdict import Verdict
from engine.inference.provider import Completion
from engine.pipeline.prompting import PipelinePrompting
from engine.pipeline.prompts import load_prompts

SHIPPED = load_config(Path("none")).train
PROMPTING = PipelinePrompting(load_prompts(None))


def recipe(**changes: object) -> TrainSection:
    return SHIPPED.model_copy(update={"kill_switch": True, "kill_benchmark": "mine", **changes})


def said(*texts: str, cut: bool = False) -> list[Completion]:
    return [Completion(text, "", None, 0, 0, "length" if cut else "stop") for text in texts]


def real(home: Path) -> TrainingBenchmark:
    """On the suites that come with the program, asked as the engine asks them; judges nothing."""

    async def prompting() -> PipelinePrompting:
        return PROMPTING

    async def judge() -> FakeJudge:
        return FakeJudge()

    return TrainingBenchmark(Suites(home), prompting, judge, at_once=2)


# --- what is asked -----------------------------------------------------------------------------------------------


async def test_as_the_program_ships_the_switch_is_off_and_would_ask_forty_of_humaneval(tmp_path: Path) -> None:
    assert (SHIPPED.kill_switch, SHIPPED.kill_cadence, SHIPPED.kill_delta) == (False, 100, 0.05)
    tasks = await real(tmp_path).choose(SHIPPED, seed=0)
    assert tasks == (await asyncio.to_thread(Suites(tmp_path).tasks, "humaneval"))[:40]


async def test_a_suite_that_has_a_selection_keeps_its_gate_for_the_promotion(tmp_path: Path) -> None:
    benchmark = real(tmp_path)
    tasks = await benchmark.choose(recipe(kill_benchmark="runekit"), seed=3)
    assert {task.split for task in tasks} == {Split.SELECTION} and len(tasks) == 40
    assert tasks != await benchmark.choose(recipe(kill_benchmark="runekit"), seed=4)


async def test_a_model_is_asked_in_the_words_of_an_evaluation(tmp_path: Path) -> None:
    benchmark = real(tmp_path)
    tasks = await benchmark.choose(SHIPPED, seed=0)
    rendered = await asyncio.to_thread(lambda: tuple(PROMPTING.render(task) for task in tasks))
    assert await benchmark.questions(tasks) == rendered
    async with open_house(tmp_path / "home") as house:
        asked = numbered(4)
        await house.with_tasks(asked).evaluate()
        sent = {request.messages for request in house.answers.asked}
        assert sent == set(await plain_benchmark(asked).questions(asked))


@pytest.mark.parametrize(
    ("changes", "error", "said"),
    [
        ({"kill_benchmark": "nobody"}, NotFoundError, "no suite nobody"),
        ({"kill_benchmark": ""}, InputError, "nothing to evaluate"),
        ({"kill_samples": 20}, InputError, "one flipped problem is 5.0%"),
        ({"kill_samples": 41, "kill_benchmark": "ood"}, InputError, r"ood has [0-9]+ tasks in gate .* is 41"),
    ],
)
async def test_a78_what_cannot_work_is_refused(
    tmp_path: Path, changes: dict[str, object], error: type[Exception], said: str
) -> None:
    with pytest.raises(error, match=said):
        await real(tmp_path).choose(recipe(**changes), seed=0)


async def test_tasks_to_learn_from_and_sealed_ones_are_never_asked() -> None:
    tasks = [make_task(number, split=(Split.TRAIN, Split.AUDIT)[number % 2]) for number in range(80)]
    with pytest.raises(InputError, match="mine has 0 tasks for the kill switch"):
        await plain_benchmark(tasks).choose(recipe(), seed=0)


# --- how it is judged --------------------------------------------------------------------------------------------


async def solved(tasks: Sequence[SuiteTask], *texts: str) -> int:
    return await plain_benchmark(tasks).solved(tasks, said(*texts))


async def test_each_answer_is_judged_by_its_own_task() -> None:
    assert await solved(numbered(6), "# pass", "none", "# fail 0/1", "# pass", "", "# pass") == 3


async def test_the_code_is_judged_with_the_task_s_files_under_its_prelude() -> None:
    judge = FakeJudge()

    async def prompting() -> PipelinePrompting:
        return PROMPTING

    async def judging() -> FakeJudge:
        return judge

    task = make_task(1).model_copy(update={"prelude": "import kit", "files": {"kit.py": "x = 1"}})
    benchmark = TrainingBenchmark(Tasks((task,)), prompting, judging, at_once=1)
    assert await benchmark.solved([task], said("Here:\n```python\ndef f():  # pass\n    return 1\n```")) == 1
    ((solution, checks),) = judge.checked
    assert solution.code.startswith("import kit\n") and "def f()" in solution.code and "```" not in solution.code
    assert checks is not None and (solution.files, solution.entry_point) == ({"kit.py": "x = 1"}, "f")
    assert checks.tests == task.tests


async def test_a_judge_that_fails_twice_is_no_wrong_answer() -> None:
    with pytest.raises(EnvironmentUnfitError, match="The judge failed on t1: the sandbox is gone"):
        await solved(numbered(3), "# pass", "# broken judge", "# pass")


class Shaky(FakeJudge):
    """Fails on the first try."""

    async def check(self, solution: Solution, checks: Checks) -> Verdict:
        verdict = await super().check(solution, checks)
        if len(self.checked) > 1:
            return verdict
        return self._verdict("# broken judge", verdict.strength)


async def test_a_judge_that_fails_once_is_asked_again() -> None:
    judge = Shaky()

    async def prompting() -> Plain:
        return Plain()

    async def judging() -> FakeJudge:
        return judge

    benchmark = TrainingBenchmark(Tasks(()), prompting, judging, at_once=1)
    assert await benchmark.solved(numbered(1), said("# pass")) == 1


# --- the rule ----------------------------------------------------------------------------------------------------


def test_a78_the_rule_is_that_of_the_gates_with_delta_as_it_is_written() -> None:
    """0.60, then 0.55 goes on, then 0.40 halts; 0.05 is one in twenty, though its float is a little more."""
    benchmark, asked = plain_benchmark(()), recipe(kill_samples=60)
    assert [benchmark.halts(asked, 36, now) for now in (36, 33, 32, 24)] == [False, False, True, True]
    assert [benchmark.can_halt(asked, baseline) for baseline in (3, 4)] == [False, True]
