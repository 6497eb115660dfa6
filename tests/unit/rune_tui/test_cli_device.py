"""`rune-tui backend` and `rune-tui device`: what they print, what they refuse before it is tried, where they end."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click
import pytest
import uvicorn
from fastapi import FastAPI
from support.fake_engine import BACKENDS, device

import engine.inference.install
from engine.api_device import BackendInfo, BackendName, BackendSwitch, BackendSwitched, DeviceStatus
from engine.errors import BackendUnavailableError, ExitCode
from engine.home import socket_path
from engine.routes.problems import install as install_problems
from rune_tui.actions import ACTIONS
from rune_tui.cli import cli, run


def fake_app(*, served: bool = True) -> FastAPI:
    """The device's routes over real HTTP; without them it answers as an older engine does."""
    app = FastAPI()
    install_problems(app)
    state = device(reason="It \x1b]52;c;eA==\x07answers.")
    if not served:
        return app

    @app.get("/device")
    async def status() -> DeviceStatus:
        return state

    @app.get("/device/backends")
    async def backends() -> tuple[BackendInfo, ...]:
        return BACKENDS

    @app.post("/device/backend")
    async def use(body: BackendSwitch) -> BackendSwitched:
        works = body.backend is not BackendName.SCRIPTED
        now = body.backend if works else BackendName.LLAMACPP
        return BackendSwitched(backend=now, switched=works, reason="" if works else "It would not start.", seconds=1.5)

    return app


@contextmanager
def serving(home: Path, app: FastAPI) -> Iterator[Path]:
    """The app on the home's socket, in a thread with a loop of its own."""
    socket = socket_path(home)
    socket.parent.mkdir(parents=True)
    ready = threading.Event()

    class Server(uvicorn.Server):
        async def startup(self, sockets: object = None) -> None:
            await super().startup()
            ready.set()

    server = Server(uvicorn.Config(app, uds=str(socket), log_level="error", lifespan="off"))
    thread = threading.Thread(target=lambda: asyncio.run(server.serve()))
    thread.start()
    try:
        assert ready.wait(90)
        yield home
    finally:
        server.should_exit = True
        thread.join(20)


@pytest.fixture
def served(home: Path) -> Iterator[Path]:
    with serving(home, fake_app()) as place:
        yield place


def test_list_says_what_each_can_do(served: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """A33: a backend without adapters says so in the list."""
    assert run(["--home", str(served), "backend", "list"]) == ExitCode.OK
    rows = {line.split()[0]: line for line in capfd.readouterr().out.splitlines()}
    assert rows["llamacpp"].split()[1:5] == ["in", "use", "yes", "yes"]
    assert rows["ollama"].split()[1:3] == ["available", "no"]
    assert "not available" in rows["vllm"] and "rune-tui backend install vllm" in rows["vllm"]
    assert run(["--home", str(served), "backend", "list", "--json"]) == ExitCode.OK
    shown = json.loads(capfd.readouterr().out)
    assert [BackendInfo.model_validate(info) for info in shown] == list(BACKENDS)


def test_use_says_what_is_lost_before_it_is_tried(served: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """A33."""
    assert run(["--home", str(served), "backend", "use", "ollama", "--json"]) == ExitCode.OK
    out, err = capfd.readouterr()
    assert json.loads(out) == {"backend": "ollama", "switched": True, "reason": "", "seconds": 1.5}
    assert "ollama cannot use adapters" in err


@pytest.mark.parametrize(
    ("name", "code", "what"),
    [
        ("vllm", ExitCode.ENVIRONMENT, "vllm cannot be used: Not installed; run `rune-tui backend install vllm`."),
        ("scripted", ExitCode.ENVIRONMENT, "llamacpp still serves: It would not start."),
        ("transformers", None, "knows no backend transformers"),
        ("gpt", ExitCode.USAGE, "'gpt' is not one of"),
    ],
)
def test_use_that_cannot_be(
    name: str, code: ExitCode | None, what: str, served: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    ended = run(["--home", str(served), "backend", "use", name])
    out, err = capfd.readouterr()
    assert ended == code if code is not None else ended != ExitCode.OK
    assert what in err and out == ""


def test_device_in_words_and_as_json(served: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert run(["--home", str(served), "device"]) == ExitCode.OK
    text = capfd.readouterr().out
    assert "serving  It answers." in text and "12.0 of 23.5 GiB free" in text and "\x1b" not in text
    assert run(["--home", str(served), "device", "--json"]) == ExitCode.OK
    raw = capfd.readouterr().out
    assert DeviceStatus.model_validate_json(raw).backend is BackendName.LLAMACPP and "\x1b" not in raw


@pytest.mark.parametrize(
    "arguments", [["device"], ["device", "--json"], ["backend", "list"], ["backend", "use", "vllm"]]
)
def test_an_older_engine_is_one_sentence(arguments: list[str], home: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with serving(home, fake_app(served=False)):
        assert run(["--home", str(home), *arguments]) == ExitCode.ENVIRONMENT
    out, err = capfd.readouterr()
    assert out == "" and err.startswith("rune-tui: This engine says nothing") and err.count("\n") == 1


@pytest.mark.parametrize("arguments", [["device"], ["device", "--watch"], ["backend", "list"]])
def test_without_an_engine_the_remedy_is_named(
    arguments: list[str], home: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert run(["--home", str(home), *arguments]) == ExitCode.ENVIRONMENT
    assert "rune-tui engine start" in capfd.readouterr().err


def test_install_needs_no_engine_and_tells_as_it_goes(
    home: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def pretend(place: Path, report: object) -> Path:
        assert callable(report)
        report("making \x1b[31mit")
        return place / "python"

    monkeypatch.setattr(engine.inference.install, "install_vllm", pretend)
    assert run(["--home", str(home), "backend", "install", "vllm"]) == ExitCode.OK
    out, err = capfd.readouterr()
    assert (out, err) == (f"{home}/python\n", "making it\n")

    def refuse(place: Path, report: object) -> Path:
        raise BackendUnavailableError("No compiler.")

    monkeypatch.setattr(engine.inference.install, "install_vllm", refuse)
    assert run(["--home", str(home), "backend", "install", "vllm"]) == ExitCode.ENVIRONMENT
    assert capfd.readouterr().err == "rune-tui: No compiler.\n"
    assert run(["--home", str(home), "backend", "install", "ollama"]) == ExitCode.USAGE


def test_the_shell_completes_backend_names() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "rune_tui"],
        env={
            **os.environ,
            "_RUNE_TUI_COMPLETE": "bash_complete",
            "COMP_WORDS": "rune-tui backend use l",
            "COMP_CWORD": "3",
        },
        capture_output=True,
        text=True,
        timeout=150,
        check=False,
    )
    assert done.stdout.split() == ["plain,llamacpp"], done.stderr


# --- every command line that the terminal app's help shows ---

STANDS_FOR = {"SESSION": "rune-00000001", "JOB": "train-1", "PLACE": "1", "FILE": "tasks.jsonl", "NAME": "llamacpp"}


def parse(spelling: str) -> click.Command:
    """The command that a spelling names, with its arguments understood; nothing is run.

    Raises:
        click.UsageError: there is no such command, option or argument.
    """
    words = [STANDS_FOR.get(word, word) for word in spelling.split()]
    assert words.pop(0) == "rune-tui"
    command: click.Command = cli
    context = cli.make_context("rune-tui", words)
    while isinstance(command, click.Group) and words and not words[0].startswith("-"):
        name, found, words = command.resolve_command(context, words)
        assert found is not None and name is not None
        command, context = found, found.make_context(name, list(words), parent=context)
    if isinstance(command, click.Group) and command is not cli:
        raise click.UsageError(f"{spelling!r} stops at a group.")
    return command


@pytest.mark.parametrize("spelling", sorted({action.cli for action in ACTIONS if action.cli}))
def test_what_the_help_spells_the_command_line_understands(spelling: str) -> None:
    assert isinstance(parse(spelling), click.Command)


@pytest.mark.parametrize(
    "spelling",
    ["rune-tui sessions stop SESSION", "rune-tui jobs move JOB", "rune-tui backend", "rune-tui device --follow"],
)
def test_a_spelling_that_does_not_exist_is_seen(spelling: str) -> None:
    """Negative control."""
    with pytest.raises(click.UsageError):
        parse(spelling)
