"""Programs to put under a guardian, and an engine of its own process that can be killed."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from engine.device.contracts import ProcessId
from engine.device.guarded import Command
from engine.device.lock import DeviceLock
from engine.device.processes import await_end, is_alive, process_id, send

ROOT = Path(__file__).parents[2]
GONE_S = 5.0
"""P3: all is gone within 5 s of the engine's death."""

FAMILY = """
    import os, signal, sys, time
    reading, writing = os.pipe()
    if os.fork() == 0:                      # a child that leaves the session and does not listen
        os.setsid()
        if os.fork() == 0:                  # a daemon
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            os.write(writing, b"%d\\n" % os.getpid())
            time.sleep(1000)
        os._exit(0)
    os.wait()
    print(os.getpid(), os.read(reading, 99).decode().strip(), flush=True)
    time.sleep(1000)
"""
"""Prints its pid and that of a daemonised, TERM-ignoring grandchild in a session of its own."""

ENGINE = """
    import asyncio, json, os, sys
    from pathlib import Path
    from engine.device import guarded
    from engine.device.lock import DeviceLock
    from engine.device.processes import become_subreaper

    async def main():
        run, program, grace = Path(sys.argv[1]), sys.argv[2], float(sys.argv[3])
        if sys.argv[4:]:
            guarded.PROGRAM = Path(sys.argv[4])
        become_subreaper()
        lock = await DeviceLock.acquire("cpu", run)
        tree = await guarded.spawn(guarded.Command(
            "server", (sys.executable, "-I", "-S", "-c", program), dict(os.environ), run / "log", run / "guardians",
            1, grace, lock, pipe_stdout=True))
        pids = [tree.process.pid, *map(int, (await tree.stdout.readline()).split())]
        print(json.dumps(pids), flush=True)
        await tree.wait()

    asyncio.run(main())
"""
"""Holds the lock, starts a family under a guardian, prints [guardian, child, grandchild]."""

NAIVE_ENGINE = """
    import fcntl, json, os, subprocess, sys, time
    lock = os.open(sys.argv[1] + "/cpu.lock", os.O_RDWR | os.O_CREAT)
    fcntl.flock(lock, fcntl.LOCK_EX)
    child = subprocess.Popen([sys.executable, "-c", sys.argv[2]], stdout=subprocess.PIPE, start_new_session=True)
    print(json.dumps([os.getpid(), *map(int, child.stdout.readline().split())]), flush=True)
    time.sleep(1000)
"""
"""The broken variant: the lock is the engine's alone, and nobody stands between it and the family."""


def command(run: Path, lock: DeviceLock | None, program: str, grace_s: float = 5.0, *, role: str = "server") -> Command:
    """A Python program under a guardian, with its output piped."""
    argv = (sys.executable, "-I", "-S", "-c", textwrap.dedent(program))
    environment = {"PATH": os.environ["PATH"], "MARK": "ours"}
    return Command(role, argv, environment, run / "log", run / "guardians", 1, grace_s, lock, pipe_stdout=True)


class Family:
    """A running engine with its guardian, child and grandchild."""

    def __init__(self, engine: subprocess.Popen[str], pids: list[int]) -> None:
        self.engine = engine
        found = [process_id(pid) for pid in pids]
        assert all(found), "all of them live"
        self.guardian, self.child, self.grandchild = (process for process in found if process is not None)
        self.tree = (self.guardian, self.child, self.grandchild)

    def kill_engine(self) -> None:
        self.engine.kill()
        self.engine.wait()

    def alive(self) -> list[ProcessId]:
        return [process for process in self.tree if is_alive(process)]

    def gone(self, seconds: float = GONE_S) -> bool:
        """Whether all of the tree ends within that time."""
        await_end(self.tree, seconds)
        return not self.alive()


@contextmanager
def family(run: Path, source: str = ENGINE, *, grace_s: float = 0.3, program: Path | None = None) -> Iterator[Family]:
    """Start an engine process with a family; whatever is left of it at the end is killed."""
    run.mkdir(parents=True, exist_ok=True)
    extra = [str(program)] if program else []
    arguments = [str(run), textwrap.dedent(FAMILY), str(grace_s), *extra]
    engine = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(source), *arguments], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    assert engine.stdout is not None
    people: Family | None = None
    try:
        people = Family(engine, json.loads(engine.stdout.readline()))
        yield people
    finally:
        engine.kill()
        engine.wait()
        engine.stdout.close()
        for process in people.tree if people else ():
            send(process, signal.SIGKILL)


def readable(descriptor: int, seconds: float) -> bool:
    """Whether something can be read within that time."""
    return bool(select.select([descriptor], [], [], seconds)[0])
