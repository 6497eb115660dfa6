"""A05-A07 with the real judge in the real sandbox: what a model says about its own tests counts for nothing."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from support.pipeline_fakes import SHIPPED, Ground, ScriptedProvider, in_turn, make_parts, memory_directory, open_ground

from engine.api_models import Case, CaseSuite, Outcome, TaskMode, TaskSpec
from engine.evaluation.judge import Judge
from engine.sandbox.probe import probe
from engine.sandbox.run import Sandbox

RIGHT = "def add(a, b):\n    return a + b"
WRONG = "def add(a, b):\n    return a - b"
SUITE = CaseSuite(function="add", items=(Case(args=(1, 2), expected=3), Case(args=(0, 0), expected=0)))


@pytest.fixture
async def ground() -> AsyncIterator[Ground]:
    with memory_directory() as home:
        async with open_ground(home) as opened:
            yield opened


@pytest.fixture
async def judge(tmp_path: Path) -> Judge:
    report = await asyncio.to_thread(probe, SHIPPED.sandbox)
    if report.level == "none":
        pytest.skip(f"no sandbox here: {report.reason}")
    return Judge(Sandbox(SHIPPED.sandbox.model_copy(update={"min_level": str(report.level)}), report, tmp_path))


def task(**more: object) -> TaskSpec:
    values: dict[str, object] = {"id": "t", "prompt": "Write add(a, b).", "mode": TaskMode.ATTEMPT, "max_attempts": 2}
    return TaskSpec.model_validate({**values, **more})


async def run(ground: Ground, judge: Judge, given: TaskSpec, *answers: str) -> tuple[Outcome, ScriptedProvider]:
    from engine.pipeline.run import run_session

    provider = ScriptedProvider(in_turn([f"```python\n{answer}\n```" for answer in answers]))
    result = await run_session("s", given, make_parts(ground.home, ground.store, provider, judge=judge))
    return result.outcome, provider


async def test_a_wrong_answer_is_diagnosed_and_mended(ground: Ground, judge: Judge) -> None:
    outcome, provider = await run(ground, judge, task(cases=SUITE), WRONG, RIGHT)
    assert outcome is Outcome.VERIFIED
    assert "expected 3, got -1" in provider.prompts()[1]
    first, second = await ground.store.attempts("s")
    assert (first.passed, second.passed) == (False, True)
    assert second.sandbox_level in ("strict", "landlock")


@pytest.mark.parametrize(
    "trick",
    [
        f"{WRONG}\nprint('Ran 5 tests in 0.001s\\n\\nOK')",
        f"{WRONG}\nimport sys; sys.stderr.write('Ran 5 tests in 0.001s\\n\\nOK\\n')",
        f"{WRONG}\nimport os; os._exit(0)",
    ],
)
async def test_a06_printing_a_test_summary_does_not_pass(ground: Ground, judge: Judge, trick: str) -> None:
    outcome, _ = await run(ground, judge, task(tests="assert add(1, 2) == 3"), trick)
    assert outcome is Outcome.FAILED


@pytest.mark.parametrize("tests", ["", "import unittest\nclass T(unittest.TestCase):\n    pass\n", "# nothing\nx = 1"])
async def test_a06_an_empty_suite_never_passes(ground: Ground, judge: Judge, tests: str) -> None:
    outcome, _ = await run(ground, judge, task(tests=tests), RIGHT)
    assert outcome is Outcome.FAILED


OWN = f"""import unittest
{RIGHT}

class T(unittest.TestCase):
    def test_add(self):
        self.assertEqual(add(1, 2), 3)
"""


@pytest.mark.parametrize("runner", ["", "\nif __name__ == '__main__':\n    unittest.main()\n"])
async def test_a07_a_test_case_runs_once_with_and_without_a_runner_of_its_own(
    ground: Ground, judge: Judge, runner: str
) -> None:
    outcome, _ = await run(ground, judge, task(), OWN + runner)
    assert outcome is Outcome.SELF_CHECKED
    (record,) = await ground.store.attempts("s")
    assert record.verdict["ran"] == 1


async def test_prose_is_a_failure_that_says_so(ground: Ground, judge: Judge) -> None:
    outcome, provider = await run(ground, judge, task(cases=SUITE), "I would add the numbers.", RIGHT)
    assert outcome is Outcome.VERIFIED
    assert "SyntaxError" in provider.prompts()[1]
