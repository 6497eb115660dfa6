"""The starting project of a task and its examples, as text for prompts."""

from __future__ import annotations

import ast
from collections.abc import Mapping

from engine.api_models import Case, CaseSuite, TaskSpec
from engine.pipeline.syntax import parse_python

MAX_EXAMPLES = 5
"""Cases that a prompt shows: more do not fit its budget anyway."""


def importable_files(task: TaskSpec) -> dict[str, str]:
    """Everything that the solution may import: the library under the project."""
    return {**task.library, **task.files}


def shown_files(task: TaskSpec) -> dict[str, str]:
    """The starting project as a model sees it: without the modules that the prelude imports.

    Those stand for something installed. Who knows a library knows it without reading its source before each answer;
    who is to be given its source puts it into the prompt.
    """
    tree = parse_python(task.prelude)
    installed = {name.split(".")[0] for node in (tree.body if tree is not None else ()) for name in _imported(node)}
    return {path: text for path, text in task.files.items() if path.split("/")[0].removesuffix(".py") not in installed}


def _imported(node: ast.stmt) -> list[str]:
    match node:
        case ast.ImportFrom(module=str(module), level=0):
            return [module]
        case ast.Import(names=names):
            return [alias.name for alias in names]
        case _:
            return []


def files_text(files: Mapping[str, str], chars: int) -> str:
    """Path and text of each file, smallest first so that as many as possible are whole; at most `chars` characters."""
    shown = ""
    for path, text in sorted(files.items(), key=lambda item: (len(item[1]), item[0])):
        shown += f"# {path}\n{text.rstrip()}\n"
        if len(shown) > chars:
            break
    return shown[:chars].rstrip()


def target_text(task: TaskSpec, *, with_tests: bool = True) -> str:
    """What the solution must define, and how it is tested, from what the model may see; hidden tests never are."""
    lines: list[str] = []
    name = task.cases.function if task.cases is not None else task.entry_point
    if name and _tight(f"def {name}(") not in _tight(task.prompt):
        lines.append(f"The program must define the function {name}.")
    if task.cases is not None:
        lines += [example(task.cases, case) for case in task.cases.items[:MAX_EXAMPLES]]
    tests = shown_tests(task) if with_tests else ""
    if tests:
        lines += ["It is tested with:", tests]
    return "\n".join(lines)


def shown_tests(task: TaskSpec) -> str:
    """The assertions of the visible tests without what surrounds them; the whole source where there are none.

    A small model that sees a test function calls it, or writes it again; a line that must hold it tends to satisfy.
    What the task's own text shows already is not shown twice: the embedded model then rambles instead of answering.
    """
    source = task.tests or ""
    tree = parse_python(source)
    if tree is None:
        return source.strip()
    found = [node for node in ast.walk(tree) if isinstance(node, ast.Assert) or _is_unittest_assertion(node)]
    if not found:
        return source.strip()
    shown = _tight(task.prompt)
    new = [node for node in found if not _is_shown(node, source, shown)]
    lines = [ast.unparse(node) for node in sorted(new, key=lambda node: getattr(node, "lineno", 0))]
    return "\n".join(dict.fromkeys(lines))


def _is_shown(assertion: ast.AST, source: str, shown: str) -> bool:
    """Whether every call of a function by its name in the assertion stands in `shown`, with these arguments."""
    calls = [node for node in ast.walk(assertion) if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)]
    return bool(calls) and all(_tight(ast.get_source_segment(source, call) or "") in shown for call in calls)


def _tight(text: str) -> str:
    return "".join(text.split())


def _is_unittest_assertion(node: ast.AST) -> bool:
    match node:
        case ast.Expr(value=ast.Call(func=ast.Attribute(value=ast.Name(id="self"), attr=name))):
            return name.startswith("assert")
        case _:
            return False


def example(suite: CaseSuite, case: Case) -> str:
    """One case as a line of Python: `add(1, 2) == 3`."""
    arguments = [_literal(value) for value in case.args]
    arguments += [f"{name}={_literal(value)}" for name, value in case.kwargs.items()]
    return f"{suite.function}({', '.join(arguments)}) == {_literal(case.expected)}"


def entry_point(task: TaskSpec) -> str | None:
    """The function that the task asks for, if it names one."""
    return task.entry_point or (task.cases.function if task.cases is not None else None)


def _literal(value: object) -> str:
    return repr(value)
