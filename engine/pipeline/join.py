"""One program from the subtasks' codes without a model: imports first, then every definition once. Pure.

It is tried before the model is asked to integrate. Functions that do not know of each other need no model to stand in
one file, and the smallest models lose some of them when they copy.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Sequence

from engine.api_models import TaskSpec
from engine.pipeline.syntax import parse_python

_CALL = re.compile(r"`(?P<name>[A-Za-z_]\w*)\(")
_IMPORTS = (ast.Import, ast.ImportFrom)
_NAMED = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
_ASSIGNED = (ast.Assign, ast.AnnAssign)


def required_names(task: TaskSpec) -> tuple[str, ...]:
    """What the finished program must define, as far as the task says: the names its visible tests import from
    `solution`, the function of its cases, its entry point; else those that its text gives as `name(...)`.
    """
    named = [task.cases.function] if task.cases is not None else []
    named += [task.entry_point] if task.entry_point else []
    tree = parse_python(task.tests or "")
    for node in ast.walk(tree) if tree is not None else ():
        if isinstance(node, ast.ImportFrom) and node.module == "solution":
            named += [alias.name for alias in node.names if alias.name != "*"]
    return tuple(dict.fromkeys(named or _CALL.findall(task.prompt)))


def join_parts(codes: Iterable[str], required: Sequence[str]) -> str | None:
    """The parts as one program without their tests; None if a part is not Python or a required name is missing."""
    imports: dict[str, None] = {}
    body: dict[str, str] = {}
    for code in codes:
        tree = parse_python(code)
        if tree is None:
            return None
        for node in tree.body:
            if isinstance(node, _IMPORTS):
                imports[ast.unparse(node)] = None
            elif (name := _name(node)) is not None and not _is_test(node):
                body.setdefault(name, _source(node, code))
    if not required or not set(required) <= set(body):
        return None
    return "\n\n".join(filter(None, ["\n".join(imports), *body.values()])) + "\n"


def _name(node: ast.stmt) -> str | None:
    if isinstance(node, _NAMED):
        return node.name
    if isinstance(node, _ASSIGNED):
        target = node.targets[0] if isinstance(node, ast.Assign) else node.target
        return ast.unparse(target)
    return None


def _source(node: ast.stmt, code: str) -> str:
    """The statement as it was written, decorators and comments included."""
    first = min([node.lineno, *(item.lineno for item in getattr(node, "decorator_list", []))])
    return "\n".join(code.splitlines()[first - 1 : node.end_lineno])


def _is_test(node: ast.stmt) -> bool:
    match node:
        case ast.ClassDef(bases=bases):
            return any("TestCase" in ast.unparse(base) for base in bases)
        case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name):
            return name.startswith("test_")
        case _:
            return False
