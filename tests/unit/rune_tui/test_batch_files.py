"""Files of a batch: --output, run_summary.json (A16), --junit; whole or absent, and inside their directory."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from batch_samples import HOSTILE, session, task, trajectory
from junitparser import Error, Failure, JUnitXml, Properties, Skipped

from engine.api_models import Outcome, Trajectory
from engine.errors import InputError
from rune_tui.atomic_file import atomic_writer, write_atomically
from rune_tui.batch_output import check_destination, check_file_destination, write_task
from rune_tui.batch_records import task_result
from rune_tui.junit import junit_xml
from rune_tui.run_summary import run_summary


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
    assert (folder / "subtasks/01-parse-me.py").read_text() == "good = 1", "a failing attempt replaces no passing one"
    assert Trajectory.model_validate_json((folder / "trajectory.json").read_text()) == trajectory()


def test_run_summary_has_phases_subtasks_adapters_counts_and_verdict_a16() -> None:
    summary = run_summary(trajectory())
    assert json.loads(json.dumps(summary)) == summary
    assert summary["phases"] == {
        "decompose": {"state": "done", "iterations": 1, "score": 0.667, "detail": ""},
        "code": {"state": "done", "iterations": 3, "score": None, "detail": ""},
    }
    assert summary["total_iterations"] == 4
    assert summary["final_tests_passed"] is True and summary["outcome"] == "verified"
    assert summary["adapters"] == [{"adapter_id": "ab" * 32, "task_type": "code-gen", "phase": "code"}]
    assert [(entry["name"], entry["passed"], entry["attempts"]) for entry in summary["subtasks"]] == [  # type: ignore[index, union-attr]
        ("../parse me", True, 2),
        ("print", True, 1),
    ]
    assert summary["accumulated_code"] == HOSTILE, "texts are complete"


@pytest.mark.parametrize("outcome", [Outcome.SELF_CHECKED, Outcome.FAILED, Outcome.ERROR, Outcome.CANCELLED, None])
def test_only_given_tests_make_final_tests_passed(outcome: Outcome | None) -> None:
    assert run_summary(Trajectory(session=session(outcome=outcome), attempts=()))["final_tests_passed"] is False


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
        timeout=30,
        check=False,
    )
    assert killed.returncode == -signal.SIGKILL
    assert path.read_text() == content


def test_destinations_are_checked_without_creating_anything(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    check_destination(tmp_path / "new" / "deep")
    check_file_destination("--junit", tmp_path / "new.xml")
    for directory in (tmp_path / "file", tmp_path / "file" / "x"):
        with pytest.raises(InputError, match="--output"):
            check_destination(directory)
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
