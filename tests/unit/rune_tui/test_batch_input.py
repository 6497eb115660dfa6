"""The input of --batch: what is valid, and one clear line with file and line number for everything that is not."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.api_models import TaskMode
from engine.errors import ExitCode, InputError
from rune_tui import batch_input
from rune_tui.batch_input import read_batch
from rune_tui.cli import run

GOOD = '{"id": "a", "prompt": "add"}'


def write(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


BAD_JSONL: dict[str, tuple[str | bytes, int, str]] = {
    "unknown key names the nearest": ('{"id": "a", "promt": "x"}', 1, "unknown key 'promt'; did you mean 'prompt'?"),
    "unknown key wins over what it leaves missing": ('{"ids": "a", "prompt": "x"}', 1, "did you mean 'id'?"),
    "unknown key in cases": (
        '{"id": "a", "prompt": "x", "cases": {"function": "f", "itms": []}}',
        1,
        "did you mean 'items'?",
    ),
    "unknown key in a case": (
        '{"id": "a", "prompt": "x", "cases": {"function": "f", "items": [{"argz": [], "expected": 1}]}}',
        1,
        "'cases.items.0.argz'; did you mean 'args'?",
    ),
    "missing id": (f'{GOOD}\n\n{{"prompt": "x"}}', 3, "'id' is missing"),
    "number as prompt": ('{"id": "a", "prompt": 3}', 1, "'prompt': input should be a valid string"),
    "text as number": ('{"id": "a", "prompt": "x", "max_attempts": "3"}', 1, "'max_attempts'"),
    "truth as number": ('{"id": "a", "prompt": "x", "seed": true}', 1, "'seed'"),
    "zero attempts": ('{"id": "a", "prompt": "x", "max_attempts": 0}', 1, "greater than or equal to 1"),
    "empty prompt": ('{"id": "a", "prompt": ""}', 1, "at least 1 character"),
    "unknown mode": (
        '{"id": "a", "prompt": "x", "mode": "fast"}',
        1,
        "'mode': input should be 'attempt', 'project' or 'explore'",
    ),
    "id with a separator": ('{"id": "../x", "prompt": "x"}', 1, "'id'"),
    "id with a line end": ('{"id": "a\\n", "prompt": "x"}', 1, "'id'"),
    "id of 101 characters": (json.dumps({"id": "a" * 101, "prompt": "x"}), 1, "'id'"),
    "path out of the project": ('{"id": "a", "prompt": "x", "files": {"../e": ""}}', 1, "inside the project"),
    "absolute path": ('{"id": "a", "prompt": "x", "files": {"/etc/x": ""}}', 1, "inside the project"),
    "no cases": ('{"id": "a", "prompt": "x", "cases": {"function": "f", "items": []}}', 1, "at least 1 item"),
    "in_process without tests": ('{"id": "a", "prompt": "x", "in_process": true}', 1, "in_process needs tests"),
    "duplicate id": (f"{GOOD}\n{GOOD}", 2, "id 'a' is already used on line 1"),
    "duplicate key": ('{"id": "a", "prompt": "x", "prompt": "y"}', 1, "key 'prompt' is given twice"),
    "duplicate key inside": ('{"id": "a", "prompt": "x", "files": {"b": "", "b": "1"}}', 1, "key 'b' is given twice"),
    "NaN": ('{"id": "a", "prompt": "x", "seed": NaN}', 1, "NaN is not a JSON value"),
    "Infinity": ('{"id": "a", "prompt": "x", "seed": -Infinity}', 1, "-Infinity is not a JSON value"),
    "number out of range": ('{"id": "a", "prompt": "x", "seed": 1e999}', 1, "1e999 is out of range"),
    "half a surrogate pair": ('{"id": "a", "prompt": "\\ud800"}', 1, "surrogate"),
    "not JSON": (f"{GOOD}\nhello", 2, "not JSON"),
    "JSON that does not end": ('{"id": "a"', 1, "not JSON"),
    "an array": ("[1]", 1, "a task is an object with `id` and `prompt`, not list"),
    "null": ("null", 1, "a task is an object"),
    "deep nesting": ("[" * 100_000, 1, "nested too deeply"),
    "broken UTF-8": (GOOD.encode() + b'\n{"id": "b", "prompt": "\xff"}', 2, "not UTF-8 at byte 24"),
    "UTF-16": (GOOD.encode("utf-16"), 1, "not UTF-8"),
    "empty file": ("", 1, "the file has no task"),
    "only white space": ("\n \n\t\n", 1, "the file has no task"),
}


@pytest.mark.parametrize("name", BAD_JSONL)
def test_bad_json_lines_are_one_line_and_exit_2_with_nothing_done(
    name: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    content, line, expected = BAD_JSONL[name]
    path = write(tmp_path / "tasks.jsonl", content)
    home = tmp_path / "home"
    output = tmp_path / "out"
    before = sorted(tmp_path.rglob("*"))

    code = run(["--home", str(home), "--batch", str(path), "--output", str(output), "--junit", str(tmp_path / "j.xml")])

    out, err = capfd.readouterr()
    assert code == ExitCode.USAGE
    assert out == "", "stdout is for records only"
    assert err.count("\n") == 1 and "Traceback" not in err
    assert f"{path}:{line}: " in err and expected in err
    assert sorted(tmp_path.rglob("*")) == before, "bad input changes nothing on disk"


BAD_TOML: dict[str, tuple[str | bytes, int, str]] = {
    "unknown key": (
        '[[tasks]]\nid = "a"\nprompt = "x"\n\n[[tasks]]\nid = "b"\npromt = "y"\n',
        5,
        "did you mean 'prompt'?",
    ),
    "header inside a string is not a task": (
        '[[tasks]]\nid = "a"\nprompt = """\n[[tasks]]\n\\""" "" \n[[tasks]]\n"""\n[[tasks]]\nid = "a"\nprompt = "x"\n',
        8,
        "already used on line 1",
    ),
    "literal string holds a header": (
        "[[tasks]]\nid = 'a'\nprompt = '''\n[[tasks]] \"\"\"\n'''\n[[tasks]]\nid = 'b'\n",
        6,
        "'prompt' is missing",
    ),
    "unknown top-level key": ('x = 1\n[[task]]\nid = "a"\n', 1, "unknown key 'x'"),
    "task instead of tasks": ('[[task]]\nid = "a"\n', 1, "unknown key 'task'; tasks are given as [[tasks]]"),
    "tasks is a table": ('[tasks]\nid = "a"\n', 1, "`tasks` must be a list"),
    "not TOML": ('[[tasks]]\nid = "a"\nprompt = \n', 3, "not TOML"),
    "string that never ends": ('[[tasks]]\nid = "a"\nprompt = """\n', 4, "not TOML"),
    "nan": ('[[tasks]]\nid = "a"\nprompt = "x"\nseed = nan\n', 1, "no JSON form"),
    "a date": ('[[tasks]]\nid = "a"\nprompt = "x"\nseed = 2026-01-01\n', 1, "no JSON form"),
    "broken UTF-8": (b'[[tasks]]\nid = "\xff"\n', 2, "not UTF-8"),
    "empty": ("# nothing\n", 1, "the file has no task"),
    "inline tables": ('tasks = [{id = "a", prompt = "x"}, {id = "a", prompt = "x"}]\n', 1, "already used"),
}


@pytest.mark.parametrize("name", BAD_TOML)
def test_bad_toml_is_one_line_with_its_line_number(name: str, tmp_path: Path) -> None:
    content, line, expected = BAD_TOML[name]
    path = write(tmp_path / "tasks.toml", content)
    with pytest.raises(InputError) as caught:
        read_batch(path)
    message = str(caught.value)
    assert message.startswith(f"{path}:{line}: "), message
    assert expected in message and "\n" not in message


def test_every_key_of_a_task_is_read_from_both_forms(tmp_path: Path) -> None:
    full = {
        "id": "x-1.y_z",
        "prompt": "do\nit ☃",
        "tests": "assert True",
        "cases": {"function": "f", "items": [{"args": [1, [2]], "kwargs": {"k": 1.5}, "expected": {"a": [True]}}]},
        "entry_point": "f",
        "files": {"pkg/a.py": "x = 1\n"},
        "library": {"kit.py": "y = 2\n"},
        "prelude": "from pkg.a import x",
        "task_type": "bug-fix",
        "mode": "attempt",
        "max_attempts": 3,
        "seed": 7,
        "in_process": True,
    }
    toml = """
[[tasks]]
id = "x-1.y_z"
prompt = "do\\nit ☃"
tests = "assert True"
entry_point = "f"
library = {"kit.py" = "y = 2\\n"}
prelude = "from pkg.a import x"
task_type = "bug-fix"
mode = "attempt"
max_attempts = 3
seed = 7
in_process = true
files = {"pkg/a.py" = "x = 1\\n"}
[tasks.cases]
function = "f"
[[tasks.cases.items]]
args = [1, [2]]
kwargs = {k = 1.5}
expected = {a = [true]}
"""
    from_json = read_batch(write(tmp_path / "t.jsonl", json.dumps(full) + "\n")).tasks
    from_toml = read_batch(write(tmp_path / "t.TOML", toml)).tasks
    assert from_json == from_toml
    (task,) = from_json
    assert task.mode is TaskMode.ATTEMPT
    assert json.loads(task.model_dump_json(exclude_none=True)) == full


def test_defaults_windows_lines_byte_order_mark_and_blank_lines(tmp_path: Path) -> None:
    path = write(tmp_path / "t.jsonl", b"\xef\xbb\xbf\r\n" + GOOD.encode() + b"\r\n\r\n")
    (task,) = read_batch(path).tasks
    assert (task.id, task.mode, task.max_attempts, task.seed) == ("a", TaskMode.PROJECT, None, None)


def test_limits_hold_at_the_limit_and_not_one_above(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch_input, "MAX_LINE_BYTES", len(GOOD))
    monkeypatch.setattr(batch_input, "MAX_TASKS", 2)
    two = GOOD + "\n" + GOOD.replace('"a"', '"b"')
    assert len(read_batch(write(tmp_path / "t.jsonl", two)).tasks) == 2
    with pytest.raises(InputError, match=r":3: more than 2 tasks"):
        read_batch(write(tmp_path / "t.jsonl", two + "\n" + GOOD.replace('"a"', '"c"')))
    with pytest.raises(InputError, match=rf":1: the line has {len(GOOD) + 1} bytes"):
        read_batch(write(tmp_path / "t.jsonl", GOOD + " "))
    monkeypatch.setattr(batch_input, "MAX_FILE_BYTES", len(two))
    assert read_batch(write(tmp_path / "t.jsonl", two))
    with pytest.raises(InputError, match="larger than"):
        read_batch(write(tmp_path / "t.jsonl", two + "\n"))


@pytest.mark.parametrize("kind", ["missing", "directory"])
def test_a_file_that_cannot_be_read_is_named(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "tasks.jsonl"
    if kind == "directory":
        path.mkdir()
    with pytest.raises(InputError, match=re.escape(str(path)) + ": cannot be read: "):
        read_batch(path)


def test_a_hostile_file_name_cannot_drive_the_terminal(tmp_path: Path) -> None:
    path = write(tmp_path / "a\x1b[2J\n.jsonl", "x")
    with pytest.raises(InputError) as caught:
        read_batch(path)
    assert str(caught.value).isprintable()


@given(st.binary(max_size=200))
def test_any_bytes_are_tasks_or_one_printable_line(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    directory = tmp_path_factory.getbasetemp()
    for suffix in ("jsonl", "toml"):
        path = directory / f"any-{os.getpid()}.{suffix}"
        path.write_bytes(data)
        try:
            assert read_batch(path).tasks
        except InputError as error:
            assert re.match(rf"{re.escape(str(path))}:\d+: ", str(error)) and str(error).isprintable()
