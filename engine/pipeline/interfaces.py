"""What other code may use of a piece of code: its interface by syntax tree, and its skeleton.

Both drop bodies. The interface is for those who call (signatures, attributes, first docstring lines); the skeleton is
for whoever assembles the program, so it keeps what a body gives back: return and raise lines, attribute assignments.
Code that does not parse is read line by line instead.
"""

from __future__ import annotations

import ast
import copy
from collections.abc import Callable, Iterator

from engine.pipeline.syntax import parse_python

INTERFACE_LINES = 60
"""A dependent's prompt has room for no more."""
SKELETON_LINES = 80
"""Of each subtask in the integrate prompt."""

_Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef
_DEFINITIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
_MEMBERS = (ast.Assign, ast.AnnAssign, *_DEFINITIONS)
_BLOCKS = (ast.stmt, ast.ExceptHandler, ast.match_case)
_STEP = "    "
_LINE_STARTS = ("import ", "from ", "class ", "def ", "async def ", "@")


def extract_interface(code: str) -> str:
    """Imports, signatures with decorators, docstring openers, class attributes and type aliases; at most 60 lines."""
    return "\n".join(_lines(code, _interface)[:INTERFACE_LINES])


def extract_skeleton(code: str) -> str:
    """Imports, signatures, docstring openers, decorators, return and raise lines, `self.x = ...`; at most 80 lines."""
    return "\n".join(_lines(code, _skeleton)[:SKELETON_LINES])


def _lines(code: str, outline: Callable[[ast.stmt, str], Iterator[str]]) -> list[str]:
    tree = parse_python(code)
    if tree is None:
        return _fallback(code)
    try:
        return [line for node in tree.body for line in outline(node, "")]
    except RecursionError:  # an expression nested deeper than `ast.unparse` goes
        return _fallback(code)


def _fallback(code: str) -> list[str]:
    """Lines that look like an import or a definition, as they stand."""
    return [line.rstrip() for line in code.splitlines() if line.strip().startswith(_LINE_STARTS)]


def _interface(node: ast.stmt, indent: str) -> Iterator[str]:
    match node:
        case ast.Import() | ast.ImportFrom() | ast.AnnAssign():
            yield indent + ast.unparse(node)
        case ast.FunctionDef() | ast.AsyncFunctionDef():
            yield from _definition(node, indent, [])
        case ast.ClassDef():
            members = [child for child in node.body if isinstance(child, _MEMBERS)]
            yield from _definition(
                node, indent, [line for child in members for line in _interface(child, indent + _STEP)]
            )
        case ast.Assign() if indent or _is_type_alias(node):
            yield indent + ast.unparse(node)
        case _ if type(node).__name__ == "TypeAlias":  # the `type X = ...` statement of Python 3.12
            yield indent + ast.unparse(node)
        case _:
            pass


def _skeleton(node: ast.stmt, indent: str) -> Iterator[str]:
    match node:
        case ast.Import() | ast.ImportFrom() | ast.AnnAssign():
            yield indent + ast.unparse(node)
        case ast.ClassDef():
            yield from _definition(
                node, indent, [line for child in node.body for line in _skeleton(child, indent + _STEP)]
            )
        case ast.FunctionDef() | ast.AsyncFunctionDef():
            yield from _definition(node, indent, [indent + _STEP + line for line in _body_lines(node)])
        case _:
            pass


def _definition(node: _Definition, indent: str, inside: list[str]) -> Iterator[str]:
    """Decorators, the complete signature, the docstring's first line, then `inside`; `...` where that is nothing."""
    for decorator in node.decorator_list:
        yield f"{indent}@{ast.unparse(decorator)}"
    yield indent + _signature(node)
    docstring = (ast.get_docstring(node) or "").strip()
    if docstring:
        opener = docstring.splitlines()[0].strip().replace('"', "'")
        yield f'{indent}{_STEP}"""{opener}"""'
    yield from inside
    if not docstring and not inside:
        yield f"{indent}{_STEP}..."


def _signature(node: _Definition) -> str:
    """The header on one line, whatever number of lines the source spreads it over."""
    bare = copy.copy(node)
    bare.body = [ast.Pass()]
    bare.decorator_list = []
    return ast.unparse(bare).rsplit("\n", 1)[0]


def _body_lines(function: ast.FunctionDef | ast.AsyncFunctionDef) -> Iterator[str]:
    """What the body gives back or leaves behind, in order; nested functions keep theirs to themselves."""
    waiting: list[ast.AST] = list(reversed(function.body))
    while waiting:
        node = waiting.pop()
        if isinstance(node, _DEFINITIONS):
            continue
        if isinstance(node, ast.Return | ast.Raise) or _assigns_attribute(node):
            yield ast.unparse(node)
            continue
        waiting.extend(reversed([child for child in ast.iter_child_nodes(node) if isinstance(child, _BLOCKS)]))


def _assigns_attribute(node: ast.AST) -> bool:
    match node:
        case ast.Assign(targets=targets):
            return any(isinstance(target, ast.Attribute) for target in targets)
        case ast.AnnAssign(target=ast.Attribute()):
            return True
        case _:
            return False


def _is_type_alias(node: ast.Assign) -> bool:
    """`Name = <type expression>`: a capitalised name bound to names, subscripts and unions only."""
    match node.targets:
        case [ast.Name(id=name)] if name[:1].isupper() and not name.isupper():
            allowed = (ast.Name, ast.Subscript, ast.BinOp, ast.BitOr, ast.Attribute, ast.Tuple, ast.List)
            inside = (*allowed, ast.Constant, ast.Load)
            return isinstance(node.value, allowed) and all(isinstance(part, inside) for part in ast.walk(node.value))
        case _:
            return False
