"""Suite files: JSON Lines, one `SuiteTask` a line. An error names the file and the line."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterable
from pathlib import Path

from pydantic import ValidationError

from engine.api_learning import SuiteTask
from engine.errors import InputError

MAX_FILE_BYTES = 256 << 20
"""Of a suite: tens of thousands of tasks."""
MAX_LINE_BYTES = 4 << 20
"""Of a task with its tests and files."""


def read_tasks(path: Path) -> tuple[SuiteTask, ...]:
    """The tasks of a file. Blocking.

    Raises:
        InputError: it cannot be read, is too large, has no task, or a line is not a task; names the place.
    """
    return parse_tasks(_content(path), str(path))


def parse_tasks(content: bytes, name: str) -> tuple[SuiteTask, ...]:
    """The tasks in the content of the file `name`; empty lines are skipped.

    Raises:
        InputError: see `read_tasks`; also where an id comes twice, or the tasks are of several types.
    """
    tasks: dict[str, SuiteTask] = {}
    for number, line in enumerate(content.split(b"\n"), 1):
        if not line.strip():
            continue
        task = _task(line, f"{name}, line {number}")
        if task.id in tasks:
            raise InputError(f"{name}, line {number}: the id {task.id} was there before; ids are unique in a suite.")
        tasks[task.id] = task
    if not tasks:
        raise InputError(f"{name}: there is no task in it.")
    types = sorted({task.task_type for task in tasks.values()})
    if len(types) > 1:
        raise InputError(f"{name}: its tasks are of the types {', '.join(types[:5])}; a suite has tasks of one type.")
    return tuple(tasks.values())


def dump_tasks(tasks: Iterable[SuiteTask]) -> bytes:
    """The file of these tasks."""
    return b"".join(task.model_dump_json(exclude_defaults=True).encode() + b"\n" for task in tasks)


def digest(tasks: Iterable[SuiteTask]) -> str:
    """SHA-256 over the tasks, complete and in order."""
    sha256 = hashlib.sha256()
    for task in tasks:
        sha256.update(task.model_dump_json().encode() + b"\n")
    return sha256.hexdigest()


def _task(line: bytes, place: str) -> SuiteTask:
    if len(line) > MAX_LINE_BYTES:
        raise InputError(f"{place}: longer than {MAX_LINE_BYTES >> 20} MiB.")
    try:
        return SuiteTask.model_validate_json(line)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        field = ".".join(str(part) for part in first["loc"])
        raise InputError(f"{place}: {field + ': ' if field else ''}{first['msg']}.") from error


def _content(path: Path) -> bytes:
    """Regular files only: a pipe or a device would keep its reader waiting for ever."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read: {getattr(error, 'strerror', None) or error}.") from error
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise InputError(f"{path} is not a file.")
        with open(descriptor, "rb", closefd=False) as file:
            content = file.read(MAX_FILE_BYTES + 1)
    finally:
        os.close(descriptor)
    if len(content) > MAX_FILE_BYTES:
        raise InputError(f"{path} is larger than {MAX_FILE_BYTES >> 20} MiB.")
    return content
