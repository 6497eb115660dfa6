"""The llama.cpp backend on a model of a few kilobytes: which adapters it holds, and what survives a sleep."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import tiny_llama as tiny

from engine.inference.sidecar.backend import AsleepError, BackendError, BadRequestError, Job, PromptTooLongError
from engine.inference.sidecar.llamacpp import LlamaBackend, LlamaSettings
from registry.safeload import AdapterLimits

pytestmark = pytest.mark.model


def _settings(folder: Path, model: Path) -> LlamaSettings:
    limits = AdapterLimits(1 << 20, 8)
    return LlamaSettings(model, 64, parallel=2, threads=1, limits=limits, scratch=folder)


def _prepare(folder: Path) -> LlamaBackend:
    model = tiny.write_model(folder / "base.gguf", tiny.random_weights(1))
    for seed, name in enumerate("abc"):
        tiny.write_adapter(folder / name, tiny.random_adapter(seed, 4), 4, 4.0)
    return LlamaBackend(_settings(folder, model))


@pytest.fixture
async def backend(tmp_path: Path) -> AsyncIterator[LlamaBackend]:
    made = await asyncio.to_thread(_prepare, tmp_path)
    await made.start()
    yield made
    await made.aclose()


def _names(backend: LlamaBackend) -> list[str]:
    return [info.name for info in backend.adapters()]


async def test_two_names_of_the_same_bytes_are_one_adapter(backend: LlamaBackend, tmp_path: Path) -> None:
    for name in ("one", "two"):
        await backend.load_adapter(name, str(tmp_path / "a"))
    await backend.unload_adapter("one")
    await backend.sleep(1)
    await backend.wake()
    assert _names(backend) == ["two"]


async def test_adapters_come_back_after_a_sleep_and_none_can_come_during_it(
    backend: LlamaBackend, tmp_path: Path
) -> None:
    await backend.load_adapter("a", str(tmp_path / "a"))
    await backend.sleep(1)
    with pytest.raises(AsleepError):
        await backend.load_adapter("b", str(tmp_path / "b"))
    with pytest.raises(AsleepError):
        await backend.submit(Job("x", max_tokens=1))
    await backend.sleep(1)
    await backend.unload_adapter("a")
    await backend.wake()
    await backend.wake()
    assert _names(backend) == []


async def test_a_model_without_a_template_takes_no_chat(backend: LlamaBackend) -> None:
    with pytest.raises(BadRequestError, match="chat template"):
        await backend.submit(Job((), max_tokens=1))


async def test_a_file_that_is_no_model_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "no.gguf"
    await asyncio.to_thread(path.write_bytes, b"GGUF no")
    backend = await asyncio.to_thread(LlamaBackend, _settings(tmp_path, path))
    with pytest.raises(BackendError, match="cannot load"):
        await backend.start()
    await backend.aclose()


def test_the_bindings_leave_no_file_open_at_the_end() -> None:
    """They open /dev/null twice at their import; without our doing the interpreter complains when it ends."""
    script = "import engine.inference.sidecar.llama_native"
    done = subprocess.run(
        [sys.executable, "-W", "default::ResourceWarning", "-c", script], capture_output=True, text=True, check=True
    )
    assert "unclosed" not in done.stderr


def test_the_error_for_a_long_prompt_is_worded_as_clients_expect() -> None:
    assert "maximum context length is 64 tokens" in str(PromptTooLongError(64, 100))
