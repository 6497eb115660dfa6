"""A suite's task as the judge wants it."""

from __future__ import annotations

import ast

from engine.api_learning import SuiteTask
from engine.evaluation.judge import Checks
from engine.evaluation.programs import Solution


def solution_of(task: SuiteTask, code: str) -> Solution:
    """The code as an answer to the task, with the task's prelude and files."""
    return Solution(code=with_prelude(task.prelude, code), files=task.files, entry_point=task.entry_point)


def checks_of(task: SuiteTask) -> Checks:
    """What decides about an answer: the hidden tests and cases."""
    return Checks(tests=task.tests, cases=task.cases)


def with_prelude(prelude: str, code: str) -> str:
    """The prelude before the code, but behind its `from __future__ import`, which Python wants first."""
    if not prelude.strip():
        return code
    lines = code.splitlines(keepends=True)
    first = _end_of_future_imports(code)
    head = "".join(lines[:first])
    if head and not head.endswith("\n"):
        head += "\n"
    return head + prelude.rstrip() + "\n" + "".join(lines[first:])


def _end_of_future_imports(code: str) -> int:
    """Number of the last line that belongs to one; 0 where there is none, or where the code is no Python."""
    if "__future__" not in code:
        return 0
    try:
        tree = ast.parse(code)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return 0
    ends = [
        node.end_lineno or node.lineno
        for node in tree.body
        if isinstance(node, ast.ImportFrom) and node.module == "__future__"
    ]
    return max(ends, default=0)
