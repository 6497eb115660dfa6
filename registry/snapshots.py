"""Snapshots of the database, and the way back to one.

SQLite has no page checksums: one flipped bit in the main file goes unnoticed four times out of five. So whole
copies are kept, each with the digest of its bytes in its name, and a copy is used only if both still agree.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import shutil
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from registry.clock import Clock
from registry.errors import DatabaseDamaged
from registry.files import sync_directory

if TYPE_CHECKING:
    from registry.db import Connection

_MAGIC = b"SQLite format 3\0"
_NAME = re.compile(r"(?P<stem>.+)-(?P<stamp>\d{8}T\d{12})-(?P<digest>[0-9a-f]{64})\.db")


def snapshot_directory(path: Path) -> Path:
    """Where the snapshots of the database at `path` are."""
    return path.parent / "snapshots"


def list_snapshots(path: Path) -> list[Path]:
    """The snapshots of the database at `path`, newest first."""
    directory = snapshot_directory(path)
    names = [(match, entry) for entry in directory.glob("*.db") if (match := _NAME.fullmatch(entry.name))]
    ours = [(match["stamp"], entry) for match, entry in names if match["stem"] == path.stem]
    return [entry for _, entry in sorted(ours, reverse=True)]


def damaged(path: Path, detail: str) -> DatabaseDamaged:
    """The error that says what is wrong with the file and what to do."""
    kept = list_snapshots(path)
    remedy = (
        f"Stop the engine and restore the newest of {len(kept)} snapshots with `python -m registry restore {path}`; "
        "the damaged file is kept beside it."
        if kept
        else "There is no snapshot: move the file away to start with an empty database."
    )
    return DatabaseDamaged(f"{path.name} is damaged: {detail}. {remedy}")


def check_not_lost(path: Path) -> None:
    """Refuse to begin an empty database where there was a full one.

    Raises:
        DatabaseDamaged: the file is missing or empty although snapshots of it exist, or does not begin as SQLite's do.
    """
    if not path.exists() or path.stat().st_size == 0:
        if list_snapshots(path):
            raise damaged(path, "the file is missing or empty although snapshots of it exist")
        return
    with path.open("rb") as stream:
        if stream.read(len(_MAGIC)) != _MAGIC:  # SQLite takes a zeroed header for an empty database and writes over it
            raise damaged(path, "its first bytes are not those of a database")


@contextmanager
def opening_lock(path: Path) -> Generator[None]:
    """One process at a time opens, migrates or restores: the switch to WAL ignores SQLite's busy timeout."""
    descriptor = os.open(path.with_name(f".{path.name}.opening"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def take(connection: Connection, path: Path, clock: Clock, keep: int | None) -> Path:
    """Copy the database through `connection` into a new snapshot; the oldest beyond `keep` are removed, if it says."""
    assert keep is None or keep >= 1
    directory = snapshot_directory(path)
    directory.mkdir(mode=0o700, exist_ok=True)
    partial = directory / f".{clock.hex_id(16)}.part"
    try:
        connection.execute("VACUUM INTO ?", (str(partial),))
        partial.chmod(0o600)
        digest = _sync_and_digest(partial)
        stamp = clock.now().strftime("%Y%m%dT%H%M%S%f")
        final = directory / f"{path.stem}-{stamp}-{digest}.db"
        partial.rename(final)
    finally:
        partial.unlink(missing_ok=True)
    sync_directory(directory)
    for old in [] if keep is None else list_snapshots(path)[keep:]:
        old.unlink(missing_ok=True)
    return final


def restore_snapshot(path: Path, clock: Clock, snapshot: Path | None = None) -> Path:
    """Put a snapshot in the place of the database; the present files are kept as `*.damaged-<stamp>`.

    Blocking, and only while nothing has the database open. Without `snapshot`, the newest that is whole is taken.
    Gives the snapshot that was used.

    Raises:
        DatabaseDamaged: no snapshot is whole.
    """
    with opening_lock(path):
        candidates = [snapshot] if snapshot is not None else list_snapshots(path)
        whole = next((one for one in candidates if _is_whole(one)), None)
        if whole is None:
            raise DatabaseDamaged(f"no whole snapshot of {path.name} in {snapshot_directory(path)}")
        partial = path.with_name(f".{path.name}.restoring")
        shutil.copyfile(whole, partial)
        partial.chmod(0o600)
        _sync_and_digest(partial)
        stamp = clock.now().strftime("%Y%m%dT%H%M%S%f")
        for suffix in ("", "-wal", "-shm"):
            # The WAL goes first out of the way: SQLite would replay the old one over the restored file.
            present = path.with_name(path.name + suffix)
            if present.exists():
                present.rename(path.with_name(f"{path.name}.damaged-{stamp}{suffix}"))
        sync_directory(path.parent)
        partial.rename(path)
        sync_directory(path.parent)
    return whole


def _is_whole(snapshot: Path) -> bool:
    match = _NAME.fullmatch(snapshot.name)
    return match is not None and snapshot.is_file() and _sync_and_digest(snapshot) == match["digest"]


def _sync_and_digest(file: Path) -> str:
    with file.open("rb") as stream:
        os.fsync(stream.fileno())
        return hashlib.file_digest(stream, "sha256").hexdigest()
