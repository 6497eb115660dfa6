"""How long a sandboxed run takes when the program does nothing: start, run, confirmed end, clean-up (S8).

`python -m benchmarks.sandbox [--json] [--runs 200]` prints a table of milliseconds. Exit 1 when the p95 at the level
that this machine reaches is above the line, one at a time; the row "4 at a time" shows what load does to it, and
counts as well where there are at least four processors.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import os
import subprocess
import sys
import time
from dataclasses import dataclass, replace

from engine.config import load_config
from engine.sandbox.plan import base_interpreter
from engine.sandbox.probe import SandboxReport, probe
from engine.sandbox.run import Sandbox
from engine.sandbox.types import Level, Program

LINE_MS = 150.0
RUNS = 200
SETTINGS = load_config(overrides=["sandbox.min_level=none"]).sandbox
PROGRAM = Program(files={"empty.py": ""}, argv=("empty.py",))


@dataclass(frozen=True)
class Row:
    """One line of the table; milliseconds."""

    level: str
    at_a_time: int
    runs: int
    p50: float
    p95: float
    worst: float


def summarize(level: str, at_a_time: int, seconds: list[float]) -> Row:
    ranked = sorted(second * 1000 for second in seconds)
    p50, p95 = (ranked[math.ceil(share * len(ranked)) - 1] for share in (0.5, 0.95))
    return Row(level, at_a_time, len(ranked), p50, p95, ranked[-1])


def plain(runs: int) -> Row:
    """The floor: the same interpreter without any sandbox."""
    seconds: list[float] = []
    for _ in range(runs):
        start = time.perf_counter()
        subprocess.run([base_interpreter().executable, "-I", "-S", "-c", ""], check=True)
        seconds.append(time.perf_counter() - start)
    return summarize("no sandbox", 1, seconds)


async def sandboxed(report: SandboxReport, level: Level, at_a_time: int, runs: int) -> Row:
    sandbox = Sandbox(SETTINGS, replace(report, level=level))
    gate = asyncio.Semaphore(at_a_time)

    async def one() -> float:
        async with gate:
            start = time.perf_counter()
            result = await sandbox.run(PROGRAM)
            assert result.exit_code == 0, result.stderr
            return time.perf_counter() - start

    await one()
    return summarize(level, at_a_time, list(await asyncio.gather(*(one() for _ in range(runs)))))


def levels(report: SandboxReport) -> list[Level]:
    found = [report.level]
    if report.level is Level.STRICT and report.landlock_abi >= 4:
        found.append(Level.LANDLOCK)
    return found


def misses(rows: list[Row], level: Level) -> list[Row]:
    """Rows above the line that count."""
    counted = (1, 4) if (os.cpu_count() or 1) >= 4 else (1,)
    return [row for row in rows if row.level == level and row.at_a_time in counted and row.p95 > LINE_MS]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--runs", type=int, default=RUNS)
    options = parser.parse_args()
    report = probe(SETTINGS)
    rows = [plain(options.runs)]
    for level in levels(report):
        rows += [asyncio.run(sandboxed(report, level, at_a_time, options.runs)) for at_a_time in (1, 4)]
    missed = misses(rows, report.level)
    if options.json:
        print(json.dumps({"line_ms": LINE_MS, "passed": not missed, "rows": [vars(row) for row in rows]}))
    else:
        print(f"{'level':12}{'at a time':>10}{'runs':>6}{'p50 ms':>9}{'p95 ms':>9}{'worst ms':>10}")
        for row in rows:
            print(f"{row.level:12}{row.at_a_time:>10}{row.runs:>6}{row.p50:>9.0f}{row.p95:>9.0f}{row.worst:>10.0f}")
        print(f"p95 line: {LINE_MS:.0f} ms: {'missed' if missed else 'held'}")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
