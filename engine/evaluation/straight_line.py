"""Straight-line functions as one expression: a step a line and one call inside the other are the same program. Pure.

def f(x):                      def f(x):
    x = turn(6, x)      ──►        return order(turn(6, x))
    return order(x)
"""

from __future__ import annotations

import ast
from collections.abc import Sequence


def folded(function: ast.FunctionDef | ast.AsyncFunctionDef) -> list[ast.stmt]:
    """The function's body; one `return` where it is nothing but steps, each of whose results is used once.

    A result that is used twice, or not at all, stays a statement: to write its call out twice, or never, would be
    another program.
    """
    body = [node for node in function.body if not _is_docstring(node)]
    match body:
        case [*steps, ast.Return(value=ast.expr() as result)] if steps:
            return _folded(steps, result) or function.body
        case _:
            return function.body


def one_expression(code: str) -> str:
    """The code with its straight-line functions folded; as it is where it cannot be parsed."""
    try:
        tree = ast.parse(code)
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                node.body = folded(node)
        return ast.unparse(tree)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return code


def _folded(steps: Sequence[ast.stmt], result: ast.expr) -> list[ast.stmt] | None:
    for step in reversed(steps):
        match step:
            case ast.Assign(targets=[ast.Name(id=name)], value=value):
                pass
            case ast.AnnAssign(target=ast.Name(id=name), value=ast.expr() as value):
                pass
            case _:
                return None
        if _uses(result, name) != 1:
            return None
        result = _Put(name, value).visit(result)
    return [ast.Return(value=result)]


def _uses(expression: ast.expr, name: str) -> int:
    """How often it stands there; what has a scope of its own may run it often, or later, and counts as twice."""
    scopes = (ast.Lambda, ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp, ast.NamedExpr)
    nodes = list(ast.walk(expression))
    found = sum(isinstance(node, ast.Name) and node.id == name for node in nodes)
    return 2 if any(isinstance(node, scopes) for node in nodes) else found


def _is_docstring(node: ast.stmt) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)


class _Put(ast.NodeTransformer):
    """Puts an expression where a name stands."""

    def __init__(self, name: str, value: ast.expr) -> None:
        self._name = name
        self._value = value

    def visit_Name(self, node: ast.Name) -> ast.AST:
        return self._value if node.id == self._name else node
