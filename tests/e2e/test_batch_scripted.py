"""The whole program on the scripted backend: engine, sidecar, sandbox and judge are real.

What is proven here: the record protocol and exit codes, --output, --junit, and that neither SIGKILL nor SIGINT
loses or repeats a finished task (A15, A92).
"""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from batch_process import Record, batch_process, ended, records, rune, until_task, write_script, write_tasks
from junitparser import JUnitXml

from engine.api_models import Trajectory
from engine.errors import ExitCode
from rune_tui.cli import run

NAMES = ("one", "two", "three")

pytestmark = pytest.mark.timeout(600)


@pytest.fixture
def paths(tmp_path: Path) -> tuple[Path, Path, list[str]]:
    """Input, script, and the options that use the script."""
    script = write_script(tmp_path / "script.json", *NAMES)
    options = ["-c", "inference.backend=scripted", "-c", f"inference.script={script}"]
    return write_tasks(tmp_path / "tasks.jsonl", *NAMES), script, options


@dataclass(frozen=True)
class Answer:
    """What a command printed, and its exit code."""

    code: int
    out: str
    err: str


Inside = Callable[..., Answer]


@pytest.fixture
def inside(home: Path, capfd: pytest.CaptureFixture[str]) -> Inside:
    """A command in this process: the same code without a second of imports."""

    def call(*arguments: str) -> Answer:
        capfd.readouterr()
        code = run(["--home", str(home), *arguments])
        return Answer(code, *capfd.readouterr())

    return call


def check_protocol(found: list[Record]) -> None:
    kinds = [record["type"] for record in found]
    assert kinds[0] == "launch" and kinds[-1] == "done" and set(kinds[1:-1]) <= {"task"}
    for record in found[1:-1]:
        keys = {"id", "outcome", "attempts", "tokens", "seconds", "adapter", "backend", "sandbox_level", "session"}
        assert keys <= set(record)


def test_a_batch_reports_writes_and_exits_as_promised(
    home: Path, tmp_path: Path, paths: tuple[Path, Path, list[str]]
) -> None:
    tasks, script, options = paths
    write_script(script, *NAMES, wrong="two")
    out, junit = tmp_path / "out", tmp_path / "junit.xml"
    done = rune(home, *options, "--batch", str(tasks), "--output", str(out), "--junit", str(junit))
    found = records(done)
    check_protocol(found)
    assert found[0]["sandbox_level"], "the launch line waits for the engine's look at its sandbox"
    assert done.returncode == ExitCode.NOT_VERIFIED, done.stderr
    assert {name: record["outcome"] for name, record in ended(found).items()} == {
        "one": "verified",
        "two": "failed",
        "three": "verified",
    }
    assert all(record["sandbox_level"] and record["backend"] == "scripted" for record in ended(found).values())
    assert (found[-1]["verified"], found[-1]["failed"], found[-1]["exit_code"]) == (2, 1, 1)
    assert "[3/3] three: verified" in done.stderr and "\x1b" not in done.stderr

    for name in NAMES:
        trajectory = Trajectory.model_validate_json((out / name / "trajectory.json").read_text())
        assert trajectory.session.task.id == name and len(trajectory.attempts) == 1
        assert f"def answer_{name}" in (out / name / "final.py").read_text()
        summary = json.loads((out / name / "run_summary.json").read_text())
        assert summary["final_tests_passed"] is (name != "two")
        assert summary == trajectory.session.summary, "A16: there is one summary, and every door shows it"
    assert json.loads((out / "run_summary.json").read_text()) == found[1:-1]
    document = JUnitXml.fromfile(str(junit))
    assert (document.tests, document.failures) == (3, 1)


def test_every_task_verified_is_exit_0_and_a_second_run_is_a_new_run(
    home: Path, paths: tuple[Path, Path, list[str]]
) -> None:
    """The second run is the negative control of --resume: without it everything is done again."""
    tasks, _, options = paths
    first, second = (rune(home, *options, "--batch", str(tasks)) for _ in range(2))
    assert first.returncode == second.returncode == ExitCode.OK, first.stderr + second.stderr
    runs = [records(done)[0]["run_id"] for done in (first, second)]
    assert [run[-2:] for run in runs] == ["-1", "-2"]
    sessions = [{record["session"] for record in ended(records(done)).values()} for done in (first, second)]
    assert not sessions[0] & sessions[1]
    assert not any(record["resumed"] for record in ended(records(second)).values())


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_resume_after_a_signal_repeats_no_finished_task(
    number: signal.Signals, home: Path, paths: tuple[Path, Path, list[str]]
) -> None:
    tasks, script, options = paths
    write_script(script, *NAMES, slow="two")
    with batch_process(home, str(tasks), *options) as process:
        first = until_task(process, "one")
        os.kill(process.pid, number)
        rest, _ = process.communicate(timeout=200)
    first += [json.loads(line) for line in rest.splitlines()]
    said = (home.parent / "stderr.txt").read_text()
    if number is signal.SIGKILL:
        assert process.returncode == -signal.SIGKILL
    else:
        assert process.returncode == ExitCode.INTERRUPTED
        check_protocol(first)
        assert first[-1]["interrupted"] is True and first[-1]["exit_code"] == ExitCode.INTERRUPTED
        assert "--resume" in said and "Traceback" not in said
        assert ended(first)["two"]["outcome"] == "cancelled"

    write_script(script, *NAMES)
    done = rune(home, *options, "--batch", str(tasks), "--resume")
    second = records(done)
    check_protocol(second)
    assert done.returncode == ExitCode.OK, done.stderr
    assert second[0]["run_id"] == first[0]["run_id"]
    finished = ended(first)["one"]
    repeated = ended(second)["one"]
    assert repeated["resumed"] is True and repeated["session"] == finished["session"]
    assert (repeated["attempts"], repeated["tokens"]) == (finished["attempts"], finished["tokens"])
    assert [ended(second)[name]["resumed"] for name in ("two", "three")] == [False, False]
    assert second[-1]["verified"] == 3 and second[-1]["resumed"] == 1


def test_a_changed_task_runs_anew_on_resume(home: Path, paths: tuple[Path, Path, list[str]]) -> None:
    tasks, _, options = paths
    first = ended(records(rune(home, *options, "--batch", str(tasks))))
    changed = tasks.read_text().replace("the answer to two", "the true answer to two")
    tasks.write_text(changed)
    second = ended(records(rune(home, *options, "--batch", str(tasks), "--resume")))
    assert {name: record["resumed"] for name, record in second.items()} == {"one": True, "two": False, "three": True}
    assert second["two"]["session"] != first["two"]["session"]


def test_a_running_engine_is_used_and_outlives_its_batch(
    home: Path, tmp_path: Path, paths: tuple[Path, Path, list[str]], inside: Inside
) -> None:
    tasks, _, options = paths
    started = rune(home, *options, "engine", "start")
    assert started.returncode == ExitCode.OK, started.stderr
    try:
        status = json.loads(inside("status", "--json").out)
        assert f"pid {status['pid']}" in inside("engine", "start").out, "a second start finds the first"

        done = rune(home, "--batch", str(tasks))
        assert done.returncode == ExitCode.OK, done.stderr
        assert records(done)[0]["engine"] == "running"
        for extra in (["-c", "generation.seed=1"], ["--backend", "llamacpp"]):
            refused = inside("--batch", str(tasks), *extra)
            assert (refused.code, refused.out) == (ExitCode.USAGE, ""), refused.err
            assert "rune-tui engine stop" in refused.err and refused.err.count("\n") == 1

        check_commands(inside, tmp_path, ended(records(done))["one"]["session"])
    finally:
        stopped = inside("engine", "stop")
    assert stopped.out == "engine stopped\n", stopped.err
    assert inside("status").code == ExitCode.ENVIRONMENT
    assert inside("engine", "stop").out == "no engine was running\n"


def check_commands(inside: Inside, tmp_path: Path, session: str) -> None:
    """The subcommands that ask the engine."""
    listed = json.loads(inside("sessions", "list", "--json").out)
    assert len(listed) == 3 and session in {one["id"] for one in listed}
    assert "answer_one" in inside("sessions", "show", session).out
    exported = Trajectory.model_validate_json(inside("sessions", "export", session).out)
    assert exported.session.id == session and len(exported.attempts) == 1
    missing = inside("sessions", "show", "rune-00000000")
    assert missing.code == ExitCode.USAGE and missing.err.count("\n") == 1
    assert inside("sessions", "cancel", session).code == ExitCode.USAGE, "it has ended"

    log = tmp_path / "log.jsonl"
    assert inside("export-log", "--session", session, "--output", str(log)).code == ExitCode.OK
    (attempt,) = [json.loads(line) for line in log.read_text().splitlines()]
    assert attempt["session_id"] == session and attempt["passed"] is True
    assert inside("export-log", "--since", "2999-01-01").out == ""
    assert inside("export-log", "--format", "md", "--session", session).out.startswith("# one: verified")
    events = inside("export-log", "--what", "events", "--session", session).out.splitlines()
    sequences = [json.loads(line)["sequence"] for line in events]
    assert sequences == sorted(set(sequences)) and len(sequences) > 2
    assert json.loads(inside("adapters", "list", "--json").out) == []


def test_an_engine_that_cannot_start_says_why_and_exits_3(home: Path, paths: tuple[Path, Path, list[str]]) -> None:
    tasks, _, options = paths
    home.mkdir()
    (home / "rune.db").write_bytes(b"this is not a database" * 100)
    done = rune(home, *options, "--batch", str(tasks))
    assert (done.returncode, done.stdout) == (ExitCode.ENVIRONMENT, "")
    assert done.stderr.count("\n") == 1 and "rune.db" in done.stderr
    background = rune(home, *options, "engine", "start")
    assert background.returncode == ExitCode.ENVIRONMENT
    assert "rune.db" in background.stderr and "Traceback" not in background.stderr
