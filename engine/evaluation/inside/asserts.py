"""Makes the `assert` statements of a test source count themselves and say what they compared.

Every executed `assert` is one site; an `assert` on a constant proves nothing and is not counted. At the top level of
the module a failing one is recorded and the rest still runs; anywhere else it raises as usual.
"""

from __future__ import annotations

import ast
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

RECORDER = "@rune"
"""Global name of the recorder; no source can spell it."""

MAX_REPR = 400
"""Characters of a compared value in a report."""


@dataclass(frozen=True)
class Site:
    """One `assert` of the source."""

    line: int
    text: str
    expected_left: bool
    in_test: bool
    """Inside a function that a runner collects as a test: counted there, not as a site."""
    top_level: bool


class CheckFailed(AssertionError):
    """A failed `assert`, with both sides of a comparison."""

    expected: str | None = None
    got: str | None = None


def short(value: object) -> str:
    """Its repr, cut."""
    try:
        text = repr(value)
    except Exception as error:  # the value's own __repr__ may fail
        text = f"<repr failed: {type(error).__name__}>"
    return text if len(text) <= MAX_REPR else f"{text[:MAX_REPR]}..."


@dataclass
class Recorder:
    """What the instrumented source calls."""

    sites: list[Site]
    on_error: Callable[[str, BaseException], None]
    hits: set[int] = field(default_factory=set[int])
    failed: set[int] = field(default_factory=set[int])
    """Top-level asserts whose failure has been reported."""
    raised: dict[int, CheckFailed] = field(default_factory=dict[int, CheckFailed])
    """The last failure of each other assert that raised."""

    def hit(self, number: int) -> None:
        """The assert is about to be evaluated."""
        self.hits.add(number)

    def failure(self, number: int, sides: tuple[Any, ...], *message: Any) -> CheckFailed:
        """The exception of a failed assert."""
        site = self.sites[number]
        text = str(message[0]) if message else site.text
        error = CheckFailed(text if not sides else f"{text}: {short(sides[0])} against {short(sides[1])}")
        if sides and "==" in site.text:
            got, expected = reversed(sides) if site.expected_left else sides
            error.expected, error.got = short(expected), short(got)
        self.raised[number] = error
        return error

    def caught(self, number: int, error: BaseException) -> None:
        """A top-level assert failed or could not be evaluated."""
        if number not in self.failed:
            self.failed.add(number)
            self.on_error(f"line {self.sites[number].line}", error)


def is_literal(node: ast.expr) -> bool:
    """Is it a value written down, rather than computed?"""
    try:
        ast.literal_eval(node)
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        return False
    return True


def instrument(tree: ast.Module, sites: list[Site], counted: Callable[[str], bool]) -> ast.Module:
    """Rewrite every assert of the module; appends to `sites`. `counted` says of a function's name whether its
    asserts count (those of a solution's own functions are not tests)."""
    changed = _Instrument(sites, counted).visit(tree)
    return ast.fix_missing_locations(changed)


class _Instrument(ast.NodeTransformer):
    def __init__(self, sites: list[Site], counted: Callable[[str], bool]) -> None:
        self._sites = sites
        self._counted = counted
        self._functions: list[str] = []
        self._shielded = 0

    def _enter_function(self, node: Any) -> Any:
        self._functions.append(node.name)
        self._shielded += 1
        self.generic_visit(node)
        self._shielded -= 1
        self._functions.pop()
        return node

    def _shield(self, node: Any) -> Any:
        self._shielded += 1
        self.generic_visit(node)
        self._shielded -= 1
        return node

    visit_FunctionDef = visit_AsyncFunctionDef = visit_ClassDef = _enter_function
    visit_Try = visit_TryStar = visit_With = visit_AsyncWith = _shield

    def visit_Assert(self, node: ast.Assert) -> Any:
        if not all(self._counted(name) for name in self._functions) or is_literal(node.test):
            return node
        number = len(self._sites)
        test = node.test
        single = isinstance(test, ast.Compare) and len(test.ops) == 1
        expected_left = isinstance(test, ast.Compare) and is_literal(test.left) and not is_literal(test.comparators[0])
        self._sites.append(
            Site(
                line=node.lineno,
                text=ast.unparse(test)[:MAX_REPR],
                expected_left=expected_left,
                in_test=any(name.startswith(("test", "Test")) for name in self._functions),
                top_level=not self._shielded,
            )
        )
        body = [_call_statement("hit", number), *(_compare(node, number) if single else _truth(node, number))]
        if self._shielded:
            return [ast.copy_location(statement, node) for statement in body]
        return ast.copy_location(_guarded(body, number), node)


def _recorder_call(method: str, *args: ast.expr) -> ast.Call:
    recorder = ast.Attribute(ast.Name(RECORDER, ast.Load()), method, ast.Load())
    return ast.Call(recorder, list(args), [])


def _call_statement(method: str, number: int) -> ast.stmt:
    return ast.Expr(_recorder_call(method, ast.Constant(number)))


def _raise(node: ast.Assert, number: int, sides: list[ast.expr]) -> ast.stmt:
    message = [node.msg] if node.msg is not None else []
    error = _recorder_call("failure", ast.Constant(number), ast.Tuple(sides, ast.Load()), *message)
    return ast.Raise(error, None)


def _compare(node: ast.Assert, number: int) -> list[ast.stmt]:
    test = node.test
    assert isinstance(test, ast.Compare)
    stores = [
        ast.Assign([ast.Name(name, ast.Store())], value)
        for name, value in (("@left", test.left), ("@right", test.comparators[0]))
    ]
    sides: list[ast.expr] = [ast.Name("@left", ast.Load()), ast.Name("@right", ast.Load())]
    comparison = ast.Compare(sides[0], test.ops, [sides[1]])
    return [*stores, ast.If(ast.UnaryOp(ast.Not(), comparison), [_raise(node, number, sides)], [])]


def _truth(node: ast.Assert, number: int) -> list[ast.stmt]:
    return [ast.If(ast.UnaryOp(ast.Not(), node.test), [_raise(node, number, [])], [])]


def _guarded(body: list[ast.stmt], number: int) -> ast.stmt:
    caught = ast.Expr(_recorder_call("caught", ast.Constant(number), ast.Name("@error", ast.Load())))
    handler = ast.ExceptHandler(ast.Name("Exception", ast.Load()), "@error", [caught])
    return ast.Try(body, [handler], [], [])
