"""The registry under kill, cancellation, other processes, bit rot: C1, C3, D2, D3, D6."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
import subprocess
import sys
import textwrap
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import pytest
from support.registry_house import House, flip_bit, open_house

from registry import queries
from registry.blobs import SystemDisk
from registry.clock import SystemClock
from registry.crash import POINTS
from registry.db import Database, Migrations, Reader, Transaction
from registry.errors import AdapterAlreadyExists, AdapterQuarantined, TransitionRefused
from registry.journal import MemoryRecorder
from registry.models import NewAdapter, Source, Tier
from registry.registry import MIGRATIONS, AdapterLimits, Registry
from registry.samples import safetensors_bytes, sample_config, sample_tensors

ROOT = Path(__file__).parents[2]


def child(program: str, *arguments: str, crash_at: str = "") -> subprocess.Popen[str]:
    """Python with this checkout on its path."""
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}"}
    if crash_at:
        environment["RUNE_CRASH_AT"] = crash_at
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(program), *arguments],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


# --- C1 ----------------------------------------------------------------------------------------------------------

COUNTING = """
    import asyncio, sys
    from pathlib import Path
    from registry.clock import SystemClock
    from registry.db import Database, Migrations

    path, sql, times = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])

    def increment(tx):
        value = tx.execute("SELECT value FROM counter").fetchone()[0]
        tx.execute("UPDATE counter SET value = ?", (value + 1,))

    async def main():
        db = await Database.open(path, [Migrations("test", sql)], SystemClock())
        async with asyncio.TaskGroup() as group:
            for _ in range(times):
                group.create_task(db.write(increment))
        await db.close()

    asyncio.run(main())
"""

NAIVE = """
    import sqlite3, sys
    connection = sqlite3.connect(sys.argv[1], isolation_level=None, timeout=10)
    for _ in range(int(sys.argv[3])):
        connection.execute("BEGIN DEFERRED")
        value = connection.execute("SELECT value FROM counter").fetchone()[0]
        connection.execute("UPDATE counter SET value = ?", (value + 1,))
        connection.execute("COMMIT")
"""


async def open_counter(root: Path) -> Database:
    sql = root / "sql"
    sql.mkdir()
    (sql / "0001_counter.sql").write_text(
        "CREATE TABLE counter (value INTEGER NOT NULL) STRICT; INSERT INTO counter VALUES (0);"
    )
    return await Database.open(root / "rune.db", [Migrations("test", sql)], SystemClock())


async def run_counters(root: Path, program: str, times: int) -> list[tuple[int, str]]:
    children = [child(program, str(root / "rune.db"), str(root / "sql"), str(times)) for _ in range(4)]
    outputs = [await asyncio.to_thread(one.communicate, timeout=150) for one in children]
    return [(one.returncode, output) for one, (output, _) in zip(children, outputs, strict=True)]


async def test_c1_four_processes_increment_2000_times_without_a_lock_error(tmp_path: Path) -> None:
    db = await open_counter(tmp_path)
    try:
        results = await run_counters(tmp_path, COUNTING, 500)
        assert results == [(0, "")] * 4
        assert await db.read(lambda reader: reader.execute("SELECT value FROM counter").fetchone()[0]) == 2000
    finally:
        await db.close()


async def test_c1_negative_control_deferred_transactions_are_locked_out(tmp_path: Path) -> None:
    db = await open_counter(tmp_path)
    try:
        results = await run_counters(tmp_path, NAIVE, 600)
        assert any("database is locked" in output for _, output in results)
    finally:
        await db.close()


# --- C3 ----------------------------------------------------------------------------------------------------------


async def test_c3_publish_and_changes_cancelled_at_any_await_are_before_or_after(tmp_path: Path) -> None:
    """C3, 300 seeds over publish, promote, demote, update_fitness, archive, restore, verify: never between."""
    outcomes: Counter[bool] = Counter()
    async with open_house(tmp_path) as house:
        for seed in range(20):
            await house.publish(f"pool-{seed}", seed=seed)
        for seed in range(300):
            dice = random.Random(seed)
            name = f"new-{seed}" if seed % 3 == 0 else f"pool-{seed % 20}"
            before = await state_of(house, name)
            task = asyncio.ensure_future(change(house, seed, name))
            await turns(dice.randrange(12), dice)
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError, TransitionRefused):
                await task
            now = await state_of(house, name)
            await house.db.write(lambda tx: None)
            assert await state_of(house, name) == now, f"seed {seed}: changed after the caller was told"
            assert is_whole(now), f"seed {seed}: {now}"
            assert len(now.actions) - len(before.actions) in (0, 1), f"seed {seed}"
            outcomes[now == before] += 1
        assert not [path for path in (tmp_path / "adapters").iterdir() if path.name.startswith(".tmp-")]
    assert outcomes[True] > 10
    assert outcomes[False] > 10


async def turns(count: int, dice: random.Random) -> None:
    """Let the loop turn a few times; now and then wait for a thread, to reach the later awaits."""
    for _ in range(count):
        await (asyncio.to_thread(os.getpid) if dice.random() < 0.7 else asyncio.sleep(0))


async def change(house: House, seed: int, name: str) -> None:
    registry = house.registry
    if name.startswith("new-"):
        await house.publish(name, seed=seed % 20, parent_ids=("pool-0",))
        return
    adapter = await registry.get(name)
    match seed % 4:
        case 0:
            await (registry.promote(name) if adapter.tier is Tier.TASK else registry.demote(name))
        case 1:
            await registry.update_fitness(name, 0.5)
        case 2:
            await (registry.restore(name) if adapter.is_archived else registry.archive(name))
        case _:
            await registry.verify(name)


@dataclass(frozen=True)
class State:
    """What the transactions on one adapter change together: its row, its histories, its events."""

    row: tuple[object, ...] | None
    evaluations: int
    moves: int
    actions: tuple[str, ...]


async def state_of(house: House, name: str) -> State:
    def row(reader: Reader) -> tuple[object, ...] | None:
        found = queries.find(reader, name)
        return None if found is None else (found.tier, found.fitness_score, found.is_archived, found.parent_ids)

    evaluations = len(await house.registry.get_evaluations(name))
    moves = len(await house.registry.get_promotions(name))
    return State(await house.db.read(row), evaluations, moves, tuple(house.actions(f"adapter/{name}")))


def is_whole(state: State) -> bool:
    """Whether row, histories and events tell the same story."""
    count = Counter(state.actions)
    if state.row is None:
        return not state.actions
    tier, fitness, archived, _ = state.row
    return (
        count["published"] == 1
        and state.evaluations == count["evaluated"]
        and (fitness is not None) == (state.evaluations > 0)
        and state.moves == count["promoted"] + count["demoted"]
        and (tier is not Tier.TASK) == (count["promoted"] > count["demoted"])
        and archived == (count["archived"] > count["restored"])
    )


async def test_c3_negative_control_a_change_in_two_transactions_is_caught(tmp_path: Path) -> None:
    """A promotion that is cut between its row and its history and event is not whole."""
    async with open_house(tmp_path) as house:
        await house.publish("one")
        assert is_whole(await state_of(house, "one"))
        await house.db.write(lambda tx: tx.execute("UPDATE adapters SET tier = 'domain'").rowcount)
        assert not is_whole(await state_of(house, "one"))


# --- D2 ----------------------------------------------------------------------------------------------------------

PUBLISHING = """
    import asyncio, sys
    from pathlib import Path
    from support.registry_house import open_house

    async def main():
        async with open_house(Path(sys.argv[1])) as house:
            await house.registry.recover()
            for seed in range(4):
                await house.publish(f"a{seed}", seed=seed)
                print("done", seed, flush=True)

    asyncio.run(main())
"""

REGISTRY_POINTS = sorted(point for point in POINTS if point.startswith(("publish.", "transaction.")))


def test_d2_every_registry_point_is_driven() -> None:
    assert len(REGISTRY_POINTS) == 9


@pytest.mark.parametrize("hit", [1, 2, 3])
@pytest.mark.parametrize("point", REGISTRY_POINTS)
async def test_d2_a_kill_at_each_point_leaves_before_or_after(tmp_path: Path, point: str, hit: int) -> None:
    """D2: what was reported done is there and whole; nothing listed lacks its files; publishing again heals."""
    process = child(PUBLISHING, str(tmp_path), crash_at=f"{point}:{hit}")
    output, _ = await asyncio.to_thread(process.communicate, timeout=150)
    assert process.returncode == -signal.SIGKILL, output
    done = [int(line.split()[1]) for line in output.splitlines() if line.startswith("done")]
    async with open_house(tmp_path) as house:
        await house.registry.recover()
        listed = {adapter.id for adapter in (await house.registry.list_all()).items}
        assert {f"a{seed}" for seed in done} <= listed
        assert len(listed) <= len(done) + 1
        for name in listed:
            assert await house.registry.verify(name)
        for seed in range(4):
            with contextlib.suppress(AdapterAlreadyExists):
                await house.publish(f"a{seed}", seed=seed)
            assert await house.registry.verify(f"a{seed}")
        assert len(house.files()) == 8


async def test_d2_negative_control_a_row_that_came_before_its_files_is_found(tmp_path: Path) -> None:
    """What a naive publish, killed between its row and its files, leaves behind: the check of D2 must see it."""
    async with open_house(tmp_path) as house:
        adapter = await house.publish("whole")
        torn = "0" * 64

        def row_without_files(tx: Transaction) -> None:
            tx.execute("CREATE TEMP TABLE torn AS SELECT * FROM adapters WHERE id = 'whole'")
            tx.execute("UPDATE torn SET id = 'torn', digest = ?", (torn,))
            tx.execute("INSERT INTO adapters SELECT * FROM torn")

        await house.db.write(row_without_files)
        assert await house.registry.verify(adapter.id)
        assert not await house.registry.verify("torn")


# --- D3 ----------------------------------------------------------------------------------------------------------


class RecordingDisk(SystemDisk):
    """The real disk, which also notes what was done and in which order."""

    def __init__(self) -> None:
        self.log: list[tuple[str, str]] = []

    def write(self, descriptor: int, data: bytes) -> None:
        super().write(descriptor, data)
        self.log.append(("write", os.readlink(f"/proc/self/fd/{descriptor}")))

    def fsync(self, descriptor: int) -> None:
        super().fsync(descriptor)
        self.log.append(("fsync", os.readlink(f"/proc/self/fd/{descriptor}")))

    def rename(self, source: Path, target: Path) -> None:
        super().rename(source, target)
        self.log.append(("rename", str(target)))

    def fsync_directory(self, directory: Path) -> None:
        super().fsync_directory(directory)
        self.log.append(("fsync_directory", str(directory)))


class CommitRecorder(MemoryRecorder):
    def __init__(self, log: list[tuple[str, str]]) -> None:
        super().__init__()
        self._log = log

    def record(self, tx: Transaction, **event: object) -> None:  # type: ignore[override]  # the test needs no fields
        self._log.append(("transaction", str(event["subject"])))
        tx.after_commit(lambda: self._log.append(("COMMIT", str(event["subject"]))))


def is_durable_order(log: list[tuple[str, str]], root: Path) -> bool:
    """write < fsync of the same file < rename < fsync of the root < transaction < COMMIT, of each event."""
    kinds = [kind for kind, _ in log]
    told = kinds.count("transaction")
    if kinds.count("rename") != 1 or not told or kinds[-2 * told :] != ["transaction"] * told + ["COMMIT"] * told:
        return False
    rename = kinds.index("rename")
    written = {path for kind, path in log if kind == "write"}
    for path in written:
        last_write = max(place for place, step in enumerate(log) if step == ("write", path))
        if ("fsync", path) not in log or not last_write < log.index(("fsync", path)) < rename:
            return False
    inner = [place for place, (kind, path) in enumerate(log) if kind == "fsync_directory" and path != str(root)]
    outer = log.index(("fsync_directory", str(root))) if ("fsync_directory", str(root)) in log else -1
    return len(written) == 2 and len(inner) == 1 and inner[0] < rename < outer < kinds.index("transaction")


async def test_d3_fifty_publishes_keep_the_order_of_effects(tmp_path: Path) -> None:
    disk = RecordingDisk()
    clock = SystemClock()
    async with open_house(tmp_path) as house:
        registry = Registry(
            house.db, tmp_path / "adapters", AdapterLimits(512 << 20, 256), clock, CommitRecorder(disk.log), disk
        )
        for seed in range(50):
            directory = await house.sample(seed)
            disk.log.clear()
            await registry.publish(directory, NewAdapter(id=f"a{seed}", task_type="sort", source=Source.QLORA))
            assert is_durable_order(disk.log, tmp_path / "adapters"), disk.log


def test_d3_negative_control_every_swapped_or_missing_step_is_caught() -> None:
    root = Path("/r")
    good = [
        ("write", "/r/t/w"),
        ("fsync", "/r/t/w"),
        ("write", "/r/t/c"),
        ("fsync", "/r/t/c"),
        ("fsync_directory", "/r/t"),
        ("rename", "/r/d"),
        ("fsync_directory", "/r"),
        ("transaction", "adapter/a"),
        ("COMMIT", "adapter/a"),
    ]
    assert is_durable_order(good, root)
    for place in range(len(good)):
        assert not is_durable_order(good[:place] + good[place + 1 :], root), f"without {good[place]}"
    for one, other in ((0, 1), (2, 3), (3, 5), (4, 5), (5, 6), (6, 7), (7, 8)):
        swapped = list(good)
        swapped[one], swapped[other] = swapped[other], swapped[one]
        assert not is_durable_order(swapped, root), f"with {good[one]} and {good[other]} swapped"


# --- D6 ----------------------------------------------------------------------------------------------------------


async def test_d6_one_flipped_bit_in_each_of_100_adapters_is_found_and_healed(tmp_path: Path) -> None:
    """D6: 100 of 100 found by verify and refused at load; lineage intact; publishing again heals."""
    dice = random.Random(6)
    async with open_house(tmp_path) as house:
        for seed in range(100):
            parents = (f"a{seed - 1}",) if seed else ()
            await house.publish(f"a{seed}", seed=seed, parent_ids=parents)
        for seed in range(100):
            adapter = await house.registry.get(f"a{seed}")
            name = dice.choice(["adapter_model.safetensors", "adapter_config.json"])
            path = tmp_path / "adapters" / adapter.digest / name
            flip_bit(path, dice.randrange(path.stat().st_size))
        found = [seed for seed in range(50) if not await house.registry.verify(f"a{seed}")]
        assert found == list(range(50))
        for seed in range(100):
            with pytest.raises(AdapterQuarantined):
                await house.registry.resolve_for_load(f"a{seed}")
        assert not [seed for seed in range(100) if await house.registry.verify(f"a{seed}")]
        assert len(await house.registry.get_lineage("a99")) == 100
        for seed in range(100):
            await house.publish(f"a{seed}", seed=seed)
            await house.registry.resolve_for_load(f"a{seed}")
        assert len(house.files()) == 200


async def test_d6_negative_control_sqlites_own_check_does_not_notice(tmp_path: Path) -> None:
    """A flipped bit in a file is invisible to the database: only the digest of the row finds it."""
    async with open_house(tmp_path) as house:
        adapter = await house.publish("one")
        flip_bit(tmp_path / "adapters" / adapter.digest / "adapter_model.safetensors")
    async with open_house(tmp_path) as house:
        assert not (await house.registry.get("one")).is_quarantined
        assert not await house.registry.verify("one")


def test_samples_are_different_for_each_seed_and_equal_for_the_same() -> None:
    assert safetensors_bytes(sample_tensors(1)) == safetensors_bytes(sample_tensors(1))
    assert safetensors_bytes(sample_tensors(1)) != safetensors_bytes(sample_tensors(2))
    assert sample_config()["r"] == 4
    assert MIGRATIONS.name == "registry"
