"""200 random `kill -9` of a whole engine with its model server and trainer. `python -m benchmarks.kills [--json]`

Exits with 1 when something was lost, doubled or left behind, or took longer than its line. The model server is the
scripted one, and the trainer child learns nothing: what is measured is the machinery, and nothing else has the time.
In `--real N` of the rounds it is the real trainer, on a base model of two layers.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests"))  # the harness is the tests' own

from support.guarded_trees import family  # noqa: E402
from support.kill_rounds import Rounds  # noqa: E402
from support.whole_engine import Place  # noqa: E402

from engine.device.guarded import Command, spawn  # noqa: E402

KILLS = 200
GONE_LINE_S = 5.0
"""P3 of README."""
START_LINE_MS = 40.0
"""Of a guardian, on a machine that is not loaded."""
LOG_LINES = 60
STARTS = 30
TREES = 5


async def guardian_starts(folder: Path) -> float:
    """Median milliseconds from `spawn` to a program that runs under its guardian."""
    times: list[float] = []
    for _ in range(STARTS):
        argv = (sys.executable, "-I", "-S", "-c", "input()")
        started = perf_counter()
        guarded = await spawn(
            Command("server", argv, dict(os.environ), folder / "log", folder / "guardians", 1, 1.0, lock=None)
        )
        times.append(perf_counter() - started)
        await guarded.stop(0)
    return median(times) * 1000


def tree_ends(folder: Path) -> list[float]:
    """Seconds from an engine's SIGKILL until its guardian, child and TERM-ignoring, daemonised grandchild are gone."""
    times: list[float] = []
    for number in range(TREES):
        with family(folder / str(number)) as people:
            people.kill_engine()
            started = perf_counter()
            assert people.gone()
            times.append(perf_counter() - started)
    return times


def measure(kills: int, seed: int, real: int) -> Mapping[str, Any]:
    """All figures. Raises AssertionError when a promise is broken."""
    with tempfile.TemporaryDirectory(prefix="kills-") as name:
        folder = Path(name)
        start_ms = asyncio.run(guardian_starts(folder / "starts"))
        ends = tree_ends(folder / "trees")
        rounds = Rounds(Place(folder / "rounds"), seed)
        try:
            figures = rounds.run(kills, real).summary()
        except AssertionError:
            print("\n".join(_end_of_log(rounds.place.home / "logs" / "engine.log")), file=sys.stderr)
            raise
        finally:
            rounds.place.end_all()
    stubborn = {"median": round(median(ends), 3), "max": round(max(ends), 3)}
    return {"guardian_start_ms": round(start_ms, 1), "stubborn_tree_gone_s": stubborn, "seed": seed, **figures}


def _end_of_log(log: Path) -> list[str]:
    """What explains a broken promise best; the folder goes with the benchmark."""
    return log.read_text(errors="replace").splitlines()[-LOG_LINES:] if log.exists() else []


def main() -> int:
    """Measure, print, judge."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--kills", type=int, default=KILLS)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--real", type=int, default=0, help="rounds with the real trainer")
    options = parser.parse_args()
    figures = measure(options.kills, options.seed, options.real)
    print(json.dumps(figures) if options.json else "\n".join(f"{name}: {value}" for name, value in figures.items()))
    late = figures["kill_to_gone_s"]["max"] > GONE_LINE_S or figures["stubborn_tree_gone_s"]["max"] > GONE_LINE_S
    return 1 if late or figures["guardian_start_ms"] > START_LINE_MS else 0


if __name__ == "__main__":
    sys.exit(main())
