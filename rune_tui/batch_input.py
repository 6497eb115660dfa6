"""Reads the tasks of a batch: JSON Lines, or TOML with `[[tasks]]`.

Everything is checked before anything runs. Whatever is wrong is said in one line, `FILE:LINE: what, and the remedy`,
because the reader is often a CI log. JSON is read more strictly than Python's `json` does by itself: a key given
twice, NaN and half a surrogate pair are refused, since each would silently mean something else to another reader.
"""

from __future__ import annotations

import difflib
import json
import math
import os
import re
import tomllib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from engine.api_models import Case, CaseSuite, TaskSpec
from engine.errors import InputError

MAX_FILE_BYTES = 64 * 1024 * 1024
"""A larger file is not a list of tasks but a mistake; it is read into memory whole."""

MAX_LINE_BYTES = 4 * 1024 * 1024
"""One task with its starting project; the API refuses much larger bodies anyway."""

MAX_TASKS = 10_000
"""A batch of this size runs for days; more is split by its author."""

_MODELS: dict[tuple[str, ...], type[BaseModel]] = {(): TaskSpec, ("cases",): CaseSuite, ("cases", "items"): Case}
_TOML_POSITION = re.compile(r"\(at line (\d+), column \d+\)")
_TOML_TASK_HEADER = re.compile(r"\s*\[\[\s*(?:tasks|\"tasks\"|'tasks')\s*\]\]")
_LABEL_LENGTH = 200


@dataclass(frozen=True)
class Batch:
    """The tasks of one input file, all of them valid."""

    path: Path
    """Absolute."""
    tasks: tuple[TaskSpec, ...]


@dataclass(frozen=True)
class _Entry:
    line: int
    value: object


class _JsonFault(ValueError):
    """Something that `json` lets pass."""


def read_batch(path: Path) -> Batch:
    """All tasks of the file.

    Raises:
        InputError: one line that names the file, the line and the remedy.
    """
    place = printable(str(path))
    data = _read_bytes(path, place)
    entries = _toml_entries(data, place) if path.suffix.lower() == ".toml" else _json_entries(data, place)
    tasks = tuple(_checked(entries, place))
    if not tasks:
        raise InputError(f"{place}:1: the file has no task; give one JSON object a line, or [[tasks]] in TOML.")
    return Batch(Path(os.path.abspath(path)), tasks)


def printable(text: str) -> str:
    """The text as one line without control characters, cut to a length fit for an error message."""
    visible = "".join(char if char.isprintable() else "?" for char in text)
    return visible if len(visible) <= _LABEL_LENGTH else f"{visible[:_LABEL_LENGTH]}..."


def _fail(place: str, line: int, problem: str) -> NoReturn:
    raise InputError(f"{place}:{line}: {printable(problem)}")


def _read_bytes(path: Path, place: str) -> bytes:
    try:
        with path.open("rb") as file:
            data = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise InputError(f"{place}: cannot be read: {reason}; check the path and its permissions.") from error
    if len(data) > MAX_FILE_BYTES:
        _fail(place, 1, f"the file is larger than {MAX_FILE_BYTES} bytes; split it.")
    return data.removeprefix(b"\xef\xbb\xbf")  # editors on Windows put a byte order mark there


# --- JSON Lines ----------------------------------------------------------------------------------------------


def _json_entries(data: bytes, place: str) -> Iterator[_Entry]:
    for number, line in enumerate(data.split(b"\n"), start=1):
        if len(line) > MAX_LINE_BYTES:
            _fail(place, number, f"the line has {len(line)} bytes; at most {MAX_LINE_BYTES} are allowed.")
        if line.strip():
            yield _Entry(number, _json_value(line, place, number))


def _json_value(line: bytes, place: str, number: int) -> object:
    try:
        text = line.decode("utf-8")
        return json.loads(
            text, object_pairs_hook=_unique_keys, parse_constant=_refuse_constant, parse_float=_finite_float
        )
    except UnicodeDecodeError as error:
        _fail(place, number, f"not UTF-8 at byte {error.start + 1} of the line; save the file as UTF-8.")
    except json.JSONDecodeError as error:
        _fail(place, number, f"not JSON: {error.msg} at column {error.colno}; each line is one JSON object.")
    except RecursionError:
        _fail(place, number, "nested too deeply to be a task.")
    except ValueError as error:
        _fail(place, number, f"not acceptable JSON: {error}.")


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for key, value in pairs:
        if key in result:
            raise _JsonFault(f"key {key!r} is given twice")
        result[key] = value
    return result


def _refuse_constant(name: str) -> NoReturn:
    raise _JsonFault(f"{name} is not a JSON value")


def _finite_float(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise _JsonFault(f"{text} is out of range")
    return value


# --- TOML ----------------------------------------------------------------------------------------------------


def _toml_entries(data: bytes, place: str) -> Iterator[_Entry]:
    text = _toml_text(data, place)
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        position = _TOML_POSITION.search(str(error))
        last = text.count("\n") + 1
        _fail(place, int(position[1]) if position else last, f"not TOML: {_TOML_POSITION.sub('', str(error)).strip()}.")
    except (RecursionError, ValueError) as error:
        _fail(place, 1, f"not acceptable TOML: {error}.")
    for key in document:
        if key != "tasks":
            _fail(place, _line_of_key(text, key), f"unknown key {key!r}; tasks are given as [[tasks]].")
    tasks = document.get("tasks", [])
    if not isinstance(tasks, list):
        _fail(place, _line_of_key(text, "tasks"), "`tasks` must be a list; write [[tasks]] above each task.")
    headers = list(_toml_headers(text))
    for index, value in enumerate(tasks):
        line = headers[index] if index < len(headers) else _line_of_key(text, "tasks")
        yield _Entry(line, value)


def _toml_text(data: bytes, place: str) -> str:
    try:
        return data.decode("utf-8").replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        _fail(place, line, "not UTF-8; save the file as UTF-8.")


def _toml_headers(text: str) -> Iterator[int]:
    """Line numbers of `[[tasks]]`, leaving out those that stand inside a multi-line string."""
    quote = ""
    for number, line in enumerate(text.split("\n"), start=1):
        if not quote and _TOML_TASK_HEADER.match(line):
            yield number
        quote = _open_quote(line, quote)


_TOML_TOKEN = re.compile(r'"""|\'\'\'|"(?:[^"\\]|\\.)*"|\'[^\']*\'|#|\\.|.')


def _open_quote(line: str, quote: str) -> str:
    """The multi-line delimiter that is still open at the end of the line, or empty."""
    position = 0
    while position < len(line):
        if quote:
            end = _closing(line, quote, position)
            if end < 0:
                return quote
            position, quote = end, ""
            continue
        match = _TOML_TOKEN.match(line, position)
        assert match is not None, "the last alternative takes any character of a line"
        if match[0] == "#":
            return ""
        quote = match[0] if match[0] in ('"""', "'''") else ""
        position = match.end()
    return quote


def _closing(line: str, quote: str, start: int) -> int:
    """Position after the closing delimiter, or -1; in basic strings a backslash escapes the next character."""
    position = start
    while position < len(line):
        if quote == '"""' and line[position] == "\\":
            position += 2
        elif line.startswith(quote, position):
            end = position + len(quote)
            while end < len(line) and line[end] == quote[0] and end < position + 5:
                end += 1  # up to two quotes may stand right before the delimiter
            return end
        else:
            position += 1
    return -1


def _line_of_key(text: str, key: str) -> int:
    pattern = re.compile(rf"\s*\[*\s*[\"']?{re.escape(key)}\b")
    lines = text.split("\n")
    return next((number for number, line in enumerate(lines, start=1) if pattern.match(line)), 1)


# --- the shape of a task -------------------------------------------------------------------------------------


def _checked(entries: Iterable[_Entry], place: str) -> Iterator[TaskSpec]:
    seen: dict[str, int] = {}
    for entry in entries:
        if len(seen) >= MAX_TASKS:
            _fail(place, entry.line, f"more than {MAX_TASKS} tasks; split the file.")
        task = _task(entry, place)
        if task.id in seen:
            _fail(place, entry.line, f"id {task.id!r} is already used on line {seen[task.id]}; ids must differ.")
        seen[task.id] = entry.line
        yield task


def _task(entry: _Entry, place: str) -> TaskSpec:
    if not isinstance(entry.value, dict):
        _fail(place, entry.line, f"a task is an object with `id` and `prompt`, not {type(entry.value).__name__}.")
    try:
        plain = json.dumps(entry.value, allow_nan=False, ensure_ascii=False).encode("utf-8")
    except UnicodeEncodeError:
        _fail(place, entry.line, "a string holds half of a surrogate pair, which is not text.")
    except (TypeError, ValueError) as error:  # TOML has dates and nan, JSON has neither
        _fail(place, entry.line, f"a value has no JSON form: {error}.")
    try:
        return TaskSpec.model_validate_json(plain, strict=True)
    except ValidationError as error:
        _fail(place, entry.line, _explain(_most_telling(error.errors(include_url=False))))


def _most_telling(errors: Sequence[ErrorDetails]) -> ErrorDetails:
    """An unknown key explains the required one that is missing, so it goes first."""
    return next((error for error in errors if error["type"] == "extra_forbidden"), errors[0])


def _explain(error: ErrorDetails) -> str:
    location = error["loc"]
    name = ".".join(str(part) for part in location) or "task"
    match error["type"]:
        case "extra_forbidden":
            return f"unknown key '{name}'{_suggestion(location)}."
        case "missing":
            return f"key '{name}' is missing."
        case "value_error":
            return f"'{name}': {error['msg'].removeprefix('Value error, ')}."
        case _:
            message = error["msg"]
            return f"'{name}': {message[:1].lower()}{message[1:]}."


def _suggestion(location: tuple[int | str, ...]) -> str:
    parents = tuple(part for part in location[:-1] if isinstance(part, str))
    model = _MODELS.get(parents)
    if model is None:
        return ""
    close = difflib.get_close_matches(str(location[-1]), list(model.model_fields), n=1, cutoff=0.0)
    return f"; did you mean '{close[0]}'?" if close else ""
