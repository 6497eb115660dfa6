"""Migrations: numbered .sql files, several sets in one database file, each file applied once and in order.

A set is what one package brings (`registry`, `engine`). The table `schema_migrations` is each set's version: it
records every applied file with the digest of its text, in the same transaction as the file's own statements, so
a crash leaves the schema before or after a file and never between.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import TYPE_CHECKING

from registry.clock import Clock, timestamp
from registry.errors import SchemaTooNew

if TYPE_CHECKING:
    from registry.db import Connection

BOOKKEEPING_VERSION = 1
"""`user_version` of the file: the shape of `schema_migrations` itself."""

_FILE_NAME = re.compile(r"(\d{4})_[a-z0-9_]+\.sql")

_BOOKKEEPING = """
CREATE TABLE IF NOT EXISTS schema_migrations (
    set_name   TEXT NOT NULL,
    number     INTEGER NOT NULL CHECK (number > 0),
    file_name  TEXT NOT NULL,
    digest     TEXT NOT NULL,
    applied_at TEXT NOT NULL,
    PRIMARY KEY (set_name, number)
) STRICT, WITHOUT ROWID
"""


@dataclass(frozen=True, slots=True)
class Migrations:
    """What one package brings: a name that never changes and a directory of `NNNN_*.sql`."""

    name: str
    files: Traversable | Path


REGISTRY = Migrations("registry", files("registry") / "migrations")
"""The registry's own set."""


@dataclass(frozen=True, slots=True)
class Migration:
    """One file of a set, read."""

    set_name: str
    number: int
    file_name: str
    text: str

    @property
    def digest(self) -> str:
        """SHA-256 of the text, in hexadecimal."""
        return hashlib.sha256(self.text.encode()).hexdigest()


def read_migrations(sets: Sequence[Migrations]) -> list[Migration]:
    """Every file of every set, in the order in which they apply.

    Raises:
        ValueError: a set's numbers are not 1, 2, 3 ... or two sets share a name.
    """
    if len({one.name for one in sets}) != len(sets):
        raise ValueError("two migration sets share a name")
    found: list[Migration] = []
    for one in sets:
        members = [(entry, _FILE_NAME.fullmatch(entry.name)) for entry in one.files.iterdir()]
        files = sorted(
            (
                Migration(one.name, int(match[1]), entry.name, entry.read_text("utf-8"))
                for entry, match in members
                if match
            ),
            key=lambda migration: migration.number,
        )
        if [migration.number for migration in files] != list(range(1, len(files) + 1)):
            raise ValueError(f"migrations of {one.name!r} are not numbered 1, 2, 3 ...")
        found.extend(files)
    return found


def pending(connection: Connection, known: Sequence[Migration]) -> list[Migration]:
    """The files that this database does not have yet.

    Raises:
        SchemaTooNew: it has files that this program does not know, or other text under a known number.
    """
    version = int(connection.execute("PRAGMA user_version").fetchone()[0])
    if version == 0:
        return list(known)
    if version > BOOKKEEPING_VERSION:
        raise SchemaTooNew
    applied = {
        (str(row["set_name"]), int(row["number"])): row
        for row in connection.execute("SELECT set_name, number, file_name, digest FROM schema_migrations")
    }
    by_place = {(migration.set_name, migration.number): migration for migration in known}
    names = {migration.set_name for migration in known}
    for place, row in applied.items():
        if place[0] not in names:
            continue  # another program of ours may bring a set that this one does not use
        migration = by_place.get(place)
        if migration is None:
            raise SchemaTooNew(
                f"the database has migration {row['file_name']} of {place[0]!r}, which this rune-tui does not know: "
                "it was written by a newer version. Install that one, or use another RUNE_HOME."
            )
        if migration.digest != row["digest"]:
            raise SchemaTooNew(
                f"migration {migration.file_name} of {place[0]!r} is not the text that built this database: "
                "it was written by a different rune-tui. Install that one, or use another RUNE_HOME."
            )
    return [migration for place, migration in by_place.items() if place not in applied]


def apply(connection: Connection, migrations: Sequence[Migration], clock: Clock) -> None:
    """Apply each file and record it, one transaction a file. The caller holds the opening lock."""
    connection.execute(_BOOKKEEPING)
    connection.execute(f"PRAGMA user_version = {BOOKKEEPING_VERSION}")
    for migration in migrations:
        try:
            connection.executescript(f"BEGIN IMMEDIATE;\n{migration.text}")
            assert connection.in_transaction, f"{migration.file_name} ends its own transaction"
            connection.execute(
                "INSERT INTO schema_migrations VALUES (?, ?, ?, ?, ?)",
                (migration.set_name, migration.number, migration.file_name, migration.digest, timestamp(clock.now())),
            )
            connection.execute("COMMIT")
        finally:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
