"""Runs a test source of any style and reports each test: unittest classes, pytest-style functions, bare asserts,
HumanEval's `check(candidate)`. Mixed styles all run.

The source is executed as a module whose built-ins are asked, after the genuine ones, for the names of the solution:
so tests see the solution's names as if both were one script, while a solution can neither shadow `len` or `print` nor
put its own test classes among the given ones.
"""

from __future__ import annotations

import ast
import builtins
import importlib
import linecache
import sys
import types
import unittest
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

from . import asserts, protocol
from .report import Report, index_calls
from .unittest_run import is_case, run_cases

MODULE = "given_tests"


@dataclass(frozen=True)
class Source:
    """What to run and how."""

    text: str
    filename: str
    resolve: Callable[[str], Any]
    """The solution's object of that name; raises AttributeError when there is none."""
    entry_point: str | None = None
    own_asserts_only: bool = False
    """The tests stand within the solution: asserts in its functions are no tests."""


class _Builtins(dict[str, Any]):
    """Built-ins of the test module; unknown names are the solution's.

    Tests may lean on what the solution imports: `math.isclose(...)`. Such a name is the genuine module, whatever the
    solution has made of it.
    """

    def __init__(self, resolve: Callable[[str], Any], modules: frozenset[str]) -> None:
        super().__init__(vars(builtins))
        self._resolve = resolve
        self._modules = modules

    def __missing__(self, name: str) -> Any:
        try:
            found = self._resolve(name)
        except AttributeError:
            raise KeyError(name) from None
        return importlib.import_module(name) if name in self._modules else found


def _modules_used(tree: ast.Module) -> frozenset[str]:
    """Library modules of which the source uses an attribute: a function that is named like one is only called."""
    bases = (node.value for node in ast.walk(tree) if isinstance(node, ast.Attribute))
    return protocol.GENUINE_MODULES.intersection(base.id for base in bases if isinstance(base, ast.Name))


class Runner:
    """One run of one test source."""

    def __init__(self, source: Source, report: Report) -> None:
        self._source = source
        self._report = report
        self._sites: list[asserts.Site] = []
        self._recorder = asserts.Recorder(self._sites, report.failed)
        self._fatal: BaseException | None = None
        """What ended the module or the check."""
        self._module = types.ModuleType(MODULE)
        self._module.__file__ = source.filename

    def run(self) -> bool:
        """Run everything; False when the source itself is no Python."""
        try:
            tree = ast.parse(self._source.text, self._source.filename)
        except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
            self._report.stopped(f"the tests are not valid Python: {error}")
            return False
        self._report.calls = index_calls(tree)
        tree = asserts.instrument(tree, self._sites, self._counts)
        with_check = self._wants_check(tree)
        linecache.cache[self._source.filename] = (
            len(self._source.text),
            None,
            self._source.text.splitlines(keepends=True),
            self._source.filename,
        )
        with _quiet_runners(self._source.text):
            alive = self._execute_module(tree)
        if with_check and alive:
            self._call_check()
        self._report_sites()
        self._run_classes()
        if self._needs_pytest():
            from .pytest_run import run_functions  # pytest takes 0.4 s to import: only where it is needed

            run_functions(self._module, self._report)
        return True

    # --- module and asserts

    def _counts(self, function: str) -> bool:
        return not self._source.own_asserts_only or function.startswith(("test", "Test", "check"))

    def _execute_module(self, tree: ast.Module) -> bool:
        space = self._module.__dict__
        space["__name__"] = "__main__"
        space["__builtins__"] = _Builtins(self._source.resolve, _modules_used(tree))
        space[asserts.RECORDER] = self._recorder
        self._entry = sys.modules["__main__"]  # kept alive: it is still running
        sys.modules[MODULE] = sys.modules["__main__"] = self._module  # where unittest and typing look for its names
        entry = self._source.entry_point
        try:
            if entry is not None and hasattr(builtins, entry):
                with suppress(AttributeError):  # a task may ask for a function that is named like a built-in
                    space[entry] = self._source.resolve(entry)
            exec(compile(tree, self._source.filename, "exec"), space)
        except SystemExit as end:
            if type(end) is SystemExit and not end.code:
                return True  # the source ends itself after its last check
            self._fail("module", end)
            return False
        except BaseException as error:  # a test source may fail in any way; that is a failed test
            self._fail("module", error)
            return False
        return True

    def _fail(self, name: str, error: BaseException) -> None:
        self._fatal = error
        self._report.failed(name, error)

    def _report_sites(self) -> None:
        """Asserts that were executed outside of collected tests: each once, without those whose failure is told."""
        hits = {n for n in self._recorder.hits if not self._sites[n].in_test}
        told = self._recorder.failed | {n for n, error in self._recorder.raised.items() if error is self._fatal}
        if count := len(hits - told):
            self._report.outcome("asserts", "passed", count)

    # --- check(candidate)

    def _wants_check(self, tree: ast.Module) -> bool:
        """Does the source define HumanEval's `check(candidate)` and leave the call to us?"""
        if self._source.own_asserts_only:
            return False
        defines = any(isinstance(n, ast.FunctionDef) and n.name == "check" and len(n.args.args) == 1 for n in tree.body)
        called = any(
            isinstance(n, ast.Call) and isinstance(n.func, ast.Name) and n.func.id == "check" for n in ast.walk(tree)
        )
        return defines and not called

    def _call_check(self) -> None:
        name = self._source.entry_point
        if name is None:
            self._report.stopped("check(candidate) needs the task's entry_point")
            return
        self._report.start("check")
        try:
            self._module.__dict__["check"](self._source.resolve(name))
        except BaseException as error:  # the check fails with whatever it raises
            self._fail("check", error)

    # --- classes and functions

    def _run_classes(self) -> None:
        found = [value for value in vars(self._module).values() if is_case(value) and value.__module__ == "__main__"]
        if found:
            run_cases(list(dict.fromkeys(found)), self._report)

    def _needs_pytest(self) -> bool:
        return any(
            (name.startswith("test") and type(value) is types.FunctionType)
            or (
                name.startswith("Test")
                and type(value) is type
                and not is_case(value)
                and value.__module__ == "__main__"
            )
            for name, value in vars(self._module).items()
        )


@contextmanager
def _quiet_runners(source: str) -> Generator[None]:
    """While the source is executed, its own `unittest.main()` and the like do nothing: it must not run twice."""
    pytest: Any = importlib.import_module("pytest") if "pytest" in source else types.SimpleNamespace(main=None)
    saved = (unittest.main, unittest.TextTestRunner.run, pytest.main)
    setattr(unittest, "main", _nothing)  # noqa: B010 - a class there, a function here; only ever called
    setattr(unittest.TextTestRunner, "run", _empty_run)  # noqa: B010
    pytest.main = _nothing
    try:
        yield
    finally:
        unittest.main, unittest.TextTestRunner.run, pytest.main = saved


def _nothing(*_args: object, **_kwargs: object) -> int:
    return 0


def _empty_run(*_args: object, **_kwargs: object) -> unittest.TestResult:
    return unittest.TestResult()
