"""A21, S5, S8: nothing outlives a run: not a daemon, not the death of the engine, not a cancelled task."""

from __future__ import annotations

import asyncio
import os
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest

from engine.config import load_config
from engine.sandbox import watch
from engine.sandbox.launch import RUN_PREFIX, clean_stale, make_scratch
from engine.sandbox.probe import SandboxReport, probe
from engine.sandbox.run import Sandbox
from engine.sandbox.types import Level, Program
from registry.clock import SystemClock

SECONDS_TO_DIE = 2.0
LEVELS = list(Level)

FORK = "if os.fork(): os._exit(0)\n"
DAEMONS = {
    "orphan": "import os, time\n" + FORK + "time.sleep(600)",
    "double fork": "import os, time\n" + FORK + "try: os.setsid()\nexcept OSError: pass\n" + FORK + "time.sleep(600)",
    "deaf": "import os, time, signal\n" + FORK + "signal.signal(15, signal.SIG_IGN)\ntime.sleep(600)",
    "tree that keeps forking": "import os, time\nfor _ in range(4): os.fork()\nif os.fork() == 0:\n"
    "    while True:\n        if os.fork(): os._exit(0)\n        time.sleep(0.001)\n",
    "parent waits": "import os, time\nos.fork()\ntime.sleep(600)",
}


SETTINGS = load_config(overrides=["sandbox.min_level=none", "sandbox.timeout_s=1"]).sandbox
PATIENT = SETTINGS.model_copy(update={"timeout_s": 60.0})
"""For runs that end by something else than their time."""


@pytest.fixture(scope="module")
def report() -> SandboxReport:
    return probe(SETTINGS)


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    read, write = os.pipe()
    yield read, write
    for descriptor in (read, write):
        with suppress(OSError):
            os.close(descriptor)


def at(report: SandboxReport, level: Level) -> SandboxReport:
    if level is Level.STRICT and report.level is not Level.STRICT:
        pytest.skip(report.reason)
    return replace(report, level=level)


def all_holders_dead(read: int, seconds: float) -> bool:
    """Whether the pipe's last writer is gone: every process of the tree holds it open."""
    ready, _, _ = select.select([read], [], [], seconds)
    return bool(ready) and os.read(read, 1) == b""


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("daemon", DAEMONS)
async def test_a21_nothing_outlives_the_run(
    daemon: str, level: Level, report: SandboxReport, pipe: tuple[int, int]
) -> None:
    read, write = pipe
    program = Program(files={"d.py": DAEMONS[daemon]}, argv=("d.py",), channel_fds=(write,))
    await Sandbox(SETTINGS, at(report, level)).run(program)
    os.close(write)
    assert all_holders_dead(read, 0), "run() returned while a process of the tree was alive"


def test_a21_negative_control_the_pipe_shows_a_survivor(pipe: tuple[int, int]) -> None:
    read, write = pipe
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, pass_fds=(write,))
    os.close(write)
    assert not all_holders_dead(read, 0.2)
    child.communicate()
    assert all_holders_dead(read, 5)


@pytest.mark.parametrize("level", LEVELS)
async def test_a21_cancelling_kills_the_tree_and_cleans_up(
    level: Level, report: SandboxReport, pipe: tuple[int, int], tmp_path: Path
) -> None:
    read, write = pipe
    code = f"import os, time\nos.write({write}, b'x')\nos.fork()\ntime.sleep(600)"
    program = Program(files={"s.py": code}, argv=("s.py",), channel_fds=(write,))
    sandbox = Sandbox(PATIENT, at(report, level), tmp_path / "scratch")
    async with asyncio.TaskGroup() as group:
        task = group.create_task(sandbox.run(program))
        assert await asyncio.to_thread(os.read, read, 1) == b"x"
        task.cancel()
    assert task.cancelled()
    os.close(write)
    assert all_holders_dead(read, 0)
    assert not list((tmp_path / "scratch").glob("*"))


ENGINE = """
import asyncio, sys
from dataclasses import replace
from pathlib import Path
from engine.config import load_config
from engine.sandbox.probe import probe
from engine.sandbox.run import Sandbox
from engine.sandbox.types import Level, Program
level, write, scratch = Level(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3])
settings = load_config(overrides=["sandbox.min_level=none"]).sandbox
code = f"import os, time\\nos.fork()\\nos.fork()\\nos.write({write}, b'x')\\ntime.sleep(600)"
program = Program(files={"s.py": code}, argv=("s.py",), channel_fds=(write,))
asyncio.run(Sandbox(settings, replace(probe(settings), level=level), scratch).run(program))
"""


@pytest.mark.parametrize("level", LEVELS)
def test_s5_the_tree_dies_with_a_killed_engine(
    level: Level, report: SandboxReport, pipe: tuple[int, int], tmp_path: Path
) -> None:
    at(report, level)
    read, write = pipe
    scratch = tmp_path / "scratch"
    argv = [sys.executable, "-c", ENGINE, level, str(write), str(scratch)]
    engine = subprocess.Popen(argv, pass_fds=(write,))
    os.close(write)
    assert all(os.read(read, 1) == b"x" for _ in range(4)), "four processes are running"
    engine.send_signal(signal.SIGKILL)
    engine.wait()
    assert all_holders_dead(read, SECONDS_TO_DIE)
    left = list(scratch.glob(RUN_PREFIX + "*"))
    assert len(left) == (0 if level is Level.STRICT else 1)
    assert clean_stale(scratch) == len(left)
    assert not list(scratch.glob("*"))


def test_s5_cleaning_leaves_a_live_run_alone(tmp_path: Path) -> None:
    path, lock = make_scratch(tmp_path / "scratch", SystemClock())
    assert clean_stale(tmp_path / "scratch") == 0
    assert path.exists()
    os.close(lock)
    assert clean_stale(tmp_path / "scratch") == 1


@pytest.mark.parametrize("level", LEVELS)
async def test_s8_many_runs_leave_nothing_behind(level: Level, report: SandboxReport, tmp_path: Path) -> None:
    """S8 at 24 runs, 4 at a time (benchmarks/sandbox.py does 200): no descriptor, process, mount or file is left."""
    sandbox = Sandbox(PATIENT, at(report, level), tmp_path / "scratch")
    program = Program(files={"a.py": "print(1)"}, argv=("a.py",))
    gate = asyncio.Semaphore(4)

    async def one() -> str:
        async with gate:
            return (await sandbox.run(program)).stdout

    await one()  # threads and the child watcher exist from here on
    before = len(os.listdir("/proc/self/fd")), Path("/proc/self/mounts").read_text()
    children = set(await asyncio.to_thread(watch.descendants, os.getpid()))  # helpers that other tests left
    assert await asyncio.gather(*(one() for _ in range(24))) == ["1\n"] * 24
    assert (len(os.listdir("/proc/self/fd")), Path("/proc/self/mounts").read_text()) == before
    assert not list((tmp_path / "scratch").glob("*"))
    assert set(await asyncio.to_thread(watch.descendants, os.getpid())) <= children
