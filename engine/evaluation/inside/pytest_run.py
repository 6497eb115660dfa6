"""Runs pytest-style tests of an executed module with pytest itself, and reports through a plugin."""

from __future__ import annotations

import asyncio
import inspect
import os
import types
from pathlib import Path
from typing import Any

import pytest

from .mirrors import Mirror, StandIn
from .report import Report
from .unittest_run import is_case

OPTIONS = (
    "-p", "no:cacheprovider",
    "-p", "no:terminal",
    "-p", "no:junitxml",
    "-p", "no:faulthandler",
    "-p", "no:unraisableexception",
    "-p", "no:threadexception",
    "--assert=plain",
    "--capture=sys",
    "--strict-markers",
)  # fmt: skip
"""No file is written, no plugin or configuration found, no assert rewritten (ours are), no text printed."""


class _GivenModule(pytest.Module):
    """The module as it was executed, instead of an import of its file."""

    given: types.ModuleType

    def _getobj(self) -> types.ModuleType:
        return self.given


class _Plugin:
    """Collects the given module only, and tells the report what pytest found."""

    def __init__(self, module: types.ModuleType, report: Report) -> None:
        self._module = module
        self._report = report
        self._errors: dict[str, BaseException] = {}

    def pytest_pycollect_makemodule(self, module_path: Path, parent: Any) -> Any:
        collector = _GivenModule.from_parent(parent, path=module_path)
        collector.given = self._module
        return collector

    @pytest.hookimpl(tryfirst=True)
    def pytest_pycollect_makeitem(self, collector: Any, name: str, obj: Any) -> Any:
        return (
            [] if isinstance(obj, (StandIn, Mirror)) or is_case(obj) else None
        )  # unittest runs its own; stand-ins are no tests

    @pytest.hookimpl(tryfirst=True)
    def pytest_pyfunc_call(self, pyfuncitem: Any) -> bool | None:
        if not inspect.iscoroutinefunction(pyfuncitem.obj):
            return None
        arguments = {name: pyfuncitem.funcargs[name] for name in pyfuncitem._fixtureinfo.argnames}
        asyncio.run(pyfuncitem.obj(**arguments))
        return True

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        self._report.start(_name(nodeid))

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(self, item: Any, call: Any) -> Any:
        result = yield
        if call.excinfo is not None:
            self._errors[item.nodeid] = call.excinfo.value
        return result

    def pytest_runtest_logreport(self, report: Any) -> None:
        name = _name(report.nodeid)
        match report.outcome:
            case "failed":
                error = self._errors.pop(report.nodeid, None)
                self._report.failed(name, error or AssertionError(str(report.longrepr)))
            case "skipped":
                self._report.outcome(name, "expected-failure" if hasattr(report, "wasxfail") else "skipped")
            case _:
                if report.when == "call":
                    self._report.outcome(name, "passed")

    def pytest_collectreport(self, report: Any) -> None:
        if report.failed:
            self._report.failed(_name(report.nodeid), AssertionError(str(report.longrepr)[-500:]))
        elif report.skipped:
            self._report.outcome(_name(report.nodeid), "skipped")


def _name(nodeid: str) -> str:
    return nodeid.partition("::")[2].replace("::", ".") or "module"


def run_functions(module: types.ModuleType, report: Report) -> None:
    """Run the module's test functions and classes."""
    os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
    os.environ.pop("PYTEST_ADDOPTS", None)
    path = Path.cwd() / "test_given.py"
    path.write_text("", encoding="utf-8")
    empty = Path.cwd() / "given.ini"
    empty.write_text("[pytest]\n", encoding="utf-8")
    arguments = [*OPTIONS, "-c", str(empty), "--rootdir", str(path.parent), str(path)]
    status = pytest.main(arguments, plugins=[_Plugin(module, report)])
    if status in (pytest.ExitCode.INTERNAL_ERROR, pytest.ExitCode.USAGE_ERROR, pytest.ExitCode.INTERRUPTED):
        report.failed("pytest", AssertionError(f"pytest could not run the tests: {pytest.ExitCode(status).name}"))
