"""What `--output DIR` gets: a folder a task, each file whole or absent.

DIR/<task id>/final.py            the final code, when there is any
DIR/<task id>/subtasks/<name>.py  the code of each subtask of a project
DIR/<task id>/trajectory.json     every attempt, complete
DIR/<task id>/run_summary.json    the same by phase and subtask
"""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

from engine.api_models import Trajectory
from engine.errors import InputError
from rune_tui.atomic_file import write_atomically
from rune_tui.batch_input import printable
from rune_tui.run_summary import run_summary, subtask_code

_UNFIT = re.compile(r"[^A-Za-z0-9_-]+")
_NAME_LENGTH = 60


def check_destination(directory: Path) -> None:
    """Refuse a directory that results could not be written to; creates nothing.

    Raises:
        InputError: it is a file, or it (or its nearest existing parent) cannot be written.
    """
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
    """All files of one task.

    Raises:
        OSError: the disk is full, or the directory has gone.
    """
    folder = directory / trajectory.session.task.id  # an Identifier: no separator, no leading dot
    folder.mkdir(parents=True, exist_ok=True)
    if trajectory.session.code is not None:
        write_atomically(folder / "final.py", trajectory.session.code)
    _write_subtasks(folder / "subtasks", subtask_code(trajectory.attempts))
    write_atomically(folder / "trajectory.json", trajectory.model_dump_json(indent=2) + "\n")
    write_atomically(folder / "run_summary.json", json.dumps(run_summary(trajectory), indent=2) + "\n")


def _write_subtasks(folder: Path, codes: dict[str, str]) -> None:
    if not codes:
        return
    folder.mkdir(exist_ok=True)
    for number, (name, code) in enumerate(codes.items(), start=1):
        write_atomically(folder / f"{number:02d}-{_file_name(name)}.py", code)


def _file_name(name: str) -> str:
    """The model chose the name: only letters, digits, `_` and `-` of it may reach the file system."""
    return _UNFIT.sub("-", name).strip("-")[:_NAME_LENGTH] or "subtask"
