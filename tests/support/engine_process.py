"""Engines for tests: inside this process with work that the test decides, or a real process of their own."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path

import httpx

from engine.api_device import DeviceState
from engine.api_models import RunState, SessionRecord
from engine.config import Config, load_config
from engine.core import Engine
from engine.runner import Ended, Work
from engine.server import serve

ROOT = Path(__file__).parents[2]
START_S = 120.0
"""A safety net, as every deadline here: the machine may be busy with another test."""
JSON = {"content-type": "application/json"}


def scripted(home: Path, *overrides: str) -> Config:
    """The defaults with the scripted backend."""
    # In a thread: the product reads its configuration before there is an event loop.
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(load_config, home / "config.toml", ["inference.backend=scripted", *overrides]).result()


async def forever(session: SessionRecord) -> Ended:
    """Work that only a cancellation ends."""
    await asyncio.Event().wait()
    raise AssertionError(session)


async def at_once(session: SessionRecord) -> Ended:
    """Work that is done."""
    return Ended(RunState.SUCCEEDED, f"{session.task.id} done")


@asynccontextmanager
async def serving(engine: Engine) -> AsyncIterator[httpx.AsyncClient]:
    """Serve an open engine on its socket and give a client of it."""
    path = engine.home / "run" / "engine.sock"
    async with asyncio.TaskGroup() as group:
        group.create_task(serve(engine))
        transport = httpx.AsyncHTTPTransport(uds=str(path))
        async with httpx.AsyncClient(transport=transport, base_url="http://engine", timeout=60) as client:
            await _answers(client)
            try:
                yield client
            finally:
                engine.request_shutdown()


@asynccontextmanager
async def api(home: Path, *overrides: str, work: Work = forever) -> AsyncIterator[tuple[Engine, httpx.AsyncClient]]:
    """An engine in this process and a client on its socket."""
    async with Engine(scripted(home, *overrides), home, work=work) as engine, serving(engine) as client:
        # Its events come first then, always: two of them.
        await engine.device.until(lambda snapshot: snapshot.state is not DeviceState.RECONCILE)
        yield engine, client


async def _answers(client: httpx.AsyncClient) -> None:
    async with asyncio.timeout(START_S):
        while True:
            try:
                await client.get("/ready")
                return
            except httpx.TransportError:
                await asyncio.sleep(0.01)


class Process:
    """A real engine process."""

    def __init__(self, home: Path, child: subprocess.Popen[bytes]) -> None:
        self.home = home
        self.child = child
        transport = httpx.HTTPTransport(uds=str(home / "run" / "engine.sock"))
        self.http = httpx.Client(transport=transport, base_url="http://engine", timeout=60)

    def wait_ready(self) -> None:
        """Return once it answers.

        Raises:
            AssertionError: it ended first, or was too slow.
        """
        deadline = time.monotonic() + START_S
        while time.monotonic() < deadline:
            assert self.child.poll() is None, f"the engine ended: {self.stderr()}"
            # A child of a killed engine may hold the old socket for an instant: such a connection is reset.
            with suppress(httpx.TransportError):
                if self._listens() and self.http.get("/ready").status_code == 200:
                    return
            time.sleep(0.01)
        raise AssertionError("the engine was not ready in time")

    def _listens(self) -> bool:
        with socket.socket(socket.AF_UNIX) as probe:
            return probe.connect_ex(str(self.home / "run" / "engine.sock")) == 0

    def stderr(self) -> str:
        """What it said; waits for its end."""
        assert self.child.stderr is not None
        return self.child.stderr.read().decode()

    def end(self) -> int:
        """Its exit status, once it has ended by itself."""
        return self.child.wait(START_S)

    def kill(self) -> None:
        """SIGKILL, and reap."""
        self.child.kill()
        self.child.wait()


@contextmanager
def process(home: Path, *overrides: str, env: Mapping[str, str] | None = None) -> Iterator[Process]:
    """Start `python -m engine` on the scripted backend; killed at the end of the block if it still runs."""
    argv = [sys.executable, "-m", "engine", "--home", str(home)]
    for override in ("inference.backend=scripted", *overrides):
        argv += ["-c", override]
    child = subprocess.Popen(
        argv, cwd=ROOT, env={**os.environ, **(env or {})}, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE
    )
    engine = Process(home, child)
    try:
        yield engine
    finally:
        engine.kill()
        engine.http.close()
        assert child.stderr is not None
        child.stderr.close()
