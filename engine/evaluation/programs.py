"""The sandboxed programs of a judgement: what they are given, and nothing else."""

from __future__ import annotations

import compileall
import functools
import importlib.util
import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from engine.errors import EnvironmentUnfitError
from engine.sandbox.types import Limits, Program

INSIDE = Path(__file__).parent / "inside"
"""Bound read-only into the sandbox: the code under test can read it, and change nothing of it."""

SOLUTION = "solution"
"""Name of the module that the generated code becomes."""

ENTRY_FILE = "_rune_entry.py"

_ENTRY = """\
import importlib, importlib.util, sys
spec = importlib.util.spec_from_file_location({name!r}, {init!r}, submodule_search_locations=[{root!r}])
sys.modules[spec.name] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(sys.modules[spec.name])
importlib.import_module(spec.name + {entry!r}).main()
"""

PYTEST_PARTS = ("pytest", "_pytest", "pluggy", "iniconfig", "packaging", "pygments")
"""What pytest is made of: these directories of site-packages are shown to the judge, and no others."""


_RESERVED = frozenset(sys.stdlib_module_names).union(PYTEST_PARTS, ("py",))
"""Modules that decide about tests, or that tests decide with: never the solution's."""


@dataclass(frozen=True)
class Solution:
    """Generated code, with the project that it belongs to."""

    code: str
    files: Mapping[str, str] = field(default_factory=dict[str, str])
    """Relative path -> text of the project; importable by the code and by the tests."""
    entry_point: str | None = None
    """Function that the task asks for: the candidate of `check(candidate)`."""

    def module_names(self) -> list[str]:
        """Top-level modules that tests may import from the solution's process.

        A file named like a module of Python or of pytest is none of them: tests that say `import math` get Python's.
        """
        roots = {path.split("/")[0].removesuffix(".py") for path in self.files if path.endswith(".py")}
        return sorted({SOLUTION, *(root for root in roots if root.isidentifier() and root not in _RESERVED)})


def subject(solution: Solution, channel: tuple[int, int], limits: Limits) -> Program:
    """The process of the generated code; `channel` is (descriptor to read requests, descriptor to answer)."""
    settings = {"receive_fd": channel[0], "send_fd": channel[1]}
    return _program("subject", _with_code(solution), settings, channel, (), limits)


def judge(tests: str, solution: Solution, channel: tuple[int, int], report: tuple[int, str], limits: Limits) -> Program:
    """The process of the given tests; `report` is (descriptor, nonce). The tests are in no file."""
    parts = pytest_directories()
    settings = {
        "receive_fd": channel[0],
        "send_fd": channel[1],
        "report_fd": report[0],
        "nonce": report[1],
        "tests": tests,
        "entry_point": solution.entry_point,
        "modules": solution.module_names(),
        "packages": parts,
    }
    return _program("judge_main", {}, settings, (*channel, report[0]), tuple(parts.values()), limits)


def together(solution: Solution, tests: str | None, report: tuple[int, str], limits: Limits) -> Program:
    """Code and tests in one process; without tests, the code's own."""
    parts = pytest_directories()
    settings = {
        "report_fd": report[0],
        "nonce": report[1],
        "code": solution.code,
        "tests": tests,
        "entry_point": solution.entry_point,
        "packages": parts,
        "pytest": wants_pytest(tests if tests is not None else solution.code),
    }
    return _program("together", _with_code(solution), settings, (report[0],), tuple(parts.values()), limits)


def wants_pytest(source: str) -> bool:
    """Could the source need pytest? A cheap guess that may err towards yes."""
    return "pytest" in source or "def test" in source


def _with_code(solution: Solution) -> dict[str, str]:
    return {**solution.files, f"{SOLUTION}.py": solution.code}


def _program(
    entry: str,
    files: Mapping[str, str],
    settings: Mapping[str, Any],
    channel: tuple[int, ...],
    readable: tuple[str, ...],
    limits: Limits,
) -> Program:
    text = _ENTRY.format(name="_rune_inside", init=str(INSIDE / "__init__.py"), root=str(INSIDE), entry=f".{entry}")
    return Program(
        files={**files, ENTRY_FILE: text},
        argv=(ENTRY_FILE,),
        stdin=json.dumps(settings).encode(),
        channel_fds=channel,
        readonly_paths=(str(INSIDE), *readable),
        limits=limits,
    )


@functools.cache
def prepare() -> None:
    """Once per process, blocking: compile what runs inside (a read-only sandbox cannot), and find pytest."""
    compileall.compile_dir(INSIDE, quiet=2, maxlevels=0)
    pytest_directories()


@functools.cache
def pytest_directories() -> dict[str, str]:
    """Where pytest is installed, package by package. Blocking the first time.

    Raises:
        EnvironmentUnfitError: it is not.
    """
    found: dict[str, str] = {}
    for name in PYTEST_PARTS:
        spec = importlib.util.find_spec(name)
        if spec is None or not spec.submodule_search_locations:
            raise EnvironmentUnfitError(f"The package {name} is missing, which given tests need; reinstall rune-tui.")
        found[name] = str(Path(spec.submodule_search_locations[0]).resolve())
    return found
