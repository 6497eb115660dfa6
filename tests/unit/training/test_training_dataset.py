"""Where examples come from: files, verified sessions, and what must never get in (A54)."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path

import pytest

from engine.api_models import AttemptRecord, Outcome, PhaseName, RunState, SessionRecord, TaskSpec
from engine.config import TrainSection, load_config
from engine.errors import InputError
from engine.training import dataset
from engine.training.dataset import DataStore, build, examples_of, from_trajectories, gives_away, read_file
from engine.training.selection import Example
from engine.training.spec import Turn, parse_row

GOOD = "def add(a, b):\n    return a + b"
BAD = "def add(a, b):\n    return a - b"
RETRY = f"Add.\n\nThis code was tried:\n{BAD}\nWhat is wrong: expected 3, got -1.\nWrite the corrected code, complete."


@pytest.fixture(scope="module")
def recipe() -> TrainSection:
    return load_config(Path("/none")).recipe("standard")


def write(path: Path, *rows: object) -> Path:
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return path


def session(outcome: Outcome | None = Outcome.VERIFIED, *, code: str | None = GOOD, **task: object) -> SessionRecord:
    spec = TaskSpec.model_validate({"id": "add", "prompt": "Add.", "tests": "assert add(1, 2) == 3", **task})
    return SessionRecord(
        id="rune-1", task=spec, state=RunState.SUCCEEDED, outcome=outcome, code=code, created_at="2026"
    )


def attempt(number: int, code: str, prompt: str = "Add.", **more: object) -> AttemptRecord:
    values: dict[str, object] = {
        "session_id": "rune-1",
        "number": number,
        "phase": PhaseName.ATTEMPT,
        "prompt": prompt,
        "system_prompt": "You code.",
        "response": code,
        "code": code,
        "passed": code == GOOD,
        "finish_reason": "stop",
        "created_at": "2026",
    }
    return AttemptRecord.model_validate({**values, **more})


def told(examples: Sequence[Example]) -> list[tuple[str, str]]:
    return [(one.messages[-1].content, one.completion) for one in examples]


ANSWER = f"```python\n{GOOD}\n```"

# --- a file ------------------------------------------------------------------------------------------------------


def test_rows_of_a_file_become_examples(tmp_path: Path) -> None:
    rows = ({"prompt": "a", "completion": "1"}, "", {"prompt": "b", "completion": "2", "task": "HumanEval/1"})
    found = read_file(write(tmp_path / "d.jsonl", *rows))
    assert told(found) == [("a", "1"), ("b", "2")]
    assert found[1].task == "HumanEval/1" and found[0].task != found[1].task


def test_a_system_turn_of_a_row_comes_first(tmp_path: Path) -> None:
    (found,) = read_file(write(tmp_path / "d.jsonl", {"prompt": "a", "completion": "1", "system": "Be short."}))
    assert [(turn.role, turn.content) for turn in found.messages] == [("system", "Be short."), ("user", "a")]


def test_a_row_says_that_its_answer_goes_on_and_the_file_of_a_job_keeps_it(
    tmp_path: Path, recipe: TrainSection
) -> None:
    rows = (
        {"prompt": "a", "completion": "1"},
        {"prompt": "b", "completion": "2", "cut": True},
        {"prompt": "c", "completion": "3", "cut": False},
    )
    found = read_file(write(tmp_path / "d.jsonl", *rows))
    assert [one.cut for one in found] == [False, True, False]
    kept = [parse_row(line, 1) for line in build(found, recipe, 0).content.splitlines()]
    assert {row.completion: row.cut for row in kept} == {"1": False, "2": True, "3": False}
    before = b'{"messages": [{"role": "user", "content": "a"}], "completion": "1"}'
    assert not parse_row(before, 1).cut, "data that was kept before there were such rows is whole"


def test_a_row_of_another_domain_is_kept_as_such_and_alone_is_nothing_to_learn_from(
    tmp_path: Path, recipe: TrainSection
) -> None:
    other = {"prompt": "b", "completion": "2", "keep": True}
    found = read_file(write(tmp_path / "d.jsonl", {"prompt": "a", "completion": "1"}, other))
    kept = [parse_row(line, 1) for line in build(found, recipe, 0).content.splitlines()]
    assert {row.completion: row.keep for row in kept} == {"1": False, "2": True}
    with pytest.raises(InputError, match="no example to learn from"):
        build(read_file(write(tmp_path / "e.jsonl", other)), recipe, 0)


@pytest.mark.parametrize(
    ("row", "what"),
    [
        ("{", "EOF|JSON"),
        ("[]", "object"),
        ('{"prompt": "a"}', "completion"),
        ('{"prompt": "", "completion": "x"}', "prompt"),
        ('{"prompt": " ", "completion": "x"}', "nothing but space"),
        ('{"prompt": "a", "completion": 1}', "completion"),
        ('{"prompt": "a", "completion": "x", "label": "y"}', "label"),
        ('{"prompt": "a", "completion": "x", "cut": "yes"}', "cut: "),
        ('{"prompt": "a", "completion": "x", "cut": 1}', "cut: "),
        ('{"prompt": "a", "completion": "x", "keep": "no"}', "keep: "),
        ('{"prompt": "\\ud800", "completion": "x"}', "JSON|surrogate|unicode"),
    ],
)
def test_a_bad_row_is_one_sentence_with_file_and_line(tmp_path: Path, row: str, what: str) -> None:
    path = write(tmp_path / "d.jsonl", {"prompt": "a", "completion": "1"}, row)
    with pytest.raises(InputError, match=what) as refused:
        read_file(path)
    assert str(refused.value).startswith(f"{path}:2: ") and "\n" not in str(refused.value)


def test_a_file_that_is_none_is_refused(tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    for path, what in (
        (tmp_path / "missing", "cannot be read"),
        (tmp_path, "plain file"),
        (fifo, "plain file"),
        (Path("relative.jsonl"), "absolute"),
        (write(tmp_path / "empty.jsonl"), "no row"),
    ):
        with pytest.raises(InputError, match=what):
            read_file(path)


def test_limits_of_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "d.jsonl", *({"prompt": str(number), "completion": "x"} for number in range(5)))
    for name, value, what in (
        ("MAX_ROWS", 3, "more than 3 rows"),
        ("MAX_LINE_BYTES", 10, ":1: a row of more"),
        ("MAX_FILE_BYTES", 10, "allowed"),
    ):
        with monkeypatch.context() as patch, pytest.raises(InputError, match=what):
            patch.setattr(dataset, name, value)
            read_file(path)


# --- sessions ----------------------------------------------------------------------------------------------------


def test_a_verified_session_gives_its_task_with_the_final_code() -> None:
    found = examples_of(session(), [attempt(1, GOOD)])
    assert told(found) == [("Add.", ANSWER)]
    assert [turn.role for turn in found[0].messages] == ["system", "user"]


def test_a_fix_is_learned_from_the_request_that_showed_the_failure() -> None:
    found = examples_of(session(), [attempt(1, BAD), attempt(2, GOOD, RETRY)])
    assert told(found) == [("Add.", ANSWER), (RETRY, ANSWER)]


@pytest.mark.parametrize(
    "attempts",
    [
        [attempt(1, BAD), attempt(2, GOOD)],  # a fresh draw: nothing of the failure is shown
        [attempt(1, BAD, finish_reason="length"), attempt(2, GOOD, RETRY)],  # gone on from, not mended
        [attempt(1, BAD, passed=True), attempt(2, GOOD, RETRY)],
    ],
)
def test_what_is_no_fix_is_not_learned_as_one(attempts: list[AttemptRecord]) -> None:
    assert told(examples_of(session(), attempts)) == [("Add.", ANSWER)]


def test_a_repair_is_learned_as_a_fix_and_the_task_by_its_own_text() -> None:
    attempts = [attempt(1, BAD, "Put it together."), attempt(2, GOOD, RETRY, phase=PhaseName.REPAIR)]
    assert told(examples_of(session(), attempts)) == [("Add.", ANSWER), (RETRY, ANSWER)]


def test_code_that_no_attempt_wrote_whole_is_asked_for_by_the_task() -> None:
    attempts = [attempt(1, "def a(): ...", "Part one."), attempt(2, "def b(): ...", "Part two.")]
    assert told(examples_of(session(), attempts)) == [("Add.", ANSWER)]


@pytest.mark.parametrize("outcome", [None, Outcome.FAILED, Outcome.ERROR, Outcome.CANCELLED, Outcome.SELF_CHECKED])
def test_a54_what_was_not_verified_by_given_tests_is_refused(outcome: Outcome | None) -> None:
    good = (session(), [attempt(1, GOOD)])
    with pytest.raises(InputError, match=r"rune-1 is .* not verified"):
        from_trajectories([good, (session(outcome), [attempt(1, GOOD)])])


def test_a54_a_session_without_code_or_attempts_is_refused() -> None:
    for record, attempts in ((session(code=None), [attempt(1, GOOD)]), (session(), [])):
        with pytest.raises(InputError, match="no final code"):
            from_trajectories([(record, attempts)])


HIDDEN = "def check(candidate):\n    assert candidate(2, 40) == 42\n    x = 1\n"


def test_nothing_of_a_hidden_test_gets_in() -> None:
    secret = session(hidden_tests=HIDDEN, code=GOOD + "\n\nassert candidate(2, 40) == 42")
    clean, dropped = from_trajectories([(secret, [attempt(1, secret.code or "")])])
    assert (clean, dropped) == ([], 1)
    asked = session(hidden_tests=HIDDEN)
    leaky = attempt(1, GOOD, "Add.\n  assert candidate(2, 40) == 42\n")
    assert from_trajectories([(asked, [leaky])]) == ([], 1)
    told_all = session(hidden_tests=HIDDEN, prompt="Add.\nassert candidate(2, 40) == 42")
    assert len(from_trajectories([(told_all, [attempt(1, GOOD)])])[0]) == 1, "what the task itself says is no secret"


def test_a_hidden_test_of_one_session_is_a_secret_of_all() -> None:
    first = session(hidden_tests=HIDDEN)
    second = session(code=GOOD + "\n\nassert candidate(2, 40) == 42")
    clean, dropped = from_trajectories([(first, [attempt(1, GOOD)]), (second, [attempt(1, second.code or "")])])
    assert (len(clean), dropped) == (1, 1)


def test_control_without_the_check_the_hidden_test_is_learned() -> None:
    """Negative control: the same session's examples, unchecked, have the secret in them."""
    secret = session(hidden_tests=HIDDEN, code=GOOD + "\n\nassert candidate(2, 40) == 42")
    (unchecked,) = examples_of(secret, [attempt(1, secret.code or "")])
    assert gives_away(unchecked, frozenset({"assert candidate(2, 40) == 42"}))
    assert not gives_away(unchecked, frozenset())


# --- the file of a job -------------------------------------------------------------------------------------------


def example(number: int) -> Example:
    return Example((Turn(role="user", content=f"p{number}"),), f"x = {number}", f"t{number}")


def test_the_file_is_what_the_trainer_reads_and_is_named_by_it(tmp_path: Path, recipe: TrainSection) -> None:
    data = build([example(number) for number in range(20)], recipe, seed=3, leaking=2)
    store = DataStore(tmp_path / "training")
    path = store.put(data)
    content = path.read_bytes()
    assert path.name == f"{hashlib.sha256(content).hexdigest()}.jsonl" and store.is_whole(data.digest)
    rows = [parse_row(line, number) for number, line in enumerate(content.splitlines(), start=1)]
    assert (len(data.learned), len(data.held_out), data.left_out) == (18, 2, 2)
    assert sum(row.held_out for row in rows) == 2
    assert build([example(number) for number in range(20)], recipe, seed=3).digest == data.digest
    assert build([example(number) for number in range(20)], recipe, seed=4).digest != data.digest


def test_a_damaged_file_is_written_again_and_a_whole_one_is_left_alone(tmp_path: Path, recipe: TrainSection) -> None:
    data = build([example(1)], recipe, seed=0)
    store = DataStore(tmp_path)
    path = store.put(data)
    before = path.stat().st_mtime_ns
    assert store.put(data).stat().st_mtime_ns == before
    path.chmod(0o600)
    path.write_bytes(b"half")
    assert not store.is_whole(data.digest)
    assert store.put(data).read_bytes() == data.content
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]


def test_nothing_to_learn_is_said(recipe: TrainSection) -> None:
    with pytest.raises(InputError, match="no example"):
        build([], recipe, seed=0)
