"""The terminal app on a real engine process with the scripted backend: the whole way, and killed on it (T2)."""

from __future__ import annotations

import asyncio
import os
import pty
import select
import signal
import subprocess
import sys
import time
from collections.abc import AsyncGenerator, Iterator
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path

import pytest
from support.engine_process import Process, process
from support.screen import attached, picture, raw_controls, shows, until

from engine.api_models import RunState, SessionCreate, TaskSpec
from rune_tui.client import EngineClient

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

TERMINAL = """
import fcntl, sys, termios
from pathlib import Path
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
from rune_tui.app import run
sys.exit(run(Path(sys.argv[1]), Path(sys.argv[2])))
"""


DONE = {RunState.SUCCEEDED, RunState.FAILED, RunState.CANCELLED}


@pytest.fixture
def engine(home: Path) -> Iterator[Process]:
    """A real engine process on the scripted backend; asked to stop at the end, so that its model server goes too."""
    with process(home, "sandbox.min_level=none") as running:
        running.wait_ready()
        yield running
        running.child.terminate()
        running.end()


@asynccontextmanager
async def client_of(engine: Process) -> AsyncGenerator[EngineClient, None]:
    async with EngineClient(engine.home / "run" / "engine.sock") as client:
        yield client


async def test_a_task_from_the_form_to_the_exported_log(engine: Process, tmp_path: Path) -> None:
    async with client_of(engine) as client, attached(client, export_directory=tmp_path) as (app, pilot):
        await shows(pilot, "No task yet")
        await pilot.press("n")
        await shows(pilot, "New task: what")
        await pilot.press(*"Write", "space", *"add", "tab", "tab", "tab", "right", "enter", "ctrl+s")
        await shows(pilot, "write-add-")
        await shows(pilot, "── ")  # streamed output arrives
        await until(pilot, lambda: app.state.selected_session and app.state.selected_session.state in DONE)
        record = await client.session(app.state.selected)
        assert record.state is RunState.SUCCEEDED, record.reason
        await shows(pilot, str(record.outcome))
        assert raw_controls(app) == []
        await pilot.press("d")
        await shows(pilot, "attempt 1")
        await pilot.press("escape", "e")
        await shows(pilot, "Export the log")
        await pilot.press("ctrl+s")
        file = tmp_path / f"{record.id}.jsonl"
        await until(pilot, file.exists)
        assert len(file.read_text().splitlines()) == record.attempts
        before = app.state.sessions[record.id].model_dump(exclude={"code", "summary"})
        async with attached(client, (120, 40)) as (second, other):
            await shows(other, str(record.outcome))
            assert second.state.sessions[record.id].model_dump(exclude={"code", "summary"}) == before


async def test_cancel_and_resume_on_a_real_engine(engine: Process) -> None:
    async with client_of(engine) as client, attached(client) as (app, pilot):
        await client.create_session(SessionCreate(task=TaskSpec(id="t", prompt="Write add.")))
        await until(pilot, lambda: app.state.selected_session)
        await pilot.press("c")
        await shows(pilot, "Stop t?")
        await pilot.press("right", "enter")
        await until(pilot, lambda: app.state.selected_session and app.state.selected_session.state in DONE)
        assert app.state.selected_session and app.state.selected_session.state is RunState.CANCELLED
        await pilot.press("r")
        await until(pilot, lambda: app.state.selected_session and app.state.selected_session.state not in DONE)


async def test_an_engine_that_is_killed_and_comes_back(engine: Process) -> None:
    async with client_of(engine) as client, attached(client) as (app, pilot):
        await client.create_session(SessionCreate(task=TaskSpec(id="kept", prompt="Write add.")))
        await shows(pilot, "kept")
        engine.kill()
        await shows(pilot, "! not connected")
        assert "kept" in picture(app)
        with ExitStack() as stack:
            again = await asyncio.to_thread(stack.enter_context, process(engine.home, "sandbox.min_level=none"))
            await asyncio.to_thread(again.wait_ready)
            await pilot.press("f5")
            await shows(pilot, "● live")
            await shows(pilot, "kept")
            again.child.terminate()
            await asyncio.to_thread(again.end)


class Terminal:
    """The app in a pseudo-terminal of its own, as a user's shell starts it."""

    def __init__(self, home: Path) -> None:
        self.master, slave = pty.openpty()
        self.process = subprocess.Popen(
            [sys.executable, "-P", "-c", TERMINAL, str(home), str(home / "run" / "engine.sock")],
            stdin=slave,
            stdout=slave,
            stderr=slave,
            start_new_session=True,
            env={**os.environ, "TERM": "xterm-256color", "PYTHONPATH": str(Path(__file__).parents[2])},
        )
        os.close(slave)
        self._open = True

    def wait_for(self, text: bytes, deadline_s: float = 150.0) -> bytes:
        """Read what it draws until the text appears."""
        seen, end = b"", time.monotonic() + deadline_s
        while text not in seen:
            assert time.monotonic() < end, seen[-2000:]
            if select.select([self.master], [], [], 0.5)[0]:
                seen += os.read(self.master, 65536)
        return seen

    def hang_up(self) -> None:
        """The terminal's window is closed."""
        if self._open:
            os.close(self.master)
            self._open = False

    def end(self) -> int:
        """Wait for its end, without leaving anything behind."""
        try:
            return self.process.wait(timeout=90)
        finally:
            if self.process.poll() is None:
                self.process.kill()
                self.process.wait()
            self.hang_up()


def kill(terminal: Terminal, how: str) -> None:
    match how:
        case "closed":
            terminal.hang_up()
        case "quit":
            os.write(terminal.master, b"q")
        case _:
            terminal.process.send_signal(getattr(signal, how))


async def test_a_killed_terminal_leaves_the_engine_intact(engine: Process) -> None:
    """T2: SIGKILL, SIGHUP, SIGTERM, a closed tty, q: the work goes on and the next terminal shows it."""
    async with client_of(engine) as client:
        created = await client.create_session(SessionCreate(task=TaskSpec(id="kept-alive", prompt="Write add.")))
        for how in ("SIGKILL", "SIGHUP", "SIGTERM", "closed", "quit"):
            terminal = await asyncio.to_thread(Terminal, engine.home)
            await asyncio.to_thread(terminal.wait_for, b"kept-alive")
            await asyncio.to_thread(kill, terminal, how)
            status = await asyncio.to_thread(terminal.end)
            assert (status == 0) == (how != "SIGKILL"), how
            assert (await client.health()).pid == engine.child.pid
        async with asyncio.timeout(180):
            async for _ in client.events(0):
                if (await client.session(created.id)).state in DONE:
                    break
        record = await client.session(created.id)
        assert record.state is RunState.SUCCEEDED, record.reason
