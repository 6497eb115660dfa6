"""Files of a batch: --output, run_summary.json, --junit; whole or absent, and inside their directory."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from batch_samples import HOSTILE, SUMMARY, session, task, trajectory
from junitparser import Error, Failure, JUnitXml, Properties, Skipped

from engine.api_models import Outcome, Trajectory
from engine.errors import InputError
from rune_tui.atomic_file import atomic_writer, write_atomically
from rune_tui.batch_input import Batch
from rune_tui.batch_output import check_destination, check_file_destination, write_run, write_task
from rune_tui.batch_records import task_result
from rune_tui.junit import junit_xml


def test_a_task_s_files_are_complete_and_stay_in_its_folder(tmp_path: Path) -> None:
    write_task(tmp_path / "out", trajectory())
    folder = tmp_path / "out" / "a"
    found = sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file())
    assert found == [
        "out/a/final.py",
        "out/a/run_summary.json",
        "out/a/subtasks/01-parse-me.py",
        "out/a/subtasks/02-print.py",
        "out/a/trajectory.json",
    ]
    assert (folder / "final.py").read_bytes() == HOSTILE.encode()
    assert (folder / "subtasks/01-parse-me.py").read_text() == "good = 1"
    assert json.loads((folder / "run_summary.json").read_text()) == SUMMARY, "as the engine has it, whole"
    assert Trajectory.model_validate_json((folder / "trajectory.json").read_text()) == trajectory()


def test_a_session_without_summary_or_code_leaves_its_trajectory_alone(tmp_path: Path) -> None:
    write_task(tmp_path, Trajectory(session=session(outcome=Outcome.CANCELLED, code=None), attempts=()))
    assert os.listdir(tmp_path / "a") == ["trajectory.json"]


def test_the_batch_s_own_summary_is_the_list_of_its_tasks(tmp_path: Path) -> None:
    results = [task_result(session(name, task=task(name))) for name in ("a", "b")]
    write_run(tmp_path / "out", results)
    assert json.loads((tmp_path / "out/run_summary.json").read_text()) == [result.record() for result in results]


def test_no_task_may_have_the_name_of_the_batch_s_own_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="rename it"):
        check_destination(tmp_path, Batch(tmp_path / "tasks.jsonl", (task("run_summary.json"),)))


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    write_atomically(path, "old")
    with pytest.raises(ZeroDivisionError), atomic_writer(path) as write:
        write("half of the ne")
        raise ZeroDivisionError
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["x.json"]


@pytest.mark.parametrize(("point", "content"), [("summary.before_rename", "old"), ("summary.after_rename", "new")])
def test_a_kill_at_each_crash_point_leaves_a_whole_file_d2(point: str, content: str, tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_text("old")
    code = "import sys; from pathlib import Path; from rune_tui.atomic_file import write_atomically as w; "
    killed = subprocess.run(
        [sys.executable, "-c", code + "w(Path(sys.argv[1]), 'new')", str(path)],
        env={"PYTHONPATH": os.getcwd(), "RUNE_CRASH_AT": point},
        timeout=150,
        check=False,
    )
    assert killed.returncode == -signal.SIGKILL
    assert path.read_text() == content


def test_destinations_are_checked_without_creating_anything(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    batch = Batch(tmp_path / "tasks.jsonl", (task("a"),))
    check_destination(tmp_path / "new" / "deep", batch)
    check_file_destination("--junit", tmp_path / "new.xml")
    for directory in (tmp_path / "file", tmp_path / "file" / "x"):
        with pytest.raises(InputError, match="--output"):
            check_destination(directory, batch)
    for path in (tmp_path, tmp_path / "none" / "x.xml", tmp_path / "file" / "x.xml"):
        with pytest.raises(InputError, match="--junit"):
            check_file_destination("--junit", path)
    assert os.listdir(tmp_path) == ["file"]


def test_junit_tells_the_outcomes_apart_and_survives_hostile_text() -> None:
    results = [
        task_result(session(f"t{number}", task=task(f"t{number}"), outcome=outcome, reason=HOSTILE + "\x00\ufffe"))
        for number, outcome in enumerate(Outcome)
    ]
    document = JUnitXml.fromstring(junit_xml("tasks<&>\x1b.jsonl", results).encode())
    (suite,) = list(document)
    kinds = {case.name: [type(result) for result in case.result] for case in suite}
    assert kinds == {
        "t0": [],  # verified
        "t1": [],  # verified-in-process
        "t2": [Skipped],  # self-checked
        "t3": [Failure],
        "t4": [Error],
        "t5": [Skipped],  # cancelled
    }
    assert (suite.tests, suite.failures, suite.errors, suite.skipped) == (6, 1, 1, 2)
    properties = {prop.name: prop.value for prop in next(next(iter(suite)).iterchildren(Properties))}
    assert properties["outcome"] == "verified" and properties["sandbox_level"] == "strict"
