"""From what was typed into the new-task form to a task, or to one plain sentence about what is wrong with it."""

from __future__ import annotations

import re
import secrets
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from engine.api_models import TaskMode, TaskSpec
from engine.errors import InputError

MAX_TESTS_BYTES = 1_000_000
"""A larger tests file is a mistake: it would not fit into any prompt."""

ID_WORDS = 4
"""Words of the prompt that name the task."""


@dataclass(frozen=True)
class TaskForm:
    """The form as it was left."""

    prompt: str
    tests: str = ""
    tests_file: str = ""
    mode: TaskMode = TaskMode.PROJECT


def read_form(form: TaskForm, *, suffix: str | None = None) -> TaskSpec:
    """The task that the form describes. Reads the tests file: call it off the event loop.

    Raises:
        InputError: what to correct, in plain words.
    """
    prompt = form.prompt.strip()
    if not prompt:
        raise InputError("Say what the code shall do: the prompt is empty.")
    if form.tests.strip() and form.tests_file.strip():
        raise InputError("Give the tests as text or as a file, not both.")
    tests = _read_tests(form.tests_file.strip()) if form.tests_file.strip() else form.tests
    try:
        return TaskSpec(
            id=task_id(prompt, suffix or secrets.token_hex(2)),
            prompt=prompt,
            tests=tests if tests.strip() else None,
            mode=form.mode,
        )
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"]) or "task"
        raise InputError(f"{place}: {first['msg']}") from error


def task_id(prompt: str, suffix: str) -> str:
    """A readable id: `write-a-function-that-3fa1`."""
    words = re.findall(r"[a-z0-9]+", prompt.lower())[:ID_WORDS]
    return "-".join([*(word[:20] for word in words or ["task"]), suffix])


def _read_tests(name: str) -> str:
    path = Path(name).expanduser()
    try:
        if path.exists() and not path.is_file():  # a pipe would wait for ever
            raise InputError(f"The tests file {path} is not a file.")
        with path.open("rb") as file:
            data = file.read(MAX_TESTS_BYTES + 1)
        text = data.decode("utf-8")
    except OSError as error:
        raise InputError(f"The tests file {path} cannot be read: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise InputError(f"The tests file {path} is not UTF-8 text.") from error
    except ValueError as error:  # a NUL in the name
        raise InputError("The path of the tests file is not a path.") from error
    if len(data) > MAX_TESTS_BYTES:
        raise InputError(f"The tests file {path} is larger than {MAX_TESTS_BYTES} bytes.")
    if not text.strip():
        raise InputError(f"The tests file {path} is empty.")
    return text
