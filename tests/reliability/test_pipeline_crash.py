"""D2 for sessions: SIGKILL at every crash point of the pipeline, three hits each, then resumed in a new process.

The resumed session must end with the record of an undisturbed one, no attempt may be recorded twice, and no attempt
that was recorded may be made again. Workers come from a fork server, so that each is a process of its own without
paying LangGraph's import each time.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
from collections.abc import Iterator
from multiprocessing import forkserver
from pathlib import Path
from typing import Any

import pytest
from support.pipeline_fakes import memory_directory
from support.pipeline_worker import SESSION, Variant, work

from registry.crash import POINTS

OURS = sorted(point for point in POINTS if point.split(".")[0] in ("session", "attempt"))
OTHERS = {"session.after_create"}
"""Of `engine.sessions`, which has its own test."""
SUBPROCESS_S = 150.0

TESTS = Path(__file__).parent.parent
SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload(["support.pipeline_worker"])

Json = dict[str, Any]


@pytest.fixture(scope="module", autouse=True)
def fork_server() -> None:
    """The server finds its modules by PYTHONPATH alone, whatever the path of this process is."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join(str(path) for path in (TESTS.parent, TESTS)))
        forkserver.ensure_running()


@pytest.fixture
def memory_home() -> Iterator[Path]:
    with memory_directory() as directory:
        yield directory


def run(home: Path, crash_at: str = "", variant: Variant = Variant.PRODUCT) -> int:
    """Run or resume the session in a new process; its exit status, negative for a signal."""
    process = SERVER.Process(target=work, args=(home, crash_at, variant))
    process.start()
    process.join(SUBPROCESS_S)
    assert process.exitcode is not None, "the session hangs"
    status = process.exitcode
    process.close()
    return status


def read(path: Path) -> Json:
    return json.loads(path.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, fork_server: None) -> Json:
    """The record of a session that nothing happened to."""
    home = tmp_path_factory.mktemp("undisturbed")
    assert run(home) == 0
    record = read(home / "result.json")
    assert record["outcome"] == "verified"
    assert record["attempts"] >= 12
    assert "repair" in record["summary"]["phases"]
    return record


def disturbed(home: Path, crash_at: str, variant: Variant = Variant.PRODUCT) -> tuple[Json, Json]:
    """The record of a session that was killed and resumed, and what the resumed process asked the model for."""
    assert run(home, crash_at, variant) == -signal.SIGKILL, f"{crash_at} was never passed"
    assert run(home, "", variant) == 0
    return read(home / "result.json"), read(home / "calls.json")


def violations(record: Json, calls: Json, undisturbed: Json) -> list[str]:
    """Which promises the resumed session broke."""
    broken: list[str] = []
    if len(set(record["records"])) != len(record["records"]) or record["records"] != undisturbed["records"]:
        broken.append("attempts differ")
    if record["numbers"] != list(range(1, len(record["numbers"]) + 1)):
        broken.append("numbers have gaps")
    if record["events"] != sorted(f"attempt/{SESSION}.{number}" for number in record["numbers"]):
        broken.append("not one event for each attempt")
    if set(calls["calls"]) & set(calls["recorded_before"]):
        broken.append("a recorded attempt was made again")
    timeless = ("outcome", "reason", "code", "summary", "attempts", "tokens", "phases")
    broken += [f"{name} differs" for name in timeless if record[name] != undisturbed[name]]
    return broken


def test_d2_every_point_of_the_pipeline_is_driven() -> None:
    assert OURS == [
        "attempt.after_generate",
        "attempt.after_record",
        "attempt.before_generate",
        "attempt.before_record",
        "session.after_create",
        "session.after_phase",
        "session.before_phase",
    ], "a new durable step needs its test: it is driven below by being in this list"


@pytest.mark.parametrize("hit", [1, 2, 3])
@pytest.mark.parametrize("point", [point for point in OURS if point not in OTHERS])
def test_d2_a15_killed_at_a_point_and_resumed_gives_the_same_record(
    memory_home: Path, undisturbed: Json, point: str, hit: int
) -> None:
    record, calls = disturbed(memory_home, f"{point}:{hit}")
    assert violations(record, calls, undisturbed) == []


def test_d2_killed_again_and_again_it_still_ends_with_the_same_record(memory_home: Path, undisturbed: Json) -> None:
    kills = 0
    # Three subtasks side by side: up to three hits are attempts that were recorded before, the fourth is a new one.
    while run(memory_home, "attempt.after_record:4") == -signal.SIGKILL:
        kills += 1
        assert kills <= undisturbed["attempts"], "each process must get one attempt further"
    assert kills >= 3
    assert violations(read(memory_home / "result.json"), read(memory_home / "calls.json"), undisturbed) == []


def test_d2_a_generation_that_ended_before_the_kill_is_not_made_again(memory_home: Path) -> None:
    record, calls = disturbed(memory_home, "attempt.before_record:1")
    assert calls["recorded_before"] == []
    assert len(calls["calls"]) == len(set(calls["calls"]))
    first = next(json.loads(text) for text in record["records"] if json.loads(text)["phase"] == "decompose")
    assert first["seed"] not in calls["calls"]


@pytest.mark.parametrize(
    ("variant", "promise"),
    [(Variant.NO_CHECKPOINT, "a recorded attempt was made again"), (Variant.NO_STEP, "attempts differ")],
)
def test_d2_negative_control_a_pipeline_that_forgets_is_caught(
    memory_home: Path, undisturbed: Json, variant: Variant, promise: str
) -> None:
    record, calls = disturbed(memory_home, "attempt.after_record:3", variant)
    assert promise in violations(record, calls, undisturbed)
