"""Whether no event is lost at 5,000 a second: journal -> bus -> server-sent events -> two clients on the Unix socket.

    python -m benchmarks.events [--seconds 5] [--rate 5000] [--json]

An engine (database, journal, HTTP server) runs in one process, each client in a process of its own, as in real use.
Every event is a row that is on disk (fsync) before any client hears of it; 100 transactions a second carry them, as
the group commit of many small writers would. Exit status 1 if an event is lost, repeated or out of order, or if the
journal or a client is slower than the rate.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import httpx

from engine.api_models import SessionRecord
from engine.config import load_config
from engine.core import Engine
from engine.runner import Ended
from engine.server import serve
from registry.db import Transaction

CLIENTS = 2
TICKS_PER_S = 100
SLACK = 0.97
"""A paced writer ends up to one tick late; what is slower than this is slower than the rate."""

DEADLINE_S = 120.0
POLL_S = 0.01
ROOT = Path(__file__).parents[1]


@dataclass(frozen=True)
class Row:
    """The journal or one client."""

    who: str
    events: int
    seconds: float
    per_second: float
    lost: int
    out_of_order: int
    ok: bool


async def no_work(session: SessionRecord) -> Ended:
    """This engine runs no session."""
    raise AssertionError(session.id)


async def produce(engine: Engine, total: int, rate: int) -> float:
    """Write `total` events, evenly spread; gives the seconds until the last was on disk."""
    each = rate // TICKS_PER_S

    def write(tx: Transaction, first: int) -> None:
        for number in range(first, first + each):
            payload = {"state": "running", "number": number, "detail": "x" * 100}
            engine.journal.record(tx, kind="updated", subject=f"benchmark/{number % 10}", payload=payload)

    started = time.perf_counter()
    async with asyncio.TaskGroup() as group:
        for tick in range(total // each):
            await asyncio.sleep(max(0.0, started + tick / TICKS_PER_S - time.perf_counter()))
            group.create_task(engine.db.write(partial(write, first=tick * each)))
    return time.perf_counter() - started


def consume(socket: str, total: int) -> None:
    """A client process: says that it is connected, reads up to sequence `total`, prints what it saw as JSON."""
    while not Path(socket).exists():
        time.sleep(POLL_S)
    seen, out_of_order, last, first_at = 0, 0, 0, 0.0
    transport = httpx.HTTPTransport(uds=socket)
    http = httpx.Client(transport=transport, base_url="http://engine", timeout=DEADLINE_S)
    with http, http.stream("GET", "/events") as stream:
        print("connected", flush=True)
        for line in stream.iter_lines():
            if not line.startswith("data: "):
                continue
            first_at = first_at or time.perf_counter()
            sequence = int(json.loads(line[6:])["sequence"])
            out_of_order += sequence != last + 1
            last, seen = sequence, seen + 1
            if sequence >= total:
                break
    print(json.dumps({"seen": seen, "out_of_order": out_of_order, "seconds": time.perf_counter() - first_at}))


async def measure(rate: int, seconds: float) -> list[Row]:
    """One run: the journal's row, then one for each client."""
    total = int(rate * seconds) // TICKS_PER_S * TICKS_PER_S
    with tempfile.TemporaryDirectory(prefix="rt-") as folder:
        home = Path(folder) / "home"
        config = load_config(home / "config.toml", ["inference.backend=scripted"])
        async with Engine(config, home, work=no_work) as engine, asyncio.TaskGroup() as group:
            group.create_task(serve(engine))
            clients = [await connect(home / "run" / "engine.sock", total) for _ in range(CLIENTS)]
            async with asyncio.timeout(DEADLINE_S):
                took = await produce(engine, total, rate)
                reports = [json.loads((await client.communicate())[0]) for client in clients]
            written = await engine.journal.last_sequence()
            engine.request_shutdown()
    rows = [_row("journal", written, took, rate, lost=total - written)]
    for number, report in enumerate(reports, 1):
        lost, odd = total - report["seen"], report["out_of_order"]
        rows.append(_row(f"client {number}", report["seen"], report["seconds"], rate, lost=lost, out_of_order=odd))
    return rows


async def connect(socket: Path, total: int) -> asyncio.subprocess.Process:
    """Start a client process; returns once it is connected."""
    command = [sys.executable, "-m", "benchmarks.events", "--client", str(socket), "--total", str(total)]
    client = await asyncio.create_subprocess_exec(*command, cwd=ROOT, stdout=asyncio.subprocess.PIPE)
    assert client.stdout is not None
    assert await client.stdout.readline() == b"connected\n", "the client did not connect"
    return client


def _row(who: str, events: int, seconds: float, rate: int, *, lost: int, out_of_order: int = 0) -> Row:
    reached = events / seconds
    ok = lost == 0 and out_of_order == 0 and reached >= rate * SLACK
    return Row(who, events, round(seconds, 2), round(reached), lost, out_of_order, ok)


def main() -> int:
    """Measure, print, and say by the exit status whether nothing was lost and nobody was slower."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.events", description=__doc__)
    parser.add_argument("--rate", type=int, default=5000, help="events a second")
    parser.add_argument("--seconds", type=float, default=6.0)
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument("--client", help=argparse.SUPPRESS)
    parser.add_argument("--total", type=int, default=0, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.client:
        consume(options.client, options.total)
        return 0
    rows = asyncio.run(measure(options.rate, options.seconds))
    if options.json:
        print(json.dumps([asdict(row) for row in rows]))
    else:
        print(f"{'who':<10} {'events':>8} {'seconds':>8} {'a second':>9} {'lost':>5} {'out of order':>13}")
        for row in rows:
            numbers = f"{row.events:>8} {row.seconds:>8.2f} {row.per_second:>9.0f} {row.lost:>5} {row.out_of_order:>13}"
            print(f"{row.who:<10} {numbers}  {'ok' if row.ok else 'FAILS'}")
    return 0 if all(row.ok for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
