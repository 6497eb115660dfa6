"""The suites of a home: those that come with the program, and those that its user has added as files.

An added suite is `RUNE_HOME/suites/<name>.jsonl`, a copy of the user's file that is never changed after that. A name
belongs to one suite for ever: what was measured on a suite must stay what it was measured on.
"""

from __future__ import annotations

import os
import secrets
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from types import MappingProxyType

from engine.api_learning import Split, SuiteInfo, SuiteTask
from engine.errors import ConflictError, InputError, NotFoundError
from engine.evaluation.suites import general, humaneval, inkwell, ood, runekit
from engine.evaluation.suites.files import digest, dump_tasks, read_tasks
from engine.home import FILE_MODE, HOME_MODE
from registry.files import sync_directory

SUFFIX = ".jsonl"
FILES_KEPT = 8
"""Parsed files in memory."""


@dataclass(frozen=True)
class BuiltIn:
    """A suite that comes with the program."""

    title: str
    seeded: bool
    tasks: Callable[[int], tuple[SuiteTask, ...]]
    """By seed."""


BUILT_IN: Mapping[str, BuiltIn] = MappingProxyType(
    {
        "humaneval": BuiltIn(humaneval.TITLE, False, lambda _: humaneval.tasks()),
        "ood": BuiltIn(ood.TITLE, False, lambda _: ood.tasks()),
        "general": BuiltIn(general.TITLE, False, lambda _: general.tasks()),
        "runekit": BuiltIn(runekit.SUITE.title, True, runekit.SUITE.tasks),
        "inkwell": BuiltIn(inkwell.SUITE.title, True, inkwell.SUITE.tasks),
    }
)
"""Name -> suite, in the order of lists."""


class Suites:
    """All suites of one home. Every method may block for a second: call them in a thread."""

    def __init__(self, home: Path) -> None:
        self._directory = home / "suites"
        self._parsed = lru_cache(FILES_KEPT)(_parse)

    def infos(self) -> tuple[SuiteInfo, ...]:
        """Every suite, the built-in ones first, then the user's by name.

        Raises:
            InputError: a file was changed so that it cannot be read any more; names the place.
        """
        return tuple(self.info(name) for name in (*BUILT_IN, *self._added()))

    def info(self, name: str) -> SuiteInfo:
        """One suite.

        Raises:
            NotFoundError: there is none of that name.
            InputError: see `infos`.
        """
        tasks = self.tasks(name)
        built_in = BUILT_IN.get(name)
        counts = Counter(task.split for task in tasks)
        return SuiteInfo(
            name=name,
            title=built_in.title if built_in else f"From a file with {len(tasks)} tasks.",
            origin="built-in" if built_in else "file",
            seeded=built_in is not None and built_in.seeded,
            task_type=tasks[0].task_type,
            digest=digest(tasks),
            counts={split: counts[split] for split in Split if counts[split]},
            templates=len({task.template for task in tasks}),
        )

    def tasks(self, name: str, seed: int = 0, split: Split | None = None) -> tuple[SuiteTask, ...]:
        """The suite's tasks, in its order; with hidden inputs of the seed, where it is seeded.

        Args:
            split: only this one's.

        Raises:
            NotFoundError: there is no suite of that name.
            InputError: see `infos`.
        """
        found = BUILT_IN[name].tasks(seed) if name in BUILT_IN else self._from_file(name)
        return found if split is None else tuple(task for task in found if task.split is split)

    def add(self, file: Path, name: str) -> SuiteInfo:
        """Check a JSON Lines file and copy it into the home.

        Raises:
            InputError: the file is not a suite; names the line.
            ConflictError: the name is taken.
        """
        if not file.is_absolute():
            raise InputError(f"{file} is not an absolute path.")
        if name in BUILT_IN or self._path(name).exists():
            raise _taken(name)
        content = dump_tasks(read_tasks(file))
        self._directory.mkdir(mode=HOME_MODE, exist_ok=True)
        self._write(self._path(name), content)
        return self.info(name)

    def _write(self, path: Path, content: bytes) -> None:
        """All of it under its name, or nothing; never over another file."""
        part = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
        try:
            with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, FILE_MODE), "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            os.link(part, path)
        except FileExistsError as error:
            raise _taken(path.name.removesuffix(SUFFIX)) from error
        finally:
            with suppress(FileNotFoundError):
                part.unlink()
        sync_directory(path.parent)

    def _added(self) -> list[str]:
        found = (path.name.removesuffix(SUFFIX) for path in self._directory.glob(f"*{SUFFIX}"))
        return sorted(name for name in found if name not in BUILT_IN and not name.startswith("."))

    def _from_file(self, name: str) -> tuple[SuiteTask, ...]:
        path = self._path(name)
        try:
            facts = path.stat()
        except (OSError, ValueError) as error:
            raise NotFoundError(f"There is no suite {name}; `rune-tui suite list` shows what there is.") from error
        return self._parsed(path, facts.st_mtime_ns, facts.st_size)

    def _path(self, name: str) -> Path:
        """Names that are no `SuiteName` lead nowhere: a separator or a leading dot is not resolved."""
        if "/" in name or name.startswith("."):
            raise NotFoundError(f"{name!r} is not the name of a suite.")
        return self._directory / f"{name}{SUFFIX}"


def _parse(path: Path, _modified: int, _size: int) -> tuple[SuiteTask, ...]:
    """Keyed by what changes when somebody writes to the file."""
    return read_tasks(path)


def _taken(name: str) -> ConflictError:
    return ConflictError(f"There is a suite {name} already; choose another name.")
