"""The borrowed server: used when it is there, never started, never ended; sleep gives its model's memory back."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from support.fake_ollama import MODEL, FakeOllama, fake_ollama

from engine.api_device import BackendName
from engine.config import load_config
from engine.device.contracts import LiveAdapter, Oracle, OracleMismatchError, Utterance
from engine.errors import AdapterUnsupportedError, BackendUnavailableError, ProviderError
from engine.inference.servers.catalogue import backend_infos
from engine.inference.servers.ollama_server import OllamaServer


@pytest.fixture
async def ollama() -> AsyncIterator[FakeOllama]:
    async with fake_ollama() as fake:
        yield fake


def _server(tmp_path: Path, url: str, model: str = "tiny") -> OllamaServer:
    return OllamaServer(load_config(tmp_path / "none.toml", [f"ollama.url={url}", f"ollama.model={model}"]))


@pytest.fixture
async def server(ollama: FakeOllama, tmp_path: Path) -> AsyncIterator[OllamaServer]:
    made = await asyncio.to_thread(_server, tmp_path, ollama.url, MODEL)
    await made.start(1)
    yield made
    await made.stop()


async def test_it_loads_the_model_and_gives_its_memory_back(server: OllamaServer, ollama: FakeOllama) -> None:
    assert ollama.loaded
    recorded = await server.record(())
    await server.sleep()
    assert not ollama.loaded
    await server.wake()
    assert ollama.loaded
    await server.verify(recorded)
    ((name, said),) = recorded.by_model
    with pytest.raises(OracleMismatchError):
        await server.verify(Oracle(((name, Utterance((f"{said.tokens[0]}x",), ())),)))
    await server.stop()
    assert not ollama.loaded
    with pytest.raises(ProviderError, match="not in use"):
        _ = server.provider


async def test_a33_adapters_are_refused_and_the_list_of_backends_says_so_before(
    server: OllamaServer, ollama: FakeOllama, tmp_path: Path
) -> None:
    before = ollama.requests
    assert not server.can_load_adapters
    with pytest.raises(AdapterUnsupportedError):
        await server.load_adapter(LiveAdapter("a", str(tmp_path)))
    assert ollama.requests == before, "nothing was sent"
    infos = await asyncio.to_thread(lambda: backend_infos(load_config(tmp_path / "none.toml"), tmp_path))
    info = next(info for info in infos if info.name is BackendName.OLLAMA)
    assert not info.adapters and "cannot use adapters" in info.reason


async def test_one_that_is_not_there_or_has_another_model_says_what_to_do(ollama: FakeOllama, tmp_path: Path) -> None:
    absent = await asyncio.to_thread(_server, tmp_path, "http://127.0.0.1:9", MODEL)
    with pytest.raises(BackendUnavailableError, match="ollama serve"):
        await absent.start(1)
    other = await asyncio.to_thread(_server, tmp_path, ollama.url, "other")
    with pytest.raises(BackendUnavailableError, match="ollama pull other"):
        await other.start(1)
    unset = await asyncio.to_thread(_server, tmp_path, ollama.url, "")
    with pytest.raises(BackendUnavailableError, match=r"ollama\.model"):
        await unset.start(1)
    await unset.stop()


async def test_its_end_is_noticed(tmp_path: Path) -> None:
    async with fake_ollama() as fake:
        server = await asyncio.to_thread(_server, tmp_path, fake.url, MODEL)
        await server.start(1)
    assert "does not answer any more" in await server.died()
    await server.stop()
    assert "not in use" in await server.died()
