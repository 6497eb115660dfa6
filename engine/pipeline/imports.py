"""Completes the imports of generated code: the commonest slip of a small model, and one that needs no model to mend.

A task's own text often shows the imports that its function stands under; an answer that gives only the function means
them too. Beyond these only the standard library's modules and `typing`'s names are supplied, and only for a name that
the code uses and nothing binds: code that runs as it is stays as it is.
"""

from __future__ import annotations

import ast
import builtins
import re
import sys
import typing
from collections.abc import Iterator, Mapping

from engine.pipeline.syntax import parse_python

IMPORT_LINE = re.compile(r"^(?:from [A-Za-z_][\w.]* import [\w, ]+(?: as \w+)?|import [A-Za-z_][\w., ]*(?: as \w+)?)$")


def complete_imports(code: str, task_text: str) -> str:
    """`code` with the imports it lacks in front; as it is when it lacks none or does not parse."""
    tree = parse_python(code)
    if tree is None:
        return code
    unbound = _used(tree) - _bound(tree) - set(dir(builtins))
    offered = _offered(task_text)
    lines = dict.fromkeys(line for name in sorted(unbound) if (line := offered.get(name) or _standard(name, tree)))
    if not lines:
        return code
    return _insert(code, tree, "\n".join(lines))


def _insert(code: str, tree: ast.Module, imports: str) -> str:
    """`from __future__` lines must stay first."""
    futures = [node for node in tree.body if isinstance(node, ast.ImportFrom) and node.module == "__future__"]
    if not futures:
        return f"{imports}\n\n{code}"
    lines = code.splitlines()
    end = futures[-1].end_lineno or futures[-1].lineno
    return "\n".join([*lines[:end], imports, *lines[end:]])


def _used(tree: ast.Module) -> set[str]:
    return {node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)}


def _bound(tree: ast.Module) -> set[str]:
    """Every name that anything in the code binds, in whatever scope: rather supply one import too few."""
    return {name for node in ast.walk(tree) for name in _bindings(node)}


def _bindings(node: ast.AST) -> Iterator[str]:
    match node:
        case ast.Name(id=name, ctx=ast.Store()):
            yield name
        case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
            yield name
        case ast.arg(arg=name):
            yield name
        case ast.alias(name=name, asname=asname):
            yield (asname or name).partition(".")[0]
        case ast.ExceptHandler(name=str(name)) | ast.MatchAs(name=str(name)) | ast.MatchStar(name=str(name)):
            yield name
        case ast.Global(names=names) | ast.Nonlocal(names=names):
            yield from names
        case _:
            return


def _offered(task_text: str) -> Mapping[str, str]:
    """Name -> import line, of the import lines in the task's text."""
    offered: dict[str, str] = {}
    for line in map(str.strip, task_text.splitlines()):
        if IMPORT_LINE.match(line) is None:
            continue
        tree = parse_python(line)
        if tree is not None:  # else prose that begins like an import
            offered.update((name, line) for name in _bound(tree))
    return offered


def _standard(name: str, tree: ast.Module) -> str:
    if name in typing.__all__:
        return f"from typing import {name}"
    if name in sys.stdlib_module_names and _used_as_module(name, tree):
        return f"import {name}"
    return ""


def _used_as_module(name: str, tree: ast.Module) -> bool:
    """Whether every use is `name.attribute`: `copy(x)` means something else than the module."""
    attributes = [
        node.value for node in ast.walk(tree) if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name)
    ]
    as_module = sum(value.id == name for value in attributes)
    uses = sum(isinstance(node, ast.Name) and node.id == name for node in ast.walk(tree))
    return as_module == uses
