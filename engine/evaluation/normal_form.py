"""Programs in a normal form, so that a renamed copy with other constants is recognised as the copy that it is. Pure."""

from __future__ import annotations

import ast
import re
from textwrap import dedent
from typing import TypeVar, cast

from engine.evaluation.straight_line import folded

_Function = TypeVar("_Function", ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)

_EMPTY: dict[type, object] = {int: 0, float: 0, complex: 0, str: "", bytes: b""}
"""What a constant is replaced by. Numbers are all alike: 2 and 2.0 do the same here. True, False and None stay."""
_DEFINITION = re.compile(r"^(?:async\s+def|def|class)\b[^\n]*\n(?:[ \t)][^\n]*\n?|\n)*", re.MULTILINE)
"""A line that begins one, and the lines after it that are indented, empty, or close its brackets."""
_UNREADABLE = (SyntaxError, ValueError, RecursionError, MemoryError)
"""What `ast` raises for text that is no program, or one nested beyond any use."""


def normal_forms(code: str) -> tuple[str, ...]:
    """The program as a whole, then each of its top-level functions alone, each as normalised source.

    Empty where the code cannot be parsed or does nothing. Names that the code binds are numbered by first appearance;
    names that it only uses, and attributes, stay; constants become one of their type; docstrings, annotations of
    arguments and results, and imports go. A function that does a step a line is written as one expression.
    """
    try:
        statements = [node for node in ast.parse(code).body if not _is_idle(node)]
        functions = [node for node in statements if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
        whole = [_normalised(statements)] if statements else []
        return (*whole, *(_normalised([node]) for node in functions if len(statements) > 1))
    except _UNREADABLE:
        return ()


def readable(text: str) -> str:
    """What of a text is Python: all of it, or else its top-level functions and classes, whatever stands around them."""
    text = dedent(text)
    if _parses(text):
        return text
    return "\n".join(filter(_parses, map(str.rstrip, _DEFINITION.findall(text))))


def _parses(text: str) -> bool:
    try:
        ast.parse(text)
    except _UNREADABLE:
        return False
    return True


def _is_idle(node: ast.stmt) -> bool:
    """Imports, and strings that stand alone."""
    alone = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    return alone or isinstance(node, ast.Import | ast.ImportFrom | ast.Pass)


def _normalised(statements: list[ast.stmt]) -> str:
    """Parses a copy: the tree is changed in place, and a function may be asked for alone and in its module."""
    tree = ast.parse(ast.unparse(ast.Module(body=statements, type_ignores=[])))
    return ast.unparse(_Normaliser(_bound(tree)).visit(tree))


def _bound(tree: ast.AST) -> frozenset[str]:
    """Names that the code makes itself."""
    names: set[str] = set()
    for node in ast.walk(tree):
        match node:
            case ast.Name(id=name, ctx=ast.Store()) | ast.arg(arg=name):
                names.add(name)
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
                names.add(name)
            case ast.ExceptHandler(name=str(name)) | ast.MatchAs(name=str(name)) | ast.MatchStar(name=str(name)):
                names.add(name)
            case _:
                pass
    return frozenset(names)


class _Normaliser(ast.NodeTransformer):
    """Renames, abstracts and drops, in the order in which the source is read."""

    def __init__(self, bound: frozenset[str]) -> None:
        self._bound = bound
        self._new: dict[str, str] = {}

    def _rename(self, name: str) -> str:
        return self._new.setdefault(name, f"v{len(self._new)}") if name in self._bound else name

    def visit_Name(self, node: ast.Name) -> ast.AST:
        node.id = self._rename(node.id)
        return node

    def visit_arg(self, node: ast.arg) -> ast.AST:
        node.arg, node.annotation = self._rename(node.arg), None
        return node

    def visit_keyword(self, node: ast.keyword) -> ast.AST:
        node.arg = self._rename(node.arg) if node.arg else None
        return self.generic_visit(node)

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        node.returns = None
        return self._definition(node)

    def visit_AsyncFunctionDef(self, node: ast.AsyncFunctionDef) -> ast.AST:
        node.returns = None
        return self._definition(node)

    def visit_ClassDef(self, node: ast.ClassDef) -> ast.AST:
        return self._definition(node)

    def _definition(self, node: _Function) -> ast.AST:
        node.name = self._rename(node.name)
        body = node.body if isinstance(node, ast.ClassDef) else folded(node)
        node.body = [inner for inner in body if not _is_idle(inner)] or [ast.Pass()]
        return self.generic_visit(node)

    def visit_ExceptHandler(self, node: ast.ExceptHandler) -> ast.AST:
        node.name = self._rename(node.name) if node.name else None
        return self.generic_visit(node)

    def visit_MatchAs(self, node: ast.MatchAs) -> ast.AST:
        node.name = self._rename(node.name) if node.name else None
        return self.generic_visit(node)

    def visit_MatchStar(self, node: ast.MatchStar) -> ast.AST:
        node.name = self._rename(node.name) if node.name else None
        return node

    def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.AST:
        if node.value is None:
            return self.generic_visit(node)
        return self.generic_visit(ast.Assign(targets=[node.target], value=node.value, lineno=0))

    def visit_Constant(self, node: ast.Constant) -> ast.AST:
        # A bool is no number here: it is looked up by its own type.
        node.value = cast("str", _EMPTY.get(type(node.value), node.value))
        node.kind = None
        return node

    def visit_UnaryOp(self, node: ast.UnaryOp) -> ast.AST:
        """A sign belongs to its number."""
        self.generic_visit(node)
        signed = isinstance(node.op, ast.USub | ast.UAdd) and isinstance(node.operand, ast.Constant)
        return node.operand if signed else node
