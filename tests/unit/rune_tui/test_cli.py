"""The command line: exit codes, one plain sentence for an error, and imports that stay light."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from engine.errors import ExitCode
from rune_tui.cli import COMMANDS, run

HEAVY = ("textual", "torch", "llama_cpp", "transformers", "vllm")

PROBE = """
import sys
from rune_tui.cli import run
{plant}
code = run(sys.argv[1:])
sys.stderr.write("\\nHEAVY " + ",".join(name for name in {heavy!r} if name in sys.modules))
sys.exit(code)
"""


def in_subprocess(home: Path, *arguments: str, plant: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", PROBE.format(plant=plant, heavy=HEAVY), *arguments],
        capture_output=True,
        text=True,
        timeout=150,
        check=False,
        env={**os.environ, "RUNE_HOME": str(home), "PYTHONPATH": os.getcwd()},
    )


def heavy_modules(done: subprocess.CompletedProcess[str]) -> list[str]:
    line = next(line for line in done.stderr.splitlines() if line.startswith("HEAVY"))
    return [name for name in line.removeprefix("HEAVY").strip().split(",") if name]


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["--help"], ExitCode.OK),
        (["--version"], ExitCode.OK),
        (["status"], ExitCode.ENVIRONMENT),
        (["status", "--json"], ExitCode.ENVIRONMENT),
        (["doctor", "--json"], None),
        (["device"], ExitCode.ENVIRONMENT),
        (["backend", "list"], ExitCode.ENVIRONMENT),
        (["--batch", "no-such-file.jsonl"], ExitCode.USAGE),
    ],
)
def test_light_commands_import_nothing_heavy(arguments: list[str], code: ExitCode | None, tmp_path: Path) -> None:
    done = in_subprocess(tmp_path / "home", *arguments)
    assert heavy_modules(done) == []
    assert code is None or done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr


def test_a_whole_batch_imports_nothing_heavy_in_its_own_process(tmp_path: Path) -> None:
    tasks = tmp_path / "tasks.jsonl"
    tasks.write_text(
        '{"id": "add", "mode": "attempt", "prompt": "Write `add(a, b)`", "tests": "assert add(1, 2) == 3"}\n'
    )
    done = in_subprocess(tmp_path / "home", "--batch", str(tasks), "--backend", "scripted")
    assert heavy_modules(done) == [], done.stderr
    assert [json.loads(line)["type"] for line in done.stdout.splitlines()] == ["launch", "task", "done"]


@pytest.mark.parametrize("name", ["textual"])
def test_a_planted_import_is_seen(name: str, tmp_path: Path) -> None:
    """Negative control: the check above reports a module that was imported."""
    assert heavy_modules(in_subprocess(tmp_path, "--help", plant=f"import {name}")) == [name]


def test_help_takes_at_most_a_quarter_of_a_second_of_cpu() -> None:
    """CPU seconds of the process, the least of five: the wall clock of a busy machine says nothing."""

    def once() -> float:
        child = subprocess.Popen([sys.executable, "-m", "rune_tui", "--help"], stdout=subprocess.DEVNULL)
        _, status, usage = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
        assert child.returncode == 0
        return usage.ru_utime + usage.ru_stime

    best = min(once() for _ in range(5))
    assert best <= 0.25, f"{best:.3f} s"


def test_help_names_every_command_and_every_command_loads(capfd: pytest.CaptureFixture[str]) -> None:
    assert run(["--help"]) == ExitCode.OK
    text = capfd.readouterr().out
    assert all(name in text for name in COMMANDS) and "130  interrupted" in text
    for name in COMMANDS:
        assert run([name, "--help"]) == ExitCode.OK
        assert "Usage: rune-tui " + name in capfd.readouterr().out


USAGE_ERRORS = {
    "unknown option": ["--nope"],
    "unknown command": ["nope"],
    "--resume without --batch": ["--resume"],
    "--output without --batch": ["--output", "x", "status"],
    "--batch with a command": ["--batch", "x", "status"],
    "unknown format": ["export-log", "--format", "xml"],
    "missing argument": ["sessions", "show"],
    "unknown config key": ["-c", "generation.temprature=1", "config", "show"],
    "bad config value": ["-c", "generation.temperature=hot", "config", "show"],
    "bad since": ["export-log", "--since", "soon"],
    "unknown backend": ["--batch", "x", "--backend", "gpt"],
    "adapter id with a separator": ["adapters", "import", "../x", "/nowhere"],
}


@pytest.mark.parametrize("name", USAGE_ERRORS)
def test_usage_errors_are_one_sentence_and_exit_2(name: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    home = tmp_path / "home"
    assert run(["--home", str(home), *USAGE_ERRORS[name]]) == ExitCode.USAGE
    out, err = capfd.readouterr()
    assert out == "" and err.startswith("rune-tui: ") and err.count("\n") == 1
    assert not home.exists(), "nothing is created for bad usage"


def test_a_config_error_names_the_nearest_key(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "config.toml").write_text("[generation]\ntemprature = 1\n")
    assert run(["--home", str(tmp_path), "config", "show"]) == ExitCode.USAGE
    assert "Did you mean generation.temperature?" in capfd.readouterr().err


@pytest.mark.parametrize(
    "arguments",
    [["sessions", "list"], ["sessions", "cancel", "x"], ["adapters", "list"], ["export-log"], ["engine", "status"]],
)
def test_without_an_engine_the_remedy_is_named(
    arguments: list[str], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert run(["--home", str(tmp_path), *arguments]) == ExitCode.ENVIRONMENT
    assert "rune-tui engine start" in capfd.readouterr().err


def test_without_a_terminal_the_app_says_what_to_do(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert run(["--home", str(tmp_path)]) == ExitCode.ENVIRONMENT
    assert "--batch" in capfd.readouterr().err


def test_a_home_too_long_for_a_socket_is_refused(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert run(["--home", str(tmp_path / ("x" * 120)), "status"]) == ExitCode.ENVIRONMENT
    assert "choose a shorter one" in capfd.readouterr().err


def test_an_unexpected_error_is_a_sentence_and_with_rune_debug_a_traceback(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(COMMANDS, "broken", "A command without a module.")
    for debug in ("0", "1"):
        monkeypatch.setenv("RUNE_DEBUG", debug)
        assert run(["--home", str(tmp_path), "broken"]) == ExitCode.ENVIRONMENT
        err = capfd.readouterr().err
        assert "unexpected ModuleNotFoundError" in err
        assert ("Traceback" in err) is (debug == "1")


def test_config_show_is_the_configuration_in_force(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "config.toml").write_text("[generation]\nseed = 5\n")
    assert run(["--home", str(tmp_path), "-c", "generation.top_p=0.5", "config", "show"]) == ExitCode.OK
    shown = json.loads(capfd.readouterr().out)["generation"]
    assert (shown["seed"], shown["top_p"], shown["temperature"]) == (5, 0.5, 0.3)
    assert run(["--home", str(tmp_path), "config", "path"]) == ExitCode.OK
    assert capfd.readouterr().out == f"{tmp_path / 'config.toml'}\n"
