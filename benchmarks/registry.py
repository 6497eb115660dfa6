"""How fast the registry answers with 100,000 adapters. `python -m benchmarks.registry [--json] [--adapters N]`

Exits with 1 when a figure is above its line. Every time is one call of the public API, from the event loop's side.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

from registry.clock import SystemClock
from registry.db import SQLITE_VERSION, Database, Transaction
from registry.journal import MemoryRecorder
from registry.models import Source, Tier
from registry.queries import AdapterQuery, Sort
from registry.registry import MIGRATIONS, AdapterLimits, Registry

LINE_MS = 10.0
"""A page must be there within one frame of the screen, with room for drawing it."""
ROUNDS = 200
WRITES = 10_000
WRITES_LINE_MS = 2000.0
"""5,000 durable writes a second."""
LINEAGE_DEPTH = 100
SEED = 20260726
TASK_TYPES = tuple(f"task-{number:02}" for number in range(40))


@dataclass(frozen=True)
class Figure:
    """What one question cost; `line_ms` None means that it is only shown."""

    name: str
    p50_ms: float
    p95_ms: float
    line_ms: float | None

    @property
    def holds(self) -> bool:
        return self.line_ms is None or self.p95_ms <= self.line_ms


def fill(tx: Transaction, adapters: int) -> None:
    """Rows as an evolution leaves them: many task types, a third unscored, a tenth archived, chains of parents."""
    dice = random.Random(SEED)
    sources, tiers = list(Source), [Tier.TASK] * 90 + [Tier.DOMAIN] * 9 + [Tier.PROJECT]
    tx.executemany(
        "INSERT INTO adapters (id, version, task_type, base_model_id, rank, alpha, target_modules, created_at, digest, "
        "file_hash, file_size_bytes, fitness_score, tier, source, is_archived, generation, verified_at) "
        "VALUES (?, 1, ?, 'samples/tiny', 8, 16.0, '[\"q_proj\"]', ?, ?, ?, 1, ?, ?, ?, ?, ?, '')",
        (
            (
                f"adapter-{number:06}",
                dice.choice(TASK_TYPES),
                f"2026-01-01T{number // 3600 % 24:02}:{number // 60 % 60:02}:{number % 60:02}.{number:06}+00:00",
                f"{number:064x}",
                f"{number:064x}",
                None if dice.random() < 0.33 else dice.random(),
                dice.choice(tiers),
                dice.choice(sources),
                int(dice.random() < 0.1),
                number % (LINEAGE_DEPTH + 1),
            )
            for number in range(adapters)
        ),
    )
    tx.executemany(
        "INSERT INTO adapter_parents (child_id, position, parent_id) VALUES (?, 0, ?)",
        (
            (f"adapter-{number:06}", f"adapter-{number - 1:06}")
            for number in range(adapters)
            if number % (LINEAGE_DEPTH + 1)
        ),
    )


async def measure(name: str, ask: Callable[[int], Awaitable[object]], line_ms: float | None = LINE_MS) -> Figure:
    """Ask `ROUNDS` times, one after the other, each with its own number."""
    times: list[float] = []
    for number in range(ROUNDS):
        begin = time.perf_counter()
        await ask(number)
        times.append((time.perf_counter() - begin) * 1000)
    times.sort()
    return Figure(name, times[len(times) // 2], times[int(len(times) * 0.95)], line_ms)


def pages(registry: Registry) -> dict[str, Callable[[int], Awaitable[object]]]:
    """The filtered, sorted pages that a screen asks for."""

    def page(**fields: object) -> Callable[[int], Awaitable[object]]:
        return lambda number: registry.list_all(AdapterQuery(**fields))  # type: ignore[arg-type]  # fields of the query

    return {
        "page: newest": page(),
        "page: fittest": page(sort=Sort.FITNESS),
        "page: one tier, fittest": page(tier=Tier.PROJECT, sort=Sort.FITNESS),
        "page: one source, by id": page(source=Source.QLORA, sort=Sort.ID, descending=False),
        "page: archived, newest": page(archived=True),
        "page: one task type, fittest": lambda number: registry.list_all(
            AdapterQuery(task_type=TASK_TYPES[number % len(TASK_TYPES)], sort=Sort.FITNESS)
        ),
        "page: task type, tier, source": lambda number: registry.list_all(
            AdapterQuery(task_type=TASK_TYPES[number % len(TASK_TYPES)], tier=Tier.DOMAIN, source=Source.EVOLUTION)
        ),
        "best 3 of a task type": lambda number: registry.query_best_for_task(TASK_TYPES[number % len(TASK_TYPES)]),
    }


async def page_in_the_middle(registry: Registry, adapters: int) -> Callable[[int], Awaitable[object]]:
    """A page far down the list: keyset paging costs there what it costs at the top."""
    query = AdapterQuery(sort=Sort.FITNESS, limit=500)
    for _ in range(min(60, adapters // 1000)):
        query = AdapterQuery(sort=Sort.FITNESS, limit=500, after=(await registry.list_all(query)).next)
    return lambda number: registry.list_all(AdapterQuery(sort=Sort.FITNESS, after=query.after))


async def run(adapters: int) -> list[Figure]:
    """Fill a registry in a temporary directory and measure it."""
    with tempfile.TemporaryDirectory(prefix="rune-benchmark-") as directory:
        db = await Database.open(Path(directory) / "rune.db", [MIGRATIONS], SystemClock())
        try:
            registry = Registry(
                db, Path(directory) / "adapters", AdapterLimits(512 << 20, 256), SystemClock(), MemoryRecorder()
            )
            await db.write(lambda tx: fill(tx, adapters))
            figures = [await measure(name, ask) for name, ask in pages(registry).items()]
            middle = await page_in_the_middle(registry, adapters)
            figures.append(await measure("page: fittest, far down", middle))
            figures.append(await measure("search: part of an id", _search(registry, adapters), None))
            deep = f"adapter-{LINEAGE_DEPTH:06}"
            figures.append(await measure(f"lineage of depth {LINEAGE_DEPTH}", lambda _: registry.get_lineage(deep)))
            figures.append(await measure("lineage as a graph", lambda _: registry.get_lineage_dag(deep)))
            figures.append(await measure("one adapter by id", lambda _: registry.get(deep)))
            figures.append(await queued_writes(db))
        finally:
            await db.close()
    return figures


async def queued_writes(db: Database) -> Figure:
    """Many small durable writes at once, as a burst of events is: they share commits."""
    await db.write(lambda tx: tx.execute("CREATE TABLE burst (body TEXT NOT NULL) STRICT").rowcount)
    begin = time.perf_counter()
    async with asyncio.TaskGroup() as group:
        for _ in range(WRITES):
            group.create_task(db.write(lambda tx: tx.execute("INSERT INTO burst VALUES (?)", ("x" * 300,)).rowcount))
    total = (time.perf_counter() - begin) * 1000
    return Figure(f"{WRITES} queued writes, together", total, total, WRITES_LINE_MS)


def _search(registry: Registry, adapters: int) -> Callable[[int], Awaitable[object]]:
    return lambda number: registry.list_all(AdapterQuery(search=f"-{number * 7 % adapters:06}"))


def main() -> int:
    """Measure, print, and say by the exit status whether every line holds."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument("--adapters", type=int, default=100_000)
    arguments = parser.parse_args()
    figures = asyncio.run(run(arguments.adapters))
    if arguments.json:
        facts = [{"name": f.name, "p50_ms": f.p50_ms, "p95_ms": f.p95_ms, "line_ms": f.line_ms} for f in figures]
        print(json.dumps({"adapters": arguments.adapters, "sqlite": SQLITE_VERSION, "figures": facts}, indent=2))
    else:
        print(f"{arguments.adapters} adapters, SQLite {SQLITE_VERSION}, {ROUNDS} calls each, milliseconds")
        print(f"{'':32}{'p50':>8}{'p95':>8}{'line':>8}")
        for figure in figures:
            line = "" if figure.line_ms is None else f"{figure.line_ms:.0f}"
            mark = "" if figure.holds else "  ABOVE"
            print(f"{figure.name:32}{figure.p50_ms:8.2f}{figure.p95_ms:8.2f}{line:>8}{mark}")
    return 0 if all(figure.holds for figure in figures) else 1


if __name__ == "__main__":
    sys.exit(main())
