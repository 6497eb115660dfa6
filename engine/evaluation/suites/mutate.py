"""Changed references: what a suite's checks must notice. Pure.

One place of the program is changed at a time, where a slip would be: a call is left out, a comparison or an operator
is another one, a constant is one more, a condition is turned round. Mutants that differ in kind come first.
"""

from __future__ import annotations

import ast
import copy
import itertools
from collections.abc import Iterator

_COMPARISONS: dict[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Lt: ast.GtE,
    ast.LtE: ast.Gt,
    ast.Gt: ast.LtE,
    ast.GtE: ast.Lt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
}
_OPERATORS: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Add,
    ast.Div: ast.Mult,
    ast.FloorDiv: ast.Mult,
    ast.Mod: ast.Mult,
    ast.Pow: ast.Mult,
}


def mutants(source: str) -> Iterator[str]:
    """Programs that differ from this one in one place, one of each kind in turn. None where it is no Python."""
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return
    quoted = _docstrings(tree)
    kinds: dict[str, list[int]] = {}
    for place, node in enumerate(ast.walk(tree)):
        if id(node) not in quoted and (kind := _kind(node)):
            kinds.setdefault(kind, []).append(place)
    # A function that returns nothing fails any check: it is tried when there is nothing else.
    last = [kinds.pop("return")] if "return" in kinds else []
    places = [place for row in itertools.zip_longest(*kinds.values()) for place in row if place is not None]
    for place in itertools.chain(places, *last):
        yield _mutant(tree, place)


def _kind(node: ast.AST) -> str:
    """What could be changed about it; empty for nothing."""
    match node:
        case ast.Call(args=[*_, last]) if not isinstance(last, ast.Starred):
            return "call"
        case ast.Compare(ops=[op, *_]) if type(op) in _COMPARISONS:
            return "comparison"
        case ast.BinOp(op=op) if type(op) in _OPERATORS:
            return "operator"
        case ast.BoolOp():
            return "boolean"
        case ast.Constant(value=bool() | int() | float()):
            return "number"
        case ast.Constant(value=str()):
            return "text"
        case ast.If() | ast.IfExp():
            return "condition"
        case ast.Return(value=ast.expr() as value) if ast.unparse(value) != "None":
            return "return"
        case _:
            return ""


def _mutant(tree: ast.Module, place: int) -> str:
    copied = copy.deepcopy(tree)
    target = next(itertools.islice(ast.walk(copied), place, None))
    return ast.unparse(ast.fix_missing_locations(_Change(target).visit(copied)))


class _Change(ast.NodeTransformer):
    """Changes the one node."""

    def __init__(self, target: ast.AST) -> None:
        self._target = target

    def visit(self, node: ast.AST) -> ast.AST:
        return _changed(node) if node is self._target else self.generic_visit(node)


def _changed(node: ast.AST) -> ast.AST:
    """The node with its slip. Its parts stay what they are."""
    match node:
        case ast.Call():
            return node.args[-1]
        case ast.Compare():
            node.ops[0] = _COMPARISONS[type(node.ops[0])]()
        case ast.BinOp():
            node.op = _OPERATORS[type(node.op)]()
        case ast.BoolOp():
            node.op = ast.Or() if isinstance(node.op, ast.And) else ast.And()
        case ast.Constant(value=bool(value)):
            node.value = not value
        case ast.Constant(value=int(value) | float(value)):
            node.value = value + 1
        case ast.Constant(value=str(value)):
            node.value = f"{value}x"
        case ast.If() | ast.IfExp():
            node.test = ast.UnaryOp(ast.Not(), node.test)
        case ast.Return():
            node.value = ast.Constant(None)
        case _:
            raise AssertionError(f"nothing to change about {ast.dump(node)}")
    return node


def _docstrings(tree: ast.Module) -> set[int]:
    """Identities of constants that stand as statements: changing one changes nothing."""
    return {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
