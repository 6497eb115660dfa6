"""The only module that opens SQLite: one writer thread, read-only readers, group commit.

One file holds all (adapters, sessions, jobs, events), so that "job done and adapter published" is one transaction.

    caller ── write(fn) ──► queue ──► writer thread: BEGIN IMMEDIATE
                                        SAVEPOINT, fn(tx), RELEASE      one per queued write; a failing one
                                        ... up to MAX_BATCH ...         rolls back alone
                                      COMMIT (fsync) ──► event loop: after_commit callbacks, then the callers wake
    caller ── read(fn) ───► thread pool of `mode=ro` connections, each read in one snapshot

Why so: transactions belong to connections, not to tasks, so a connection shared by tasks lets one task roll back
another's rows; cancelling a task does not stop its SQL; and a deferred transaction that turns into a write fails
with "database is locked" at once, whatever the busy timeout. Here a write is one function in one thread: it runs
to its commit or it never starts, and a cancelled caller learns of its cancellation only after that is decided.

SQLite before 3.51.3 can damage a WAL file when two connections write or checkpoint at the same instant. Readers
never do either; one process has one writer; and the engine's lock makes that the only process in normal use.
"""

from __future__ import annotations

import asyncio
import os
import queue
import sqlite3
import threading
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar, cast
from urllib.parse import quote

from registry import migrate, snapshots
from registry.clock import Clock
from registry.crash import crash_point
from registry.errors import DatabaseBusy, DatabaseClosed, DatabaseDamaged, DatabaseError, DatabaseUnwritable
from registry.files import run_to_end
from registry.migrate import Migrations

__all__ = ["SQLITE_VERSION", "Connection", "Database", "IntegrityError", "Migrations", "Reader", "Row", "Transaction"]

Connection = sqlite3.Connection
Row = sqlite3.Row
IntegrityError = sqlite3.IntegrityError
"""A write broke a constraint of the schema; `Database.write` passes it on as it is."""

APPLICATION_ID = 0x52554E45
"""'RUNE': `file rune.db` names it, and a foreign SQLite file is refused instead of migrated."""
BUSY_TIMEOUT_MS = 10_000
"""How long another process's write is waited for; none of ours takes a hundredth of it."""
MAX_BATCH = 256
"""Writes that share one commit: 5,000 a second at 20 fsyncs a second, and still a short batch."""
MAX_QUEUED = 10_000
"""Writes waiting; one more waits in its caller, so a flood slows its source down instead of filling the memory."""
READERS = 4
"""Read-only connections; more would only wait for the same two or four cores."""
PRAGMAS = ("foreign_keys = ON", "trusted_schema = OFF", "mmap_size = 0", "synchronous = FULL", "cache_size = -8000")
"""Of every connection: whole references, no functions of a hostile schema, no stray pointers, no lost commit, 8 MB."""
WAL_LIMIT_BYTES = 64 << 20
"""The WAL file is cut back to this after a checkpoint."""

SQLITE_VERSION = sqlite3.sqlite_version
"""Version of the SQLite library in use, for `doctor`: below 3.51.3 it has the WAL-reset bug."""

T = TypeVar("T")
Parameters = Sequence[object] | Mapping[str, object]


class Reader:
    """One consistent view of the database for the length of a `Database.read`."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def execute(self, sql: str, parameters: Parameters = ()) -> sqlite3.Cursor:
        """Run one statement. The cursor's rows are `Row` and must be fetched before the function returns."""
        return self._connection.execute(sql, cast("Sequence[str]", parameters))


class Transaction(Reader):
    """What a function given to `Database.write` works with."""

    def __init__(self, connection: Connection) -> None:
        super().__init__(connection)
        self._callbacks, self._open = list[Callable[[], None]](), True

    def execute(self, sql: str, parameters: Parameters = ()) -> sqlite3.Cursor:
        """Run one statement."""
        assert self._open, "a transaction was used after its function returned"
        return super().execute(sql, parameters)

    def executemany(self, sql: str, rows: Iterable[Sequence[object]]) -> sqlite3.Cursor:
        """Run one statement once for each row."""
        assert self._open, "a transaction was used after its function returned"
        return self._connection.executemany(sql, cast("Iterable[Sequence[str]]", rows))

    def after_commit(self, callback: Callable[[], None]) -> None:
        """Call this on the event loop's thread once the commit is on disk, in commit order; never on rollback."""
        self._callbacks.append(callback)

    def finish(self) -> list[Callable[[], None]]:
        """End the use of this object; gives what is to be called after the commit."""
        self._open = False
        return self._callbacks


@dataclass(slots=True, eq=False)
class _Queued:
    """A write on its way. `decided` is set on the event loop once the commit or the rollback is a fact."""

    run: Callable[[Transaction], object]
    decided: asyncio.Future[None]
    abandoned: bool = False
    """Its caller was cancelled; if it has not started yet, it never will."""
    result: object = None
    error: BaseException | None = None
    callbacks: list[Callable[[], None]] = field(default_factory=list[Callable[[], None]])


class _Writer(threading.Thread):
    """Owns the only connection that writes. A daemon thread: a database left open never keeps the process alive."""

    def __init__(self, connection: Connection, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(name="database-writer", daemon=True)
        self._connection = connection
        self._loop = loop
        self.queue: queue.SimpleQueue[_Queued | None] = queue.SimpleQueue()

    def run(self) -> None:
        running = True
        while running:
            batch, running = self._take()
            while batch:
                done = self._commit(batch)
                self._deliver(batch[:done])
                batch = batch[done:]
        self._connection.close()

    def _take(self) -> tuple[list[_Queued], bool]:
        batch: list[_Queued] = []
        first = self.queue.get()
        while first is not None:
            batch.append(first)
            if len(batch) == MAX_BATCH or self.queue.empty():
                return batch, True
            first = self.queue.get()
        return batch, False

    def _commit(self, batch: Sequence[_Queued]) -> int:
        """Run these writes in one transaction; gives how many of them are decided, which is at least one."""
        ran: list[_Queued] = []
        try:
            self._connection.execute("BEGIN IMMEDIATE")
            for write in batch:
                ran.append(write)
                self._run_one(write)
                if not self._connection.in_transaction:
                    # SQLite gave up the whole transaction (disk full, I/O error): with it went what ran before.
                    raise write.error or DatabaseError("a write ended the transaction that it shares with others")
            crash_point("transaction.before_commit")
            self._connection.execute("COMMIT")
            crash_point("transaction.after_commit")
        except BaseException as error:  # the thread must outlive any failure; each caller gets it
            self._fail(ran or [*batch], translate(error))
            return len(ran) or len(batch)
        return len(batch)

    def _fail(self, writes: Sequence[_Queued], error: BaseException) -> None:
        with suppress(sqlite3.Error):  # what failed may fail again here; SQLite rolls back at the next opening
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
        for write in writes:
            write.result, write.callbacks = None, []
            write.error = write.error or error

    def _run_one(self, write: _Queued) -> None:
        if write.abandoned:
            return
        transaction = Transaction(self._connection)
        self._connection.execute("SAVEPOINT queued_write")
        try:
            write.result = write.run(transaction)
            self._connection.execute("RELEASE queued_write")
            write.callbacks = transaction.finish()
        except BaseException as error:  # belongs to the caller, and must not end the thread
            transaction.finish()
            write.result, write.error = None, translate(error)
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK TO queued_write")
                self._connection.execute("RELEASE queued_write")

    def _deliver(self, batch: Sequence[_Queued]) -> None:
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._announce, batch)

    def _announce(self, batch: Sequence[_Queued]) -> None:
        for write in batch:
            for callback in write.callbacks:
                try:
                    callback()
                except Exception as error:  # the commit is a fact; the next callback must still hear of it
                    self._loop.call_exception_handler(
                        {"message": "an after_commit callback failed", "exception": error}
                    )
            if not write.decided.done():
                write.decided.set_result(None)


class Database:
    """The one database of a process. Bound to the event loop that opened it."""

    def __init__(self, path: Path, writer: _Writer, readers: Sequence[Connection], clock: Clock) -> None:
        self.path = path
        self._clock = clock
        self._loop = asyncio.get_running_loop()
        self._pid = os.getpid()
        self._writer = writer
        self._room = asyncio.Semaphore(MAX_QUEUED)
        self._pool = ThreadPoolExecutor(len(readers), thread_name_prefix="database-reader")
        self._readers: queue.SimpleQueue[Connection] = queue.SimpleQueue()
        for reader in readers:
            self._readers.put(reader)
        self._closed = False

    @classmethod
    async def open(cls, path: Path, migrations: Sequence[Migrations], clock: Clock) -> Database:
        """Open the file, check it, bring its schema up to date, and start the writer. Creates it if there is none.

        Raises:
            DatabaseDamaged: not a database of ours, or its quick check fails; says how to restore.
            SchemaTooNew: a newer program wrote it.
            DatabaseBusy, DatabaseUnwritable.
        """
        connection, readers = await asyncio.to_thread(_open_all, path, migrations, clock)
        writer = _Writer(connection, asyncio.get_running_loop())
        writer.start()
        return cls(path, writer, readers, clock)

    async def write(self, fn: Callable[[Transaction], T]) -> T:
        """Run `fn` in the writer thread, inside a transaction; returns when its commit is on disk.

        An exception in `fn` rolls back its own writes alone and is raised here. A cancelled caller waits until the
        write is decided (it never starts, or it runs to its commit), and is then cancelled.

        Raises:
            DatabaseBusy, DatabaseDamaged, DatabaseUnwritable, DatabaseClosed: nothing of this write is in the file.
            IntegrityError: a constraint refused it.
        """
        async with self._room:
            self._check_usable()
            write = _Queued(fn, self._loop.create_future())
            self._writer.queue.put(write)
            cancelled: asyncio.CancelledError | None = None
            while not write.decided.done():
                try:
                    await asyncio.wait([write.decided])
                except asyncio.CancelledError as error:
                    write.abandoned, cancelled = True, error
            if cancelled is not None:
                raise cancelled
        if write.error is not None:
            raise write.error
        return cast("T", write.result)

    async def read(self, fn: Callable[[Reader], T]) -> T:
        """Run `fn` on a read-only connection in a thread; it sees one snapshot, with every commit awaited before.

        Raises:
            DatabaseBusy, DatabaseDamaged, DatabaseClosed.
        """
        self._check_usable()
        return await self._loop.run_in_executor(self._pool, self._read, fn)

    def _read(self, fn: Callable[[Reader], T]) -> T:
        connection = self._readers.get()
        try:
            # A savepoint outside a transaction opens a deferred one: all statements of `fn` see the same snapshot.
            connection.execute("SAVEPOINT one_read")
            return fn(Reader(connection))
        except sqlite3.Error as error:
            raise translate(error) from error
        finally:
            if connection.in_transaction:
                connection.execute("RELEASE one_read")
            self._readers.put(connection)

    async def snapshot(self, keep: int) -> Path:
        """Write a consistent copy into `snapshots/` beside the database and keep the newest `keep` of them."""
        self._check_usable()
        return await run_to_end(lambda: _snapshot(self.path, self._clock, keep))

    async def close(self) -> None:
        """Let queued writes commit, then close every connection. Closing twice is harmless."""
        if not self._closed:
            self._closed = True
            await run_to_end(self._close)

    def _close(self) -> None:
        self._pool.shutdown(wait=True)
        while not self._readers.empty():
            self._readers.get().close()
        self._writer.queue.put(None)  # the writer last: only then does SQLite bring the WAL home and remove it
        self._writer.join()

    def _check_usable(self) -> None:
        if self._closed:
            raise DatabaseClosed
        assert os.getpid() == self._pid, "a database must not be carried over a fork"


def translate(error: BaseException) -> BaseException:
    """SQLite's error as one of ours where the remedy differs; any other error as it is."""
    if not isinstance(error, sqlite3.Error) or isinstance(error, sqlite3.IntegrityError):
        return error
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF  # the primary code of an extended one
    kinds: dict[int, type[DatabaseError]] = {
        sqlite3.SQLITE_CORRUPT: DatabaseDamaged,
        sqlite3.SQLITE_NOTADB: DatabaseDamaged,
        sqlite3.SQLITE_BUSY: DatabaseBusy,
        sqlite3.SQLITE_LOCKED: DatabaseBusy,
        sqlite3.SQLITE_FULL: DatabaseUnwritable,
        sqlite3.SQLITE_IOERR: DatabaseUnwritable,
        sqlite3.SQLITE_READONLY: DatabaseUnwritable,
        sqlite3.SQLITE_CANTOPEN: DatabaseUnwritable,
    }
    kind = kinds.get(code)
    if kind is None:
        return error
    ours = kind(f"{(kind.__doc__ or '').strip()} (SQLite: {error})")
    ours.__cause__ = error
    return ours


def _uri(path: Path, mode: str) -> str:
    return f"file:{quote(str(path.absolute()))}?mode={mode}"


def _connect(path: Path, *, read_only: bool) -> Connection:
    connection = sqlite3.connect(
        _uri(path, "ro" if read_only else "rw"),
        uri=True,
        timeout=BUSY_TIMEOUT_MS / 1000,
        isolation_level=None,  # transactions are ours alone: the module must not open deferred ones by itself
        check_same_thread=False,  # handed from the opening thread to its owner; one thread at a time by construction
    )
    connection.row_factory = sqlite3.Row
    for pragma in PRAGMAS:
        connection.execute(f"PRAGMA {pragma}")
    if read_only:
        connection.execute("PRAGMA query_only = ON")
    return connection


@contextmanager
def _translated(path: Path) -> Generator[None]:
    try:
        yield
    except sqlite3.Error as error:
        ours = translate(error)
        if isinstance(ours, DatabaseDamaged):
            raise snapshots.damaged(path, str(error)) from error
        raise ours from error


def _open_all(path: Path, sets: Sequence[Migrations], clock: Clock) -> tuple[Connection, list[Connection]]:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    known = migrate.read_migrations(sets)
    with snapshots.opening_lock(path), _translated(path), ExitStack() as undo:
        snapshots.check_not_lost(path)
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
        writer = undo.enter_context(closing(_connect(path, read_only=False)))
        _prepare(writer, path, known, clock)
        readers = [undo.enter_context(closing(_connect(path, read_only=True))) for _ in range(READERS)]
        undo.pop_all()
        return writer, readers


def _prepare(connection: Connection, path: Path, known: Sequence[migrate.Migration], clock: Clock) -> None:
    application = int(connection.execute("PRAGMA application_id").fetchone()[0])
    tables = int(connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0])
    if application != APPLICATION_ID and (application or tables):
        raise snapshots.damaged(path, "it is not a database of rune-tui")
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute(f"PRAGMA journal_size_limit = {WAL_LIMIT_BYTES}")
    if (verdict := str(connection.execute("PRAGMA quick_check(1)").fetchone()[0])) != "ok":
        raise snapshots.damaged(path, verdict)
    connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
    missing = migrate.pending(connection, known)
    if missing and tables:
        _snapshot(path, clock, keep=None)  # how many are kept is the engine's to say
    if missing or not tables:
        migrate.apply(connection, missing, clock)


def _snapshot(path: Path, clock: Clock, keep: int | None) -> Path:
    uri = _uri(path, "ro")  # without query_only: VACUUM INTO writes, though not to this file
    with _translated(path), closing(sqlite3.connect(uri, uri=True, isolation_level=None)) as connection:
        return snapshots.take(connection, path, clock, keep)
