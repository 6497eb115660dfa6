"""A model server's life under its guardian: it starts or says why not, ends with all it has, and tells of its death.
And what the client does when the server fails. All on the scripted backend, as a real child process."""

from __future__ import annotations

import asyncio
import json
import os
import sys
import tempfile
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from pathlib import Path
from typing import Any

import psutil
import pytest

from engine.api_device import BackendName
from engine.config import Config, load_config
from engine.device.contracts import LiveAdapter
from engine.errors import AdapterRejectedError, ProviderError, ProviderTimeoutError
from engine.inference.provider import Message, Request, Sampling
from engine.inference.servers.catalogue import estimate_needs, make_servers
from engine.inference.servers.process import ProcessServer
from registry.files import run_to_end

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


async def _make(tmp_path: Path, home: Path, *overrides: str) -> ProcessServer:
    def make() -> object:
        return make_servers(_config(tmp_path, *overrides), home, lambda: None)[BackendName.SCRIPTED]

    server = await run_to_end(make)
    assert isinstance(server, ProcessServer)
    return server


@pytest.fixture
async def server(tmp_path: Path, home: Path) -> AsyncIterator[ProcessServer]:
    made = await _make(tmp_path, home)
    await made.start(1)
    yield made
    await made.stop()


def _ask(prompt: str) -> Request:
    return Request((Message("user", prompt),), Sampling(64, 0.25, 0.75, 1.25, 11, ("STOP",)))


async def test_a31_every_sampling_parameter_reaches_the_wire(server: ProcessServer) -> None:
    assert server.process is not None and server.pid is not None
    assert psutil.Process(server.pid).ppid() == server.process.pid, "its guardian is its parent"
    assert (await server.provider.generate(_ask("hello"))).text == (
        "max_tokens=64 temperature=0.25 top_p=0.75 repetition_penalty=1.25 frequency_penalty=0.0 "
        "presence_penalty=0.0 seed=11 stop=1"
    )


async def test_a_server_that_was_killed_tells_of_it_and_is_started_again(server: ProcessServer) -> None:
    first = server.provider
    async with asyncio.TaskGroup() as tasks:
        told = tasks.create_task(server.died())
        assert server.pid is not None
        psutil.Process(server.pid).kill()
    assert "SIGKILL" in told.result()
    assert server.process is None and server.pid is None
    assert not (await first.health()).ready
    with pytest.raises(ProviderError):
        await first.generate(_ask("hello"))
    await server.start(2)
    assert (await server.provider.generate(_ask("hello"))).text


async def test_a_server_that_cannot_start_says_why(tmp_path: Path, home: Path) -> None:
    server = await _make(tmp_path, home)
    await run_to_end(lambda: (tmp_path / "script.json").write_text("{"))
    with pytest.raises(ProviderError, match=r"status 1 .*not a script"):
        await server.start(1)
    assert server.process is None
    with pytest.raises(ProviderError, match="not running"):
        _ = server.provider
    assert "not running" in await server.died()


async def test_a_start_that_takes_too_long_leaves_nothing_behind(tmp_path: Path, home: Path) -> None:
    before = set(psutil.Process().children(recursive=True))
    server = await _make(tmp_path, home, "inference.start_timeout_s=0.01")
    with pytest.raises(ProviderTimeoutError, match=r"inference\.start_timeout_s"):
        await server.start(1)
    assert server.process is None
    assert set(psutil.Process().children(recursive=True)) <= before


async def test_a_home_with_a_long_path_gets_its_socket_elsewhere(tmp_path: Path) -> None:
    server = await _make(tmp_path, tmp_path / ("long" * 30))
    await server.start(1)
    assert (await server.provider.health()).ready
    await server.stop()


async def test_stop_ends_the_tree_and_removes_its_folder(server: ProcessServer, home: Path) -> None:
    assert server.pid is not None and server.process is not None
    pids = (server.pid, server.process.pid)
    await server.stop()
    assert [pid for pid in pids if psutil.pid_exists(pid)] == []
    assert list((home / "run").glob("server-*")) == []
    await server.stop()


async def test_what_a_killed_engine_left_is_removed_by_the_next_start(tmp_path: Path, home: Path) -> None:
    left = home / "run" / "server-3"
    left.mkdir(parents=True)
    server = await _make(tmp_path, home)
    await server.start(4)
    assert not left.exists()
    await server.stop()


async def test_h2_the_key_is_in_no_log_and_no_argument(server: ProcessServer, home: Path) -> None:
    assert server.pid is not None
    child = psutil.Process(server.pid)
    key = child.environ()["RUNE_SIDECAR_KEY"]
    assert key.startswith("rune-1-") and len(key) > 64
    assert key not in " ".join(child.cmdline())
    assert key not in (home / "logs" / "model-server.log").read_text()


async def test_an_adapter_that_is_missing_or_has_the_bases_name_is_refused(
    server: ProcessServer, tmp_path: Path
) -> None:
    with pytest.raises(AdapterRejectedError, match="missing"):
        await server.load_adapter(LiveAdapter("a", str(tmp_path / "nowhere")))
    with pytest.raises(AdapterRejectedError, match="base model"):
        await server.load_adapter(LiveAdapter("smollm2-135m-instruct", str(tmp_path)))


@pytest.mark.parametrize("how", ["killed", "closes the pipe"])
async def test_a_sidecar_dies_with_its_parent(how: str) -> None:
    """No orphan, whether the parent is killed or only lets go of the pipe; also without a guardian."""
    with tempfile.TemporaryDirectory() as folder:
        arguments = ["--backend", "scripted", "--uds", f"{folder}/s.sock", "--model-name", "base"]
        arguments += ["--context", "512", "--parallel", "1", "--threads", "1"]
        arguments += ["--max-adapter-mb", "1", "--max-rank", "8"]
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


async def test_a31_a_failure_is_tried_again_and_then_given_up(server: ProcessServer) -> None:
    # The script refuses twice; the client, with connect_retries=2, tries three times.
    assert (await server.provider.generate(_ask("flaky"))).finish_reason == "stop"
    with pytest.raises(ProviderError, match="no hope"):
        await server.provider.generate(_ask("broken"))


async def test_a_failure_in_the_middle_of_a_stream_is_an_error(server: ProcessServer) -> None:
    texts: list[str] = []
    with pytest.raises(ProviderError, match="cut off"):
        async for delta in server.provider.stream(_ask("midway")):
            texts.append(delta.text)  # noqa: PERF401 # what came before the error counts too
    assert "".join(texts) == "one two"


async def test_a31_an_answer_that_takes_too_long_is_a_timeout(tmp_path: Path, home: Path) -> None:
    server = await _make(tmp_path, home, "inference.request_timeout_s=0.3")
    await server.start(1)
    with pytest.raises(ProviderTimeoutError):
        await server.provider.generate(_ask("slow"))
    with pytest.raises(ProviderTimeoutError):
        async with aclosing(server.provider.stream(_ask("slow"))) as stream:  # type: ignore[type-var] # an async generator
            await anext(stream)
    await server.stop()


def test_the_need_of_each_backend_is_estimated_without_a_model_too(tmp_path: Path, home: Path) -> None:
    needs = estimate_needs(_config(tmp_path), home)
    assert needs[BackendName.SCRIPTED] < needs[BackendName.LLAMACPP] < needs[BackendName.VLLM]
    assert needs[BackendName.VLLM] > 1024 + 2 * 135, "its cache and its weights are in it"
    larger = estimate_needs(_config(tmp_path, "vllm.kv_cache_mib=4096", "inference.parallel=8"), home)
    assert larger[BackendName.VLLM] - needs[BackendName.VLLM] == 3072
    assert larger[BackendName.LLAMACPP] > needs[BackendName.LLAMACPP]
    missing = estimate_needs(_config(tmp_path, f"model.path={tmp_path}/gone.gguf"), home)
    assert missing[BackendName.SCRIPTED] == needs[BackendName.SCRIPTED]


async def _until(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not true():
            await asyncio.sleep(0.01)
