"""The parts as one program without a model, and what a task says that the program must define."""

from __future__ import annotations

import pytest
from support.pipeline_fakes import Ground, Reply, ScriptedProvider, make_parts

from engine.api_models import Case, CaseSuite, TaskMode, TaskSpec
from engine.inference.provider import Request
from engine.pipeline.join import join_parts, required_names
from engine.pipeline.run import run_session

FIRST = """import math
def one(): return math.pi
import unittest
class TestOne(unittest.TestCase):
    def test_it(self): assert one() > 3
if __name__ == "__main__":
    unittest.main()
"""
SECOND = """import math
LIMIT = 3
def two(): return LIMIT
def test_two(): assert two() == 3
def one(): return "a copy that this part made for itself"
"""


def test_definitions_come_once_imports_first_and_tests_not_at_all() -> None:
    joined = join_parts([FIRST, SECOND], ["one", "two"])
    assert joined is not None
    assert joined.startswith("import math\nimport unittest\n")
    names: dict[str, object] = {}
    exec(joined, names)
    assert names["one"]() > 3, "the part that is named first owns its definition"  # type: ignore[operator]
    assert names["two"]() == 3  # type: ignore[operator]
    assert "Test" not in joined
    assert "test_two" not in joined
    assert "__main__" not in joined


@pytest.mark.parametrize(
    ("codes", "required"),
    [([FIRST], ["one", "two"]), ([FIRST, "def two(:"], ["one"]), ([FIRST, SECOND], [])],
    ids=["a name is missing", "not Python", "nothing to tell it by"],
)
def test_what_cannot_be_known_to_be_whole_is_left_to_the_model(codes: list[str], required: list[str]) -> None:
    assert join_parts(codes, required) is None


def test_required_names_come_from_what_the_model_may_see() -> None:
    def task(prompt: str = "p", **more: object) -> TaskSpec:
        return TaskSpec.model_validate({"id": "t", "prompt": prompt, **more})

    tests = "from solution import a, b\nfrom os import c\n"
    assert required_names(task(tests=tests)) == ("a", "b")
    assert required_names(task(cases=CaseSuite(function="f", items=(Case(expected=1),)))) == ("f",)
    assert required_names(task("Write `g(x)` and `h()`, not `i`.")) == ("g", "h")
    assert required_names(task(hidden_tests=tests)) == (), "hidden tests stay hidden"


async def test_without_a_list_each_name_becomes_a_subtask_and_the_parts_are_joined(ground: Ground) -> None:
    def answer(request: Request, number: int) -> Reply:
        del number
        system, prompt = (message.content for message in request.messages)
        if "one Python code block" not in system:
            return Reply("I cannot.")
        name = "first" if "Part: first" in system + prompt else "second"
        return Reply(f"```python\ndef {name}():\n    # pass\n    return 1\n```")

    provider = ScriptedProvider(answer)
    tests = "from solution import first, second\nassert first() == second()\n"
    spec = TaskSpec(id="t", prompt="Two functions.", tests=tests, mode=TaskMode.PROJECT)
    result = await run_session("s", spec, make_parts(ground.home, ground.store, provider))
    assert "def first" in result.code
    assert "def second" in result.code
    assert not any("puts parts together" in request.messages[0].content for request in provider.requests)
