"""Gives a program an engine: the one that runs, one in the background, or one inside this process.

    engine_client ── socket answers ──────────────► client of the running engine
                  └─ nothing answers ─ embedded ──► engine in this process, same socket, same client
    start_background ─ spawn ─ poll /ready ───────► ready | exited: the end of what it wrote | deadline: stopped

The only module of rune_tui that imports the engine itself, and only inside the function that runs one.
"""

from __future__ import annotations

import asyncio
import importlib.util
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from engine.api_models import EngineStatus
from engine.config import Config
from engine.errors import EngineUnreachableError, EnvironmentUnfitError
from engine.home import prepare_home, socket_path
from engine.logs import log_to, tail
from rune_tui.client import EngineClient
from rune_tui.terminal_text import visible_line

START_DEADLINE_S = 30.0
"""An engine is ready in about a second; a machine that takes this long has something wrong that waiting won't mend."""

STOP_DEADLINE_S = 30.0
"""The engine gives running work `engine.shutdown_s` to reach a safe point, and its model server as long to end."""

POLL_S = 0.05

SANDBOX_DEADLINE_S = 5.0
"""An engine has looked at its sandbox within a second of its start; what it knows then must do."""

MAX_TAIL_BYTES = 4096
LOG_TAIL_LINES = 5


@dataclass(frozen=True)
class Attached:
    """A client, and whether its engine runs in this process."""

    client: EngineClient
    status: EngineStatus
    embedded: bool


async def running_engine(home: Path) -> EngineStatus | None:
    """What the engine of this home says of itself; None when none answers."""
    async with EngineClient(socket_path(home)) as client:
        with suppress(EngineUnreachableError):
            return await client.health()
    return None


@asynccontextmanager
async def engine_client(config: Config, home: Path) -> AsyncGenerator[Attached]:
    """A client of the running engine, or of one that lives in this process until the context ends.

    Raises:
        EnvironmentUnfitError: the engine cannot start here; the message has the remedy.
    """
    embedded = await running_engine(home) is None
    async with AsyncExitStack() as stack:
        if embedded:
            await stack.enter_async_context(embedded_engine(config, home))
        client = await stack.enter_async_context(EngineClient(socket_path(home)))
        yield Attached(client, await sandbox_known(client), embedded)


async def sandbox_known(client: EngineClient) -> EngineStatus:
    """The engine's status once it has looked at its sandbox; as it is when that takes too long."""
    deadline = time.monotonic() + SANDBOX_DEADLINE_S
    status = await client.health()
    while not status.sandbox_level and time.monotonic() < deadline:
        await asyncio.sleep(POLL_S)
        status = await client.health()
    return status


@asynccontextmanager
async def embedded_engine(config: Config, home: Path) -> AsyncGenerator[None]:
    """An engine in this process, serving on the home's socket like any other.

    Raises:
        EngineBusyError: another process owns this home.
        EnvironmentUnfitError: it cannot start here.
    """
    from engine.core import Engine
    from engine.server import serve
    from registry.clock import SystemClock

    await asyncio.to_thread(prepare_home, home)
    with log_to(home):
        async with Engine(config, home, SystemClock()) as engine, asyncio.TaskGroup() as group:
            server = group.create_task(serve(engine), name="engine api")
            try:
                if await _answering(home, server.done) is None and not server.done():
                    raise EnvironmentUnfitError(
                        f"The engine was not ready in {START_DEADLINE_S:.0f} s; see {home}/logs."
                    )
                yield
            finally:
                engine.request_shutdown()


async def _answering(home: Path, gave_up: Callable[[], bool]) -> EngineStatus | None:
    """The status once the engine is ready; None when it gave up or the deadline passed."""
    deadline = time.monotonic() + START_DEADLINE_S
    async with EngineClient(socket_path(home)) as client:
        while time.monotonic() < deadline and not gave_up():
            with suppress(EngineUnreachableError):
                if await client.ready():
                    return await client.health()
            await asyncio.sleep(POLL_S)
    return None


async def start_background(home: Path, overrides: Sequence[str] = ()) -> EngineStatus:
    """Start an engine that outlives this process, and wait until it is ready.

    Raises:
        EnvironmentUnfitError: it ended or was not ready in time; the message has the end of what it wrote.
    """
    socket_path(home)
    output = await asyncio.to_thread(_output_file, home)
    child = await asyncio.to_thread(_spawn, home, overrides, output)
    status = await _answering(home, lambda: child.poll() is not None)
    if status is not None:
        return status
    reason = f"ended with status {child.returncode}" if child.poll() is not None else "was not ready in time"
    await _end(child)
    said = await asyncio.to_thread(_tail, output)
    raise EnvironmentUnfitError(f"The engine {reason}: {said} (see {visible_line(str(output.parent))})")


def _spawn(home: Path, overrides: Sequence[str], output: Path) -> subprocess.Popen[bytes]:
    argv = [sys.executable, "-P", "-m", "engine", "--home", str(home)]
    for override in overrides:
        argv += ["-c", override]
    with output.open("wb") as stream:
        return subprocess.Popen(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # it must survive the terminal and its Ctrl-C
            cwd=home,
            env={**os.environ, "PYTHONPATH": _python_path()},
        )


def _python_path() -> str:
    """The directory that holds the packages comes first, so that a checkout starts its own engine."""
    spec = importlib.util.find_spec("engine")
    assert spec is not None and spec.origin is not None, "engine ships with rune_tui"
    inherited = os.environ.get("PYTHONPATH")
    root = str(Path(spec.origin).parent.parent)
    return os.pathsep.join([root, inherited] if inherited else [root])


async def _end(child: subprocess.Popen[bytes]) -> None:
    """Stop the engine that did not come up, with all its children, and reap it."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        if child.poll() is None:
            with suppress(ProcessLookupError):
                os.killpg(child.pid, number)
            with suppress(subprocess.TimeoutExpired):
                await asyncio.to_thread(child.wait, STOP_DEADLINE_S / 2)


async def stop(home: Path) -> bool:
    """Stop the running engine and wait until its process is gone; False when none runs.

    Raises:
        EnvironmentUnfitError: it does not end; the message has its pid.
    """
    status = await running_engine(home)
    if status is None:
        return False
    async with EngineClient(socket_path(home)) as client:
        with suppress(EngineUnreachableError):  # it may close the connection before it has answered
            await client.shutdown()
    deadline = time.monotonic() + STOP_DEADLINE_S
    while await asyncio.to_thread(_alive, status.pid):
        if time.monotonic() > deadline:
            raise EnvironmentUnfitError(f"The engine (pid {status.pid}) does not end; `kill {status.pid}` ends it.")
        await asyncio.sleep(POLL_S)
    return True


def _alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace").rpartition(")")[2].split()[0]
    except (OSError, IndexError):
        return False
    return state not in ("Z", "X")  # a zombie has ended; only its parent has not asked yet


def _output_file(home: Path) -> Path:
    """Where the engine's own stdout and stderr go: empty but for what keeps it from starting or ends it."""
    prepare_home(home)
    output = home / "logs" / "engine.out"
    output.touch(mode=0o600)
    return output


def _tail(output: Path) -> str:
    lines = tail(output, MAX_TAIL_BYTES).splitlines()
    return visible_line(" | ".join(lines[-LOG_TAIL_LINES:])) or "it wrote nothing"
