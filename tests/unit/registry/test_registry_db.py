"""registry/db.py: group commit, isolation of failures, cancellation, migrations, snapshots, damage."""

from __future__ import annotations

import asyncio
import contextlib
import random
import re
import threading
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from registry.__main__ import main as restore_command
from registry.clock import SystemClock
from registry.db import Database, IntegrityError, Migrations, Reader, Transaction
from registry.errors import DatabaseClosed, DatabaseDamaged, SchemaTooNew
from registry.snapshots import list_snapshots, restore_snapshot

ROOT = Path(__file__).parents[3]
SCHEMA = "CREATE TABLE item (number INTEGER PRIMARY KEY, body TEXT NOT NULL UNIQUE) STRICT;"
CLOCK = SystemClock()


@pytest.fixture
def schema(tmp_path: Path) -> Migrations:
    directory = tmp_path / "sql"
    directory.mkdir()
    (directory / "0001_item.sql").write_text(SCHEMA)
    return Migrations("test", directory)


@pytest.fixture
async def db(tmp_path: Path, schema: Migrations) -> AsyncIterator[Database]:
    database = await Database.open(tmp_path / "home" / "rune.db", [schema], CLOCK)
    yield database
    await database.close()


def insert(body: str) -> Callable[[Transaction], int]:
    return lambda tx: int(tx.execute("INSERT INTO item (body) VALUES (?)", (body,)).lastrowid or 0)


def bodies(reader: Reader) -> list[str]:
    return [str(row["body"]) for row in reader.execute("SELECT body FROM item ORDER BY number")]


async def kept(path: Path) -> list[Path]:
    return await asyncio.to_thread(list_snapshots, path)


async def test_pragmas_are_those_of_the_promises(db: Database) -> None:
    names = ("journal_mode", "synchronous", "foreign_keys", "trusted_schema", "mmap_size", "busy_timeout")
    values = await db.write(lambda tx: [tx.execute(f"PRAGMA {name}").fetchone()[0] for name in names])
    assert values == ["wal", 2, 1, 0, 0, 10_000]
    assert db.path.stat().st_mode & 0o777 == 0o600


async def test_readers_cannot_write(db: Database) -> None:
    with pytest.raises(Exception, match=r"readonly|query_only"):
        await db.read(lambda reader: reader.execute("INSERT INTO item (body) VALUES ('x')"))
    assert await db.read(bodies) == []


async def test_one_failing_write_of_a_batch_rolls_back_alone(db: Database) -> None:
    """C2's core: the writes share one commit, yet only the failing one is lost."""
    gate = threading.Event()

    def hold(tx: Transaction) -> None:
        gate.wait(10)

    def fail(tx: Transaction) -> None:
        insert("lost")(tx)
        raise RuntimeError("on purpose")

    async with asyncio.TaskGroup() as group:
        group.create_task(db.write(hold))
        good = group.create_task(db.write(insert("kept")))
        bad = group.create_task(expect_runtime_error(db.write(fail)))
        await asyncio.sleep(0)
        gate.set()
    assert good.result() == 1
    assert bad.result() == "on purpose"
    assert await db.read(bodies) == ["kept"]


async def expect_runtime_error(write: object) -> str:
    with pytest.raises(RuntimeError) as caught:
        await write  # type: ignore[misc]  # the awaitable of a write that always raises
    return str(caught.value)


async def test_after_commit_runs_in_commit_order_and_never_for_a_rollback(db: Database) -> None:
    heard: list[str] = []

    def noted(body: str, *, fails: bool) -> Callable[[Transaction], None]:
        def run(tx: Transaction) -> None:
            tx.execute("INSERT INTO item (body) VALUES (?)", (body,))
            tx.after_commit(lambda: heard.append(body))
            if fails:
                raise RuntimeError(body)

        return run

    writes = [db.write(noted(f"{number:03}", fails=number % 7 == 0)) for number in range(200)]
    await asyncio.gather(*writes, return_exceptions=True)
    assert heard == await db.read(bodies)
    assert len(heard) == 200 - 29


async def test_a_constraint_is_the_callers_error(db: Database) -> None:
    await db.write(insert("once"))
    with pytest.raises(IntegrityError):
        await db.write(insert("once"))
    assert await db.read(bodies) == ["once"]


async def test_a_transaction_cannot_be_used_after_its_function(db: Database) -> None:
    kept = await db.write(lambda tx: tx)
    with pytest.raises(AssertionError, match="after its function"):
        kept.execute("SELECT 1")


async def test_c2_hundred_tasks_thousand_transactions_a_fifth_raises(db: Database) -> None:
    """C2: no rolled-back row visible, no committed row missing."""
    dice = random.Random(2)
    plan = [[(f"{task}-{step}", dice.random() < 0.2) for step in range(10)] for task in range(100)]

    def work(body: str, *, fails: bool) -> Callable[[Transaction], None]:
        def run(tx: Transaction) -> None:
            tx.execute("INSERT INTO item (body) VALUES (?)", (body,))
            if fails:
                raise RuntimeError(body)

        return run

    async def task(steps: list[tuple[str, bool]]) -> None:
        for body, fails in steps:
            try:
                await db.write(work(body, fails=fails))
            except RuntimeError:
                assert fails
            else:
                assert not fails
            assert (body in set(await db.read(bodies))) is not fails

    async with asyncio.TaskGroup() as group:
        for steps in plan:
            group.create_task(task(steps))
    expected = {body for steps in plan for body, fails in steps if not fails}
    assert set(await db.read(bodies)) == expected
    assert 700 < len(expected) < 900


async def test_c2_negative_control_a_shared_transaction_loses_rows(db: Database) -> None:
    """The design that C2 forbids: two tasks in one transaction, where one's rollback takes the other's row."""

    def shared(tx: Transaction) -> None:
        insert("innocent")(tx)
        insert("guilty")(tx)
        raise RuntimeError("rolls both back")

    with pytest.raises(RuntimeError):
        await db.write(shared)
    assert "innocent" not in await db.read(bodies)


async def test_c3_a_cancelled_write_is_decided_before_the_caller_hears_of_it(db: Database) -> None:
    """C3, 300 seeds: after the cancellation the row is there or not, and stays so; the connection is usable."""
    outcomes = {"before": 0, "after": 0}
    for seed in range(300):
        dice = random.Random(seed)
        body = f"seed {seed}"
        others = [asyncio.ensure_future(db.write(insert(f"{body} other {n}"))) for n in range(dice.randrange(3))]
        task = asyncio.ensure_future(db.write(insert(body)))
        for _ in range(dice.randrange(6)):
            await asyncio.sleep(0)
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        seen = body in await db.read(bodies)
        await asyncio.gather(*others)
        await db.write(lambda tx: None)
        assert (body in await db.read(bodies)) is seen, f"seed {seed}: decided after the caller was told"
        outcomes["after" if seen else "before"] += 1
    assert outcomes["after"] > 0
    assert outcomes["before"] > 0


async def test_c3_a_started_write_runs_to_its_commit_despite_repeated_cancellation(db: Database) -> None:
    started, gate = threading.Event(), threading.Event()

    def slow(tx: Transaction) -> None:
        started.set()
        gate.wait(10)
        insert("whole")(tx)

    task = asyncio.ensure_future(db.write(slow))
    await asyncio.to_thread(started.wait, 10)
    for _ in range(3):
        task.cancel()
        await asyncio.sleep(0)
        assert not task.done()
    gate.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await db.read(bodies) == ["whole"]


async def test_c3_negative_control_an_unshielded_wait_is_told_too_early(db: Database) -> None:
    """What `write` would be with a plain `await future`: cancelled while its SQL still runs."""
    started, gate = threading.Event(), threading.Event()

    def slow(tx: Transaction) -> None:
        started.set()
        gate.wait(10)
        insert("late")(tx)

    inner = asyncio.ensure_future(db.write(slow))
    outer = asyncio.ensure_future(asyncio.wait_for(asyncio.shield(inner), 30))
    await asyncio.to_thread(started.wait, 10)
    outer.cancel()
    with pytest.raises(asyncio.CancelledError):
        await outer
    assert await db.read(bodies) == []
    gate.set()
    await inner
    assert await db.read(bodies) == ["late"]


async def test_close_commits_what_is_queued_and_refuses_what_comes_later(db: Database) -> None:
    writes = [asyncio.ensure_future(db.write(insert(str(number)))) for number in range(50)]
    await asyncio.sleep(0)
    await db.close()
    await asyncio.gather(*writes)
    with pytest.raises(DatabaseClosed):
        await db.write(insert("late"))
    with pytest.raises(DatabaseClosed):
        await db.read(bodies)
    await db.close()
    assert not db.path.with_name("rune.db-wal").exists()


async def test_a_read_sees_one_snapshot(db: Database) -> None:
    await db.write(insert("first"))
    between, go_on = threading.Event(), threading.Event()

    def twice(reader: Reader) -> tuple[list[str], list[str]]:
        before = bodies(reader)
        between.set()
        go_on.wait(10)
        return before, bodies(reader)

    reading = asyncio.ensure_future(db.read(twice))
    await asyncio.to_thread(between.wait, 10)
    await db.write(insert("second"))
    go_on.set()
    before, after = await reading
    assert before == after == ["first"]
    assert await db.read(bodies) == ["first", "second"]


# --- migrations --------------------------------------------------------------------------------------------------


async def test_migrations_apply_once_and_new_ones_follow_with_a_snapshot(tmp_path: Path, schema: Migrations) -> None:
    path = tmp_path / "rune.db"
    for _ in range(2):
        db = await Database.open(path, [schema], CLOCK)
        await db.close()
    assert await kept(path) == []
    db = await Database.open(path, [schema], CLOCK)
    for _ in range(7):
        await db.snapshot(keep=7)
    await db.close()
    assert isinstance(schema.files, Path)
    (schema.files / "0002_more.sql").write_text("ALTER TABLE item ADD COLUMN extra TEXT;")
    db = await Database.open(path, [schema], CLOCK)
    rows = await db.read(lambda reader: reader.execute("SELECT number FROM schema_migrations").fetchall())
    assert [row[0] for row in rows] == [1, 2]
    assert len(await kept(path)) == 8, "one more, and none of the user's is removed"
    await db.close()


async def test_a_failing_migration_leaves_the_schema_before_it(tmp_path: Path, schema: Migrations) -> None:
    path = tmp_path / "rune.db"
    await (await Database.open(path, [schema], CLOCK)).close()
    assert isinstance(schema.files, Path)
    broken = schema.files / "0002_broken.sql"
    broken.write_text("CREATE TABLE half (x INTEGER) STRICT; INSERT INTO nowhere VALUES (1);")
    with pytest.raises(Exception, match="nowhere"):
        await Database.open(path, [schema], CLOCK)
    broken.unlink()
    db = await Database.open(path, [schema], CLOCK)
    names = await db.read(lambda reader: [row[0] for row in reader.execute("SELECT name FROM sqlite_schema")])
    assert "half" not in names
    await db.close()


async def test_a_newer_or_different_schema_is_refused(tmp_path: Path, schema: Migrations) -> None:
    path = tmp_path / "rune.db"
    assert isinstance(schema.files, Path)
    second = schema.files / "0002_more.sql"
    second.write_text("ALTER TABLE item ADD COLUMN extra TEXT;")
    await (await Database.open(path, [schema], CLOCK)).close()
    second.write_text("ALTER TABLE item ADD COLUMN other TEXT;")
    with pytest.raises(SchemaTooNew, match="not the text"):
        await Database.open(path, [schema], CLOCK)
    second.unlink()
    with pytest.raises(SchemaTooNew, match="newer version"):
        await Database.open(path, [schema], CLOCK)


# --- snapshots and damage ----------------------------------------------------------------------------------------


async def test_snapshots_are_kept_to_their_number_and_restore(tmp_path: Path, schema: Migrations) -> None:
    path = tmp_path / "rune.db"
    db = await Database.open(path, [schema], CLOCK)
    for number in range(4):
        await db.write(insert(f"row {number}"))
        newest = await db.snapshot(keep=2)
    assert (await kept(path))[0] == newest
    assert len(await kept(path)) == 2
    await db.write(insert("after the snapshot"))
    await db.close()
    assert await asyncio.to_thread(restore_snapshot, path, CLOCK) == newest
    db = await Database.open(path, [schema], CLOCK)
    assert await db.read(bodies) == [f"row {number}" for number in range(4)]
    await db.close()
    assert len(list(tmp_path.glob("rune.db.damaged-*"))) >= 1


async def test_a_damaged_snapshot_is_passed_over(tmp_path: Path, schema: Migrations) -> None:
    path = tmp_path / "rune.db"
    db = await Database.open(path, [schema], CLOCK)
    await db.write(insert("good"))
    good = await db.snapshot(keep=5)
    bad = await db.snapshot(keep=5)
    await db.close()
    raw = bytearray(bad.read_bytes())
    raw[len(raw) // 2] ^= 1
    bad.write_bytes(raw)
    assert await asyncio.to_thread(restore_snapshot, path, CLOCK) == good


@pytest.mark.parametrize("damage", ["zeroed header", "garbage", "truncated", "emptied", "missing", "foreign"])
async def test_d5_a_damaged_file_says_so_and_restores(tmp_path: Path, schema: Migrations, damage: str) -> None:
    """D5 (six of its kinds): refused with what to do; the snapshot brings the rows back."""
    path = tmp_path / "rune.db"
    db = await Database.open(path, [schema], CLOCK)
    await asyncio.gather(*(db.write(insert(f"row {number} " + "x" * 500)) for number in range(200)))
    await db.snapshot(keep=3)
    await db.close()
    raw = path.read_bytes()
    match damage:
        case "zeroed header":
            path.write_bytes(bytes(100) + raw[100:])
        case "garbage":
            path.write_bytes(raw[:4096] + random.Random(5).randbytes(len(raw) - 4096))
        case "truncated":
            path.write_bytes(raw[: len(raw) // 2])
        case "emptied":
            path.write_bytes(b"")
        case "missing":
            path.unlink()
        case _:
            path.write_bytes(raw[:68] + b"XXXX" + raw[72:])
    with pytest.raises(DatabaseDamaged, match="snapshot"):
        await Database.open(path, [schema], CLOCK)
    await asyncio.to_thread(restore_snapshot, path, CLOCK)
    db = await Database.open(path, [schema], CLOCK)
    assert len(await db.read(bodies)) == 200
    await db.close()


async def test_a_damaged_file_without_snapshot_says_so(tmp_path: Path, schema: Migrations) -> None:
    path = tmp_path / "rune.db"
    path.write_bytes(b"not a database at all, but long enough to look like one" * 100)
    with pytest.raises(DatabaseDamaged, match="no snapshot"):
        await Database.open(path, [schema], CLOCK)
    with pytest.raises(DatabaseDamaged, match="no whole snapshot"):
        await asyncio.to_thread(restore_snapshot, path, CLOCK)


async def test_the_command_in_the_message_restores(tmp_path: Path, schema: Migrations) -> None:
    path = tmp_path / "rune.db"
    db = await Database.open(path, [schema], CLOCK)
    await db.write(insert("kept"))
    await db.snapshot(keep=3)
    await db.close()
    path.write_bytes(b"broken")
    with pytest.raises(DatabaseDamaged, match=re.escape(f"python -m registry restore {path}")):
        await Database.open(path, [schema], CLOCK)
    assert await asyncio.to_thread(restore_command, ["restore", str(path)]) == 0
    db = await Database.open(path, [schema], CLOCK)
    assert await db.read(bodies) == ["kept"]
    await db.close()
    assert await asyncio.to_thread(restore_command, ["restore", str(tmp_path / "none.db")]) == 3


# --- lint --------------------------------------------------------------------------------------------------------

_BARE_BEGIN = re.compile(r"[\"'(]\s*BEGIN(?!\s+IMMEDIATE)\b", re.IGNORECASE)
_SQLITE = re.compile(r"^\s*(?:import|from)\s+sqlite3\b", re.MULTILINE)


def breaches(source: str, *, is_database_module: bool) -> list[str]:
    found = ["BEGIN without IMMEDIATE"] if _BARE_BEGIN.search(source) else []
    return found + (["imports sqlite3"] if _SQLITE.search(source) and not is_database_module else [])


def test_c1_lint_only_the_database_module_opens_sqlite_and_no_begin_is_deferred() -> None:
    files = [path for package in ("rune_tui", "engine", "registry") for path in (ROOT / package).rglob("*.py")]
    assert len(files) > 10
    database = ROOT / "registry" / "db.py"
    found = {str(p.relative_to(ROOT)): breaches(p.read_text(), is_database_module=p == database) for p in files}
    assert {name: what for name, what in found.items() if what} == {}


def test_c1_lint_negative_control() -> None:
    assert breaches('c.execute("BEGIN")', is_database_module=True) == ["BEGIN without IMMEDIATE"]
    assert breaches('c.execute("begin deferred")', is_database_module=True) == ["BEGIN without IMMEDIATE"]
    assert breaches("import sqlite3", is_database_module=False) == ["imports sqlite3"]
    assert breaches('c.execute("BEGIN IMMEDIATE")', is_database_module=True) == []
