"""How long a user waits: `python -m engine` to its first `/ready`, and `rune-tui --help`.

    python -m benchmarks.startup [--runs 7] [--json]

Each run is a fresh process in a fresh home, without a model. Exit status 1 if a median is above its line.
"""

from __future__ import annotations

import argparse
import json
import resource
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil

READY_LINE_S = 1.5
HELP_LINE_S = 0.25
DEADLINE_S = 60.0
POLL_S = 0.002
"""Between two looks: a five-hundredth of the line, and no load to speak of."""

Seconds = tuple[float, float]
"""Wall clock and processor."""

REQUEST = b"GET /ready HTTP/1.1\r\nhost: engine\r\nconnection: close\r\n\r\n"
ROOT = Path(__file__).parents[1]


@dataclass(frozen=True)
class Row:
    """One measured thing."""

    what: str
    runs: int
    median_s: float
    max_s: float
    cpu_s: float
    """Median processor seconds: about the wall clock of an idle machine."""
    line_s: float
    ok: bool


def engine_to_ready() -> Seconds:
    """From spawning an engine to its first 200 on /ready."""
    with tempfile.TemporaryDirectory(prefix="rt-") as folder:
        home = Path(folder) / "home"
        started = time.perf_counter()
        engine = subprocess.Popen([sys.executable, "-m", "engine", "--home", str(home)], cwd=ROOT)
        try:
            while not _ready(home / "run" / "engine.sock"):
                if engine.poll() is not None or time.perf_counter() - started > DEADLINE_S:
                    raise SystemExit("the engine did not become ready")
                time.sleep(POLL_S)
            wall = time.perf_counter() - started
            cpu = psutil.Process(engine.pid).cpu_times()
            return wall, cpu.user + cpu.system
        finally:
            engine.terminate()
            engine.wait(DEADLINE_S)


def _ready(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as connection:
        if connection.connect_ex(str(path)) != 0:
            return False
        connection.sendall(REQUEST)
        return connection.recv(64).startswith(b"HTTP/1.1 200")


def help_of_rune_tui() -> Seconds:
    """Of `rune-tui --help`, the installed script where there is one."""
    script = shutil.which("rune-tui", path=str(Path(sys.executable).parent))
    command = [script] if script else [sys.executable, "-m", "rune_tui"]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    started = time.perf_counter()
    subprocess.run([*command, "--help"], cwd=ROOT, stdout=subprocess.DEVNULL, check=True)
    wall = time.perf_counter() - started
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def measure(what: str, once: Callable[[], Seconds], runs: int, line_s: float) -> Row:
    """Several runs after one that warms the disk cache."""
    once()
    seconds = [once() for _ in range(runs)]
    walls = [wall for wall, _ in seconds]
    median = statistics.median(walls)
    cpu = statistics.median(cpu for _, cpu in seconds)
    return Row(what, runs, round(median, 3), round(max(walls), 3), round(cpu, 3), line_s, median <= line_s)


def main() -> int:
    """Measure, print, and say by the exit status whether both lines hold."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.startup", description=__doc__)
    parser.add_argument("--runs", type=int, default=7)
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    options = parser.parse_args()
    rows = [
        measure("python -m engine -> /ready", engine_to_ready, options.runs, READY_LINE_S),
        measure("rune-tui --help", help_of_rune_tui, options.runs, HELP_LINE_S),
    ]
    if options.json:
        print(json.dumps([asdict(row) for row in rows]))
    else:
        print(f"{'what':<28} {'runs':>4} {'median s':>9} {'max s':>7} {'cpu s':>7} {'line s':>7}")
        for row in rows:
            mark = "ok" if row.ok else "SLOWER"
            times = f"{row.median_s:>9.3f} {row.max_s:>7.3f} {row.cpu_s:>7.3f} {row.line_s:>7.2f}"
            print(f"{row.what:<28} {row.runs:>4} {times}  {mark}")
    return 0 if all(row.ok for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
