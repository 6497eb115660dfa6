"""What only a GPU can show, on the real vLLM: memory that comes back, wakes that fail, trees that die.

    RUNE_VLLM_PYTHON=$(rune-tui backend install vllm) RUNE_GPU_MODEL=DIRECTORY pytest tests/gpu -s

RUNE_GPU_MODEL is a Hugging Face directory (an 8B model is what the figures should be from); without it the embedded
model serves. Each test prints its figures as one JSON line. Not run by us yet: no machine with a GPU was at hand.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import psutil
import pytest
from contract.backends import VLLM_VARIABLE, write_adapter

from engine.api_device import BackendName
from engine.config import load_config
from engine.device.contracts import LiveAdapter
from engine.device.hardware import probe_gpus
from engine.device.memory import NvmlMemory
from engine.errors import ProviderError
from engine.inference.servers.catalogue import make_servers
from engine.inference.servers.process import ProcessServer

GPUS = probe_gpus()
CYCLES = 5
SOAK = 20
RESIDUAL_MIB = 512
"""What a sleeping server may hold more after twenty cycles than after the first."""
HOG = """
import sys, torch
free, total = torch.cuda.mem_get_info()
held = torch.empty(int(float(sys.argv[1]) * free), dtype=torch.uint8, device="cuda")
print("held", flush=True)
sys.stdin.read()
"""

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(1800),
    pytest.mark.skipif(not GPUS, reason="no NVIDIA GPU answers NVML on this machine"),
    pytest.mark.skipif(VLLM_VARIABLE not in os.environ, reason=f"{VLLM_VARIABLE} names no interpreter that has vllm"),
]


@asynccontextmanager
async def serving(home: Path, level: int) -> AsyncGenerator[ProcessServer]:
    overrides = [f"vllm.python={os.environ[VLLM_VARIABLE]}", f"vllm.sleep_level={level}"]
    if model := os.environ.get("RUNE_GPU_MODEL"):
        overrides.append(f"model.path={model}")
    config = load_config(home / "none.toml", overrides)
    server = (await asyncio.to_thread(make_servers, config, home, lambda: None))[BackendName.VLLM]
    assert isinstance(server, ProcessServer)
    await server.start(1)
    try:
        yield server
    finally:
        await server.stop()


async def free_mib() -> int:
    return (await NvmlMemory(GPUS[0].uuid).sample()).free_mib


def say(what: str, **figures: object) -> None:
    sys.stdout.write(json.dumps({"what": what, "gpu": GPUS[0].name, **figures}) + "\n")


async def timed(call: asyncio.Future[None] | asyncio.Task[None]) -> float:
    start = time.monotonic()
    await call
    return time.monotonic() - start


@pytest.mark.parametrize("level", [1, 2])
async def test_sleep_gives_memory_back_and_a_wake_answers_as_before(level: int, tmp_path: Path) -> None:
    async with serving(tmp_path, level) as server:
        oracle, awake = await server.record(()), await free_mib()
        rows: list[dict[str, float]] = []
        for _ in range(CYCLES):
            slept = await timed(asyncio.ensure_future(server.sleep()))
            asleep = await free_mib()
            woke = await timed(asyncio.ensure_future(server.wake()))
            await server.verify(oracle)
            assert server.process is not None
            rss = psutil.Process(server.process.pid).memory_info().rss >> 20
            rows.append({"sleep_s": slept, "wake_s": woke, "given_back_mib": asleep - awake, "guardian_rss_mib": rss})
        say("sleep", level=level, awake_free_mib=awake, cycles=rows)
        assert all(row["given_back_mib"] > 0 for row in rows)


@pytest.mark.skipif("RUNE_GPU_MODEL" in os.environ, reason="the toy adapters fit the embedded model only")
async def test_adapters_load_hot_and_answer_after_a_wake(tmp_path: Path) -> None:
    async with serving(tmp_path, 1) as server:
        adapters = [LiveAdapter(f"{seed:064x}", str(write_adapter(tmp_path / str(seed), seed))) for seed in range(1, 5)]
        loads = [await timed(asyncio.ensure_future(server.load_adapter(adapter))) for adapter in adapters]
        oracle = await server.record(tuple(adapters))
        await server.sleep()
        await server.wake()
        await server.verify(oracle)
        say("adapters", load_s=loads)


async def test_a_wake_without_room_fails_and_succeeds_once_there_is_room(tmp_path: Path) -> None:
    async with serving(tmp_path, 1) as server:
        oracle = await server.record(())
        await server.sleep()
        hog = subprocess.Popen(
            [os.environ[VLLM_VARIABLE], "-c", HOG, "0.95"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        try:
            assert hog.stdout is not None and (await asyncio.to_thread(hog.stdout.readline)).strip() == b"held"
            with pytest.raises(ProviderError):
                await server.wake()
        finally:
            hog.communicate()
        await server.wake()
        await server.verify(oracle)


async def test_a_killed_server_leaves_nothing_on_the_gpu(tmp_path: Path) -> None:
    before = await free_mib()
    async with serving(tmp_path, 1) as server:
        assert server.pid is not None
        psutil.Process(server.pid).kill()
        reason = await asyncio.wait_for(server.died(), 60)
        start = time.monotonic()
        while abs(await free_mib() - before) > RESIDUAL_MIB:
            assert time.monotonic() - start < 30, "its memory did not come back"
        say("kill", reason=reason, memory_back_s=time.monotonic() - start)


async def test_twenty_cycles_leak_nothing(tmp_path: Path) -> None:
    async with serving(tmp_path, 1) as server:
        oracle = await server.record(())
        asleep: list[int] = []
        for _ in range(SOAK):
            await server.sleep()
            asleep.append(await free_mib())
            await server.wake()
            await server.verify(oracle)
        say("soak", asleep_free_mib=asleep)
        assert asleep[0] - asleep[-1] <= RESIDUAL_MIB


async def test_a_full_handover(tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "benchmarks.handover",
        "--backend",
        "vllm",
        "--runs",
        "2",
        "--steps",
        "30",
        "--json",
    ]
    command += ["-c", f"vllm.python={os.environ[VLLM_VARIABLE]}"]
    done = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
    said, _ = await done.communicate()
    runs = json.loads(said)
    say("handover", runs=runs)
    assert all(run["adapter_answered"] and not run["restarted"] for run in runs)
