"""Imports that an answer lacks are supplied; code that runs as it is stays as it is."""

from __future__ import annotations

import ast

import pytest

from engine.pipeline.imports import complete_imports

TASK = """Complete this function.

from typing import List
import numpy.linalg as la
from mine import helper as h

import what you need before you start.
def total(numbers: List[int]) -> int:
"""


def runs(code: str) -> dict[str, object]:
    names: dict[str, object] = {}
    exec(compile(code, "answer", "exec", dont_inherit=True), names)  # text of this test, not of a model
    return names


def test_the_imports_of_the_tasks_own_text_come_along() -> None:
    code = "def total(numbers: List[int]) -> int:\n    return sum(numbers)\n"
    with pytest.raises(NameError):
        runs(code)
    completed = complete_imports(code, TASK)
    assert completed == f"from typing import List\n\n{code}"
    assert runs(completed)["total"]


def test_aliases_of_the_task_are_understood() -> None:
    assert complete_imports("x = la.norm([h(1)])", TASK) == (
        "from mine import helper as h\nimport numpy.linalg as la\n\nx = la.norm([h(1)])"
    )


def test_standard_modules_and_typing_names_are_known_without_the_task() -> None:
    code = "def area(r: Optional[float]) -> float:\n    return math.pi * r * r\n"
    assert complete_imports(code, "") == f"from typing import Optional\nimport math\n\n{code}"


@pytest.mark.parametrize(
    "code",
    [
        "from typing import List\ndef f(x: List[int]): return x",
        "import math\nprint(math.pi)",
        "def f(math): return math.pi",
        "for math in (1j,):\n    print(math.real)",
        "copy = 1\ncopy.real",
        "print(copy(1))",  # a function of the solution's own idea, not the module
        "try:\n    pass\nexcept OSError as errno:\n    errno.args",
        "match 1:\n    case signal:\n        signal.real",
        "def f():\n    global token\n    token.x",
        "unknown.thing()",
        "def broken(:\n",
        pytest.param("-" * 6500, id="deeper than the parser goes"),
        "",
    ],
)
def test_what_is_bound_unknown_or_broken_stays_as_it_is(code: str) -> None:
    assert complete_imports(code, TASK) == code


def test_future_imports_stay_first() -> None:
    code = '"""Docs."""\nfrom __future__ import annotations\nx = math.pi'
    completed = complete_imports(code, "")
    assert completed == '"""Docs."""\nfrom __future__ import annotations\nimport math\nx = math.pi'
    assert ast.parse(completed)
    assert runs(completed)["x"]


def test_completing_twice_changes_nothing_more() -> None:
    once = complete_imports("print(math.pi, json.dumps(List))", TASK)
    assert complete_imports(once, TASK) == once
