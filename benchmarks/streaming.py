"""What the terminal app costs while a model writes, and while nothing happens: processor seconds a second.

    python -m benchmarks.streaming [--seconds 20] [--chunks 96] [--json]

The app runs in a pseudo-terminal of 120x40, as a user's shell starts it, on a socket behind which a small server
streams chunks at the pace of a model: eight characters each, a line of eighty now and then, one session, three
adapters. Only the app's own process is measured. Exit status 1 when a figure is above its line.
"""

from __future__ import annotations

import argparse
import asyncio
import fcntl
import json
import os
import pty
import struct
import sys
import tempfile
import termios
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from dataclasses import asdict, dataclass
from itertools import count
from pathlib import Path

import psutil
import uvicorn
from fastapi import FastAPI
from fastapi.responses import StreamingResponse

from engine.api_models import EngineStatus, PhaseName, PhaseStatus, RunState, SessionRecord, StreamChunk, TaskSpec
from engine.routes.problems import install

LINES, COLUMNS = 40, 120
STREAMING_LINE = 0.03
IDLE_LINE = 0.005
WARM_UP_S = 8.0
"""Imports, the first picture, and enough output that the pane scrolls."""

ROOT = Path(__file__).parents[1]
START = "2026-01-01T00:00:00.000000+00:00"
APP = "import sys; from pathlib import Path; from rune_tui.app import run; run(Path(sys.argv[1]), Path(sys.argv[2]))"


@dataclass(frozen=True)
class Row:
    """One measured thing."""

    what: str
    seconds: float
    share: float
    """Of one core."""
    bytes_per_second: float
    """Written to the terminal."""
    line: float
    ok: bool


def _server(rate: float, running: bool) -> FastAPI:
    """An engine's answers, and a stream of chunks."""
    app = FastAPI()
    install(app)  # what is missing is said as an engine says it
    phases = (PhaseStatus(phase=PhaseName.CODE, state="running", iterations=1),)
    record = SessionRecord(
        id="rune-1",
        task=TaskSpec(id="sort-list", prompt="Sort."),
        state=RunState.RUNNING if running else RunState.QUEUED,
        created_at=START,
        phases=phases if running else (),
    )
    status = EngineStatus(
        pid=1,
        version="0",
        home="/home",
        started_at=START,
        backend="scripted",
        model="m",
        model_state="serving",
        sandbox_level="strict",
        sandbox_reason="",
        sessions_running=1,
        sessions_queued=0,
        last_sequence=0,
    )

    @app.get("/health")
    async def health() -> EngineStatus:  # pyright: ignore[reportUnusedFunction] - a route
        return status

    @app.get("/sessions")
    async def sessions() -> list[SessionRecord]:  # pyright: ignore[reportUnusedFunction] - a route
        return [record]

    @app.get("/adapters")
    async def adapters() -> list[str]:  # pyright: ignore[reportUnusedFunction] - a route
        return []

    @app.get("/events")
    async def events() -> StreamingResponse:  # pyright: ignore[reportUnusedFunction] - a route
        return StreamingResponse(_stream(rate if running else 0.0), media_type="text/event-stream")

    return app


async def _stream(rate: float) -> AsyncGenerator[str]:
    loop = asyncio.get_running_loop()
    begin = loop.time()
    yield ": hello\n\n"
    for number in count():
        if not rate:
            await asyncio.sleep(15)
            yield ": here\n\n"
            continue
        await asyncio.sleep(max(0.0, begin + number / rate - loop.time()))
        text = f"word{number % 1000:03} " + ("\n" if number % 10 == 9 else "")
        chunk = StreamChunk(session_id="rune-1", phase=PhaseName.CODE, attempt=1, text=text)
        yield f"event: chunk\ndata: {chunk.model_dump_json()}\n\n"


@asynccontextmanager
async def _serving(app: FastAPI, socket: Path) -> AsyncGenerator[None]:
    config = uvicorn.Config(app, uds=str(socket), log_level="error", timeout_graceful_shutdown=1, lifespan="off")
    server = uvicorn.Server(config)
    async with asyncio.TaskGroup() as group:
        task = group.create_task(server.serve())
        while not server.started:  # noqa: ASYNC110 - uvicorn has no event for it
            await asyncio.sleep(0.01)
        try:
            yield
        finally:
            server.should_exit = True
            with suppress(asyncio.CancelledError):
                await task


async def measure(what: str, seconds: float, rate: float, line: float) -> Row:
    """Run the app for so long and take its share of a core."""
    with tempfile.TemporaryDirectory(prefix="rt-") as folder:
        home = Path(folder)
        master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", LINES, COLUMNS, 0, 0))
        written = 0

        def drain() -> None:
            nonlocal written
            with suppress(OSError):
                written += len(os.read(master, 1 << 16))

        async with _serving(_server(rate, rate > 0), home / "s.sock"):
            child = await asyncio.create_subprocess_exec(
                sys.executable,
                *("-c", APP, str(home), str(home / "s.sock")),
                stdin=slave,
                stdout=slave,
                stderr=slave,
                start_new_session=True,
                cwd=ROOT,
                env={**os.environ, "TERM": "xterm-256color", "COLORTERM": "truecolor"},
            )
            os.close(slave)
            asyncio.get_running_loop().add_reader(master, drain)
            try:
                process = psutil.Process(child.pid)
                await asyncio.sleep(WARM_UP_S)
                before, bytes_before = process.cpu_times(), written
                await asyncio.sleep(seconds)
                after, bytes_after = process.cpu_times(), written
            finally:
                asyncio.get_running_loop().remove_reader(master)
                with suppress(ProcessLookupError):  # it died by itself: the measurement said so
                    child.kill()
                await child.wait()
                os.close(master)
    share = (after.user + after.system - before.user - before.system) / seconds
    return Row(what, seconds, round(share, 4), round((bytes_after - bytes_before) / seconds), line, share <= line)


async def main() -> int:
    """Both figures; 1 when one is above its line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--chunks", type=float, default=96.0, help="a second")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    rows = [
        await measure("streaming", options.seconds, options.chunks, STREAMING_LINE),
        await measure("idle", options.seconds, 0.0, IDLE_LINE),
    ]
    if options.json:
        print(json.dumps([asdict(row) for row in rows], indent=2))
    else:
        for row in rows:
            print(
                f"{row.what:<10} {row.share:6.1%} of a core (line {row.line:.1%}), {row.bytes_per_second:,.0f} bytes/s"
            )
    return 0 if all(row.ok for row in rows) else 1


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
