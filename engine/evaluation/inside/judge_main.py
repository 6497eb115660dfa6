"""The judge: runs the given tests in a process of its own, with the solution behind stand-ins."""

from __future__ import annotations

import importlib.machinery
import json
import sys
import types
from collections.abc import Sequence
from typing import Any

from . import packages
from .link import Link, SolutionExited, SubjectDied
from .report import Report
from .runner import Runner, Source
from .translate import Mirrors
from .unittest_run import require_genuine_sets

SOLUTION = "solution"


class RemoteModule(types.ModuleType):
    """A module of the subject, as `import` gives it to the tests."""

    def __init__(self, name: str, link: Link, handle: int) -> None:
        super().__init__(name)
        self._rune_link = link
        self._rune_handle = handle

    def __getattr__(self, name: str) -> Any:
        if name == "__all__":
            return self._public()
        if name.startswith("__"):
            raise AttributeError(name)
        return self._rune_link.request("get", h=self._rune_handle, name=name)

    def __setattr__(self, name: str, value: Any) -> None:
        if name.startswith(("__", "_rune_")):
            super().__setattr__(name, value)
            return
        link = self._rune_link
        link.request("set", h=self._rune_handle, name=name, value=link.translator.encode(value))

    def __delattr__(self, name: str) -> None:
        self._rune_link.request("del", h=self._rune_handle, name=name)

    def _public(self) -> list[str]:
        """What `from solution import *` brings: nothing that tests have already, as a built-in or under that name.

        The subject chooses the names: `__builtins__`, the recorder of asserts or a `math` of its own would decide.
        """
        taken = vars(sys.modules["builtins"]).keys() | vars(sys.modules["__main__"]).keys()
        names: list[Any] = self._rune_link.request("public", h=self._rune_handle)
        usable = [name for name in names if isinstance(name, str) and name.isidentifier()]
        return [name for name in usable if name not in taken and not name.startswith("__")]


class RemoteFinder:
    """Imports the solution and the project's modules from the subject."""

    def __init__(self, link: Link, roots: frozenset[str]) -> None:
        self._link = link
        self._roots = roots

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: types.ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname.partition(".")[0] not in self._roots:
            return None
        loader: Any = self  # a loader by its methods; the abstract class costs a third of the start-up
        return importlib.machinery.ModuleSpec(fullname, loader, is_package=True)

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> types.ModuleType:
        return RemoteModule(spec.name, self._link, self._link.request("module", name=spec.name))

    def exec_module(self, module: types.ModuleType) -> None:
        """It was executed in the subject."""


def load(link: Link, report: Report, modules: frozenset[str]) -> bool:
    """Have the subject load the generated code; all that it can do to keep the judge from it is its own failure."""
    try:
        link.request("load")
        sys.meta_path.insert(0, RemoteFinder(link, modules))
        importlib.import_module(SOLUTION)
    except BaseException as error:  # whatever the solution raises at import is the outcome
        why = type(error).__name__ if isinstance(error, (SubjectDied, SolutionExited)) else _name(error)
        report.stopped(f"the solution cannot be imported: {why}: {error}", error)
        return False
    return True


def _name(error: BaseException) -> str:
    return str(error.__dict__.get("_rune_name") or type(error).__name__)


def run(settings: dict[str, Any]) -> None:
    """Load, run, report."""
    report = Report(settings["report_fd"], settings["nonce"])
    link = Link(settings["receive_fd"], settings["send_fd"])
    Mirrors(link)
    try:
        link.wait_ready()
    except SubjectDied as error:
        report.stopped("no subject", error)
        return
    report.note_ready()
    try:
        run_tests(link, report, settings)
    except (SubjectDied, SolutionExited) as error:
        report.stopped(f"the solution's process is no use: {error}", error)
    report.end(link.dead)


def run_tests(link: Link, report: Report, settings: dict[str, Any]) -> None:
    """Load the solution and run the tests on it.

    Raises:
        SubjectDied, SolutionExited: outside of any test.
    """
    if load(link, report, frozenset(settings["modules"])):
        solution = sys.modules[SOLUTION]
        require_genuine_sets()
        source = Source(settings["tests"], "<tests>", lambda name: getattr(solution, name), settings["entry_point"])
        Runner(source, report).run()


def main() -> None:
    """Entry point: settings as JSON on standard input, which holds the tests: no file does."""
    settings = json.loads(sys.stdin.buffer.read())
    packages.install(settings["packages"])
    run(settings)
