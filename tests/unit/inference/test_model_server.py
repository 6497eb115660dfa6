"""The model server's life: one start for many callers, restarts with a bound, no orphans, and what the client does
when the server fails. All on the scripted backend, as a real child process."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import psutil
import pytest

from engine.config import Config, load_config
from engine.errors import ProviderError, ProviderTimeoutError
from engine.inference.launch import MAX_STARTS, ModelServer, ServerState
from engine.inference.provider import Message, Request, Sampling
from registry.clock import SystemClock

ROOT = Path(__file__).parents[3]
RULES: list[dict[str, Any]] = [
    {"match": "flaky", "fail": {"status": 503, "message": "not yet"}, "times": 2},
    {"match": "broken", "fail": {"status": 500, "message": "no hope"}},
    {"match": "midway", "reply": "one two three four", "fail": {"message": "cut off", "after_tokens": 2}},
    {"match": "slow", "reply": "a b c", "token_seconds": 30},
    {"reply": "{{sampling}}"},
]


def _config(tmp_path: Path, *overrides: str) -> Config:
    script = tmp_path / "script.json"
    script.write_text(json.dumps({"rules": RULES}))
    fixed = ["inference.backend=scripted", f"inference.script={script}", "inference.connect_retries=2"]
    return load_config(tmp_path / "none.toml", [*fixed, *overrides])


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[ModelServer]:
    made = ModelServer(await asyncio.to_thread(_config, tmp_path), _home(tmp_path), SystemClock())
    yield made
    await made.stop()


def _home(tmp_path: Path) -> Path:
    return tmp_path / "home"


def _ask(prompt: str) -> Request:
    return Request((Message("user", prompt),), Sampling(64, 0.25, 0.75, 1.25, 11, ("STOP",)))


async def test_many_callers_start_one_server(server: ModelServer) -> None:
    assert server.state is ServerState.STOPPED and server.pid is None
    providers = await asyncio.gather(*(server.ensure_ready() for _ in range(5)))
    assert len({id(provider) for provider in providers}) == 1
    assert server.state is ServerState.READY and server.reason == "scripted is ready"
    siblings = [child for child in psutil.Process().children() if "engine.inference.sidecar" in child.cmdline()]
    assert [child.pid for child in siblings] == [server.pid]
    text = (await providers[0].generate(_ask("hello"))).text
    assert text == (
        "max_tokens=64 temperature=0.25 top_p=0.75 repetition_penalty=1.25 frequency_penalty=0.0 "
        "presence_penalty=0.0 seed=11 stop=1"
    ), "A31: every sampling parameter reaches the wire"


async def test_a_killed_server_is_started_again_and_the_provider_stays_good(server: ModelServer) -> None:
    provider = await server.ensure_ready()
    first = server.pid
    assert first is not None
    os.kill(first, signal.SIGKILL)
    await _until(lambda: server.state is ServerState.STOPPED)
    assert await server.ensure_ready() is provider
    assert server.pid not in (None, first)
    assert (await provider.generate(_ask("hello"))).text


async def test_restarts_have_a_bound_with_a_reason(server: ModelServer) -> None:
    for _ in range(MAX_STARTS):
        await server.ensure_ready()
        assert server.pid is not None
        os.kill(server.pid, signal.SIGKILL)
        await _until(lambda: server.pid is None)
    with pytest.raises(ProviderError, match=f"ended {MAX_STARTS} times"):
        await server.ensure_ready()
    assert server.state is ServerState.FAILED and "model-server.log" in server.reason


async def test_a_server_that_cannot_start_says_why(tmp_path: Path) -> None:
    config = await asyncio.to_thread(_config, tmp_path)
    (tmp_path / "script.json").write_text("{")
    server = ModelServer(config, _home(tmp_path), SystemClock())
    with pytest.raises(ProviderError, match=r"status 1 .*not a script"):
        await server.ensure_ready()
    assert server.state is ServerState.FAILED and server.pid is None
    await server.stop()
    assert server.state is ServerState.STOPPED


async def test_a_start_that_takes_too_long_leaves_nothing_behind(tmp_path: Path) -> None:
    config = await asyncio.to_thread(_config, tmp_path, "inference.start_timeout_s=0.01")
    server = ModelServer(config, _home(tmp_path), SystemClock())
    before = set(psutil.pids())
    with pytest.raises(ProviderTimeoutError, match="start_timeout_s"):
        await server.ensure_ready()
    assert server.pid is None
    left = [pid for pid in set(psutil.pids()) - before if psutil.Process(pid).ppid() == os.getpid()]
    assert left == []
    await server.stop()


async def test_a_home_with_a_long_path_gets_its_socket_elsewhere(tmp_path: Path) -> None:
    home = tmp_path / ("long" * 30)
    server = ModelServer(await asyncio.to_thread(_config, tmp_path), home, SystemClock())
    provider = await server.ensure_ready()
    assert (await provider.health()).ready
    await server.stop()


async def test_stop_ends_the_group_and_removes_the_socket(server: ModelServer, tmp_path: Path) -> None:
    await server.ensure_ready()
    pid = server.pid
    assert pid is not None and os.getsid(pid) == pid, "it has a session of its own"
    await server.stop()
    assert not psutil.pid_exists(pid)
    assert not (_home(tmp_path) / "run" / "model.sock").exists()
    await server.stop()


async def test_h2_the_key_is_in_no_log_and_no_argument(server: ModelServer, tmp_path: Path) -> None:
    await server.ensure_ready()
    assert server.pid is not None
    child = psutil.Process(server.pid)
    key = child.environ()["RUNE_SIDECAR_KEY"]
    assert len(key) == 64
    assert key not in " ".join(child.cmdline())
    assert key not in (_home(tmp_path) / "logs" / "model-server.log").read_text()


@pytest.mark.parametrize("how", ["killed", "closes the pipe"])
async def test_a_server_dies_with_its_parent(how: str) -> None:
    """No orphan, whether the parent is killed or only lets go of the pipe."""
    with tempfile.TemporaryDirectory() as folder:
        arguments = ["--backend", "scripted", "--uds", f"{folder}/s.sock", "--model-name", "base"]
        arguments += ["--context", "512", "--parallel", "1", "--threads", "1"]
        arguments += ["--max-adapters", "1", "--max-adapter-mb", "1", "--max-rank", "8"]
        program = (
            "import subprocess, sys\n"
            f"child = subprocess.Popen([sys.executable, '-P', '-m', 'engine.inference.sidecar', *{arguments!r}],"
            " stdin=subprocess.PIPE)\n"
            "print(child.pid, flush=True)\n"
            "sys.stdin.readline()\n"
            "child.stdin.close()\n"
            "child.wait()\n"
        )
        environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), "RUNE_SIDECAR_KEY": "k" * 64}
        parent = await asyncio.create_subprocess_exec(
            sys.executable, "-c", program, env=environment,
            stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
        )  # fmt: skip
        assert parent.stdin is not None and parent.stdout is not None
        child = psutil.Process(int(await parent.stdout.readline()))
        await _until(lambda: Path(folder, "s.sock").exists())
        if how == "killed":
            parent.kill()
        else:
            parent.stdin.write(b"\n")
        await parent.wait()
        await _until(lambda: not child.is_running() or child.status() == psutil.STATUS_ZOMBIE)


async def test_a31_a_failure_is_tried_again_and_then_given_up(server: ModelServer) -> None:
    provider = await server.ensure_ready()
    # The script refuses twice; the client, with connect_retries=2, tries three times.
    assert (await provider.generate(_ask("flaky"))).finish_reason == "stop"
    with pytest.raises(ProviderError, match="no hope"):
        await provider.generate(_ask("broken"))


async def test_a_failure_in_the_middle_of_a_stream_is_an_error(server: ModelServer) -> None:
    provider = await server.ensure_ready()
    texts: list[str] = []
    with pytest.raises(ProviderError, match="cut off"):
        async for delta in provider.stream(_ask("midway")):
            texts.append(delta.text)  # noqa: PERF401 # what came before the error counts too
    assert "".join(texts) == "one two"


async def test_a31_an_answer_that_takes_too_long_is_a_timeout(tmp_path: Path) -> None:
    config = await asyncio.to_thread(_config, tmp_path, "inference.request_timeout_s=0.3")
    server = ModelServer(config, _home(tmp_path), SystemClock())
    provider = await server.ensure_ready()
    with pytest.raises(ProviderTimeoutError):
        await provider.generate(_ask("slow"))
    with pytest.raises(ProviderTimeoutError):
        async with aclosing(provider.stream(_ask("slow"))) as stream:  # type: ignore[type-var] # an async generator
            await anext(stream)
    await server.stop()


async def test_a_server_that_is_gone_is_an_error_and_not_ready(server: ModelServer) -> None:
    provider = await server.ensure_ready()
    assert server.pid is not None
    os.kill(server.pid, signal.SIGKILL)
    await _until(lambda: server.pid is None)
    assert not (await provider.health()).ready
    with pytest.raises(ProviderError):
        await provider.generate(_ask("hello"))


async def _until(true: Any) -> None:
    async with asyncio.timeout(20):
        while not true():
            await asyncio.sleep(0.01)
