"""Which examples are learned from, and which are only measured: de-duplicated, capped, split by task. Pure.

    examples ── repeated? ──► beyond the cap of their task? ──► split by group of tasks ──► rows

The same code under another name, layout or comment teaches nothing new, so two answers are compared by their syntax
trees with the local names made equal. A task never stands on both sides of the split, and neither do two tasks with
the same prompt: what is measured on must be new to the model.
"""

from __future__ import annotations

import ast
import hashlib
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from engine.training.spec import DataRow, Turn

MIN_TASKS_TO_SPLIT = 5
"""With fewer, a held-out task would be a fifth or more of what there is to learn."""

_FENCE = re.compile(r"\A\s*```[a-zA-Z0-9_+-]*\n(?P<code>.*?)\n?```\s*\Z", re.DOTALL)
_SPACE = re.compile(r"\s+")


@dataclass(frozen=True)
class Example:
    """One prompt with the answer that was verified."""

    messages: tuple[Turn, ...]
    completion: str
    task: str
    """Names the task; examples of one task are held out together."""
    cut: bool = False
    """The answer goes on after this: its end is not learned."""
    keep: bool = False
    """Nothing of it is learned: the base model's thoughts about this answer are kept. Never held out, and without a say
    in what else is."""


@dataclass(frozen=True)
class Selection:
    """What is left of the examples."""

    rows: tuple[DataRow, ...]
    repeated: int
    beyond_cap: int


def select(examples: Sequence[Example], *, per_task: int, held_out: float, seed: int) -> Selection:
    """Drop repeats, keep at most `per_task` of a task, mark the held-out ones.

    Args:
        held_out: share of the tasks, of [0, 0.9]; at least one task when it is not 0 and there are
            `MIN_TASKS_TO_SPLIT`, none when there are fewer.
        seed: with the names of the tasks decides which are held out, and nothing else does.
    """
    different = list({_identity(example): example for example in reversed(examples)}.values())[::-1]
    taken: Counter[str] = Counter()
    kept: list[Example] = []
    for example in different:
        taken[example.task] += 1
        if taken[example.task] <= per_task:
            kept.append(example)
    groups = _groups(example for example in kept if not example.keep)
    apart = _held_out(set(groups.values()), held_out, seed)
    rows = tuple(
        DataRow(
            messages=example.messages,
            completion=example.completion,
            task=example.task,
            held_out=not example.keep and groups[example.task] in apart,
            cut=example.cut,
            keep=example.keep,
        )
        for example in kept
    )
    return Selection(rows, len(examples) - len(different), len(different) - len(kept))


def code_of(text: str) -> str:
    """The code of an answer that is one fenced block; else the text as it is."""
    match = _FENCE.match(text)
    return match["code"] if match else text


def normal_form(text: str) -> str:
    """Equal for answers that say the same: by syntax tree where it is Python, else by words."""
    try:
        tree = ast.parse(code_of(text))
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return words(text)
    try:
        for node in ast.walk(tree):
            _drop_docstring(node)
        for node in tree.body:
            _rename_locals(node)
        return ast.dump(tree)
    except RecursionError:  # nested deeper than Python can walk, though not than it can parse
        return words(text)


def _identity(example: Example) -> tuple[str, str, bool, bool]:
    # A beginning and a whole answer teach different things, even where they are the same text; so does what is kept.
    return words(example.messages[-1].content), normal_form(example.completion), example.cut, example.keep


def words(text: str) -> str:
    """Equal for texts that differ in their space alone."""
    return _SPACE.sub(" ", text).strip()


def _drop_docstring(node: ast.AST) -> None:
    if not isinstance(node, ast.Module | ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return
    if ast.get_docstring(node, clean=False) is not None:
        node.body = node.body[1:] or [ast.Pass()]


def _rename_locals(node: ast.stmt) -> None:
    """Give the local names of a function the names of their order. Injective, so no two programs become one."""
    if isinstance(node, ast.ClassDef):
        for inner in node.body:
            _rename_locals(inner)
    elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
        names = {name: f"local {number}" for number, name in enumerate(_bound(node))}
        for inner in ast.walk(node):
            if isinstance(inner, ast.Name) and inner.id in names:
                inner.id = names[inner.id]
            elif isinstance(inner, ast.arg) and inner.arg in names:
                inner.arg = names[inner.arg]


def _bound(function: ast.FunctionDef | ast.AsyncFunctionDef) -> list[str]:
    """Arguments and assigned names in order of appearance, without those of an outer scope."""
    bound: dict[str, None] = {}
    outer: set[str] = set()
    for node in ast.walk(function):
        match node:
            case ast.arg():
                bound[node.arg] = None
            case ast.Name(ctx=ast.Store()):
                bound[node.id] = None
            case ast.Global() | ast.Nonlocal():
                outer.update(node.names)
            case _:
                continue
    return [name for name in bound if name not in outer]


def _groups(examples: Iterable[Example]) -> dict[str, str]:
    """Task -> the name of its group: tasks that share a prompt are one."""
    parent: dict[str, str] = {}

    def root(task: str) -> str:
        while parent.setdefault(task, task) != task:
            task = parent[task]
        return task

    by_prompt: dict[str, str] = {}
    for example in examples:
        prompt = words(example.messages[-1].content)
        one, other = sorted((root(example.task), root(by_prompt.setdefault(prompt, example.task))))
        parent[other] = one
    return {task: root(task) for task in list(parent)}


def _held_out(groups: set[str], share: float, seed: int) -> set[str]:
    if share == 0 or len(groups) < MIN_TASKS_TO_SPLIT:
        return set()
    count = max(1, round(share * len(groups)))
    return set(sorted(groups, key=lambda group: _draw(seed, group))[:count])


def _draw(seed: int, group: str) -> bytes:
    return hashlib.sha256(f"{seed}/{group}".encode("utf-8", "replace")).digest()
