"""A suite's task is asked in the very words of the pipeline's first attempt, and nothing hidden is in them."""

from __future__ import annotations

import pytest
from support.pipeline_fakes import ScriptedProvider, in_turn, make_parts, memory_directory, open_ground

from engine.api_learning import Split, SuiteTask
from engine.api_models import Case, CaseSuite, TaskMode
from engine.inference.provider import Completion, FinishReason
from engine.pipeline.prompting import PipelinePrompting, as_task, hidden_tests
from engine.pipeline.prompts import load_prompts
from engine.pipeline.run import run_session

CASES = CaseSuite(function="solve", items=(Case(args=([3, 1],), expected=[1, 3]), Case(args=([],), expected=[])))
TASK = SuiteTask(
    id="sort",
    prompt="kit: order the list.",
    split=Split.GATE,
    template="t",
    entry_point="solve",
    cases=CASES,
    visible_tests="assert solve([2, 1]) == [1, 2]",
    reference="def solve(xs):\n    return SECRET(xs)",
    prelude="from kit import *\n",
    files={"kit.py": "def order(xs):\n    return sorted(xs)\n"},
)


@pytest.fixture
def prompting() -> PipelinePrompting:
    return PipelinePrompting(load_prompts())


def completion(text: str, finish: FinishReason = "stop") -> Completion:
    return Completion(text, "m", None, 1, 1, finish)


async def test_it_is_what_a_session_asks_first(prompting: PipelinePrompting) -> None:
    with memory_directory() as home:
        async with open_ground(home) as ground:
            model = ScriptedProvider(in_turn(["```python\n# pass # honest\n```"]))
            parts = make_parts(ground.home, ground.store, model)
            await run_session("s", as_task(TASK, attempts=1, seed=1), parts)
    assert model.requests[0].messages == prompting.render(TASK)


def test_of_a_library_that_is_not_shown_nothing_but_the_task_is_asked(prompting: PipelinePrompting) -> None:
    system, user = prompting.render(TASK)
    assert (system.role, user.role, user.content) == ("system", "user", TASK.prompt)
    assert len(system.content) < 40


def test_an_open_book_shows_the_library_and_the_visible_tests(prompting: PipelinePrompting) -> None:
    open_book = prompting.render(TASK, open_book=True)[1].content
    assert "def order(xs)" in open_book and "assert solve([2, 1]) == [1, 2]" in open_book


@pytest.mark.parametrize("open_book", [False, True])
def test_what_is_hidden_stays_hidden(prompting: PipelinePrompting, open_book: bool) -> None:
    said = "".join(message.content for message in prompting.render(TASK, open_book=open_book))
    for hidden in ("[3, 1]", "SECRET", "[1, 3]"):
        assert hidden not in said


def test_what_overflowed_is_asked_shorter(prompting: PipelinePrompting) -> None:
    long = TASK.model_copy(update={"prompt": "word " * 2000})
    whole, less = prompting.render(long)[1].content, prompting.render(long, shrink=True)[1].content
    assert 0.4 < len(less) / len(whole) < 0.6


def test_the_program_stands_under_its_prelude(prompting: PipelinePrompting) -> None:
    answer = "Sure:\n```python\ndef solve(xs):\n    return order(xs)\n```"
    assert prompting.extract(TASK, completion(answer)) == ("from kit import *\ndef solve(xs):\n    return order(xs)")
    assert prompting.extract(TASK, completion("```python\n\n```")) == ""
    needs = prompting.extract(TASK, completion("```python\ndef solve(xs):\n    return math.pi\n```"))
    assert "import math" in needs


def test_as_a_session_it_is_decided_by_what_is_hidden(prompting: PipelinePrompting) -> None:
    task = as_task(TASK, attempts=3, seed=9)
    assert (task.mode, task.max_attempts, task.seed, task.prelude) == (TaskMode.ATTEMPT, 3, 9, TASK.prelude)
    assert task.cases is None and task.tests == TASK.visible_tests
    assert task.hidden_tests == "assert solve([3, 1]) == [1, 3]\nassert solve([]) == []"
    both = TASK.model_copy(update={"tests": "def test(): pass"})
    assert hidden_tests(both).startswith("def test(): pass\nassert solve([3, 1])")
