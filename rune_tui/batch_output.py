"""What `--output DIR` gets: a folder a task, each file whole or absent.

DIR/<task id>/final.py            the final code, when there is any
DIR/<task id>/subtasks/<name>.py  the code of each subtask of a project
DIR/<task id>/trajectory.json     every attempt, complete
DIR/<task id>/run_summary.json    the session's summary by phase and subtask, when it ran to an end
DIR/run_summary.json              a list: how each task ended, as on stdout
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from engine.api_models import Trajectory
from engine.errors import InputError
from rune_tui.atomic_file import write_atomically
from rune_tui.batch_input import Batch, printable
from rune_tui.batch_records import TaskResult

SUMMARY = "run_summary.json"

_UNFIT = re.compile(r"[^A-Za-z0-9_-]+")
_NAME_LENGTH = 60


def check_destination(directory: Path, batch: Batch) -> None:
    """Refuse a directory that the batch's results could not be written to; creates nothing.

    Raises:
        InputError: it is a file, or it (or its nearest existing parent) cannot be written, or a task has the name of
            the batch's own file.
    """
    if any(task.id == SUMMARY for task in batch.tasks):
        raise InputError(f"--output: a task has the id {SUMMARY}, which is a file of the batch; rename it.")
    existing = directory.absolute()
    while not existing.exists() and existing != existing.parent:
        existing = existing.parent
    if not existing.is_dir() or not os.access(existing, os.W_OK | os.X_OK):
        raise InputError(
            f"--output {printable(str(directory))}: {printable(str(existing))} is not a directory that can be "
            "written; choose another."
        )


def check_file_destination(option: str, path: Path) -> None:
    """Refuse a file that could not be written; creates nothing.

    Raises:
        InputError: it is a directory, or its directory is missing or cannot be written.
    """
    parent = path.absolute().parent
    if path.is_dir() or not parent.is_dir() or not os.access(parent, os.W_OK | os.X_OK):
        raise InputError(
            f"{option} {printable(str(path))}: cannot be written there; name a file in an existing directory."
        )


def write_task(directory: Path, trajectory: Trajectory) -> None:
    """All files of one task; the summary comes last: where it is, the others are complete.

    Raises:
        OSError: the disk is full, or the directory has gone.
    """
    session = trajectory.session
    folder = directory / session.task.id  # an Identifier: no separator, no leading dot
    folder.mkdir(parents=True, exist_ok=True)
    if session.code is not None:
        write_atomically(folder / "final.py", session.code)
    write_atomically(folder / "trajectory.json", trajectory.model_dump_json(indent=2) + "\n")
    if session.summary is not None:
        _write_subtasks(folder / "subtasks", session.summary)
        write_atomically(folder / SUMMARY, _json(session.summary))


def write_run(directory: Path, results: Iterable[TaskResult]) -> None:
    """The file of the whole batch.

    Raises:
        OSError: as `write_task`.
    """
    directory.mkdir(parents=True, exist_ok=True)
    write_atomically(directory / SUMMARY, _json([result.record() for result in results]))


def _write_subtasks(folder: Path, summary: dict[str, Any]) -> None:
    written = [part for part in summary["subtasks"] if part["code"]]
    if written:
        folder.mkdir(exist_ok=True)
    for number, part in enumerate(written, start=1):
        write_atomically(folder / f"{number:02d}-{_file_name(part['name'])}.py", part["code"])


def _json(value: object) -> str:
    return json.dumps(value, indent=2) + "\n"


def _file_name(name: str) -> str:
    """The model chose the name: only letters, digits, `_` and `-` of it may reach the file system."""
    return _UNFIT.sub("-", name).strip("-")[:_NAME_LENGTH] or "subtask"
