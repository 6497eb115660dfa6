"""The Ollama provider against a server that speaks its documented API: options arrive, adapters are refused unsent."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from contextlib import aclosing

import pytest
from support.fake_ollama import BREAK, HANG, MODEL, FakeOllama, fake_ollama

from engine.config import load_config
from engine.errors import AdapterUnsupportedError, ConfigError, ProviderError, ProviderTimeoutError
from engine.inference.factory import CAPABILITIES
from engine.inference.ollama import OllamaProvider
from engine.inference.openai_client import Endpoint
from engine.inference.provider import Message, Request, Sampling

SAMPLING = Sampling(max_tokens=64, temperature=0.5, top_p=0.7, repetition_penalty=1.25, seed=7)


def _request(prompt: str = "hello there", sampling: Sampling = SAMPLING, **fields: object) -> Request:
    return Request((Message("system", "be brief"), Message("user", prompt)), sampling, **fields)  # type: ignore[arg-type] # test's shorthand


def _provider(url: str, model: str = "tiny", timeout_s: float = 20.0) -> OllamaProvider:
    return OllamaProvider(Endpoint("ollama", url, model, "", CAPABILITIES["ollama"], timeout_s, 0), 2048)


@pytest.fixture
async def server() -> AsyncIterator[FakeOllama]:
    async with fake_ollama() as fake:
        yield fake


@pytest.fixture
async def provider(server: FakeOllama) -> AsyncIterator[OllamaProvider]:
    made = _provider(server.url)
    yield made
    await made.aclose()


async def test_every_sampling_parameter_reaches_the_server(server: FakeOllama, provider: OllamaProvider) -> None:
    answer = await provider.generate(_request())
    assert answer.text == "t0.5 p0.7 r1.25 s7 end "
    assert (answer.finish_reason, answer.prompt_tokens, answer.completion_tokens) == ("stop", 2, 5)
    (chat,) = server.chats
    assert [message.role for message in chat.messages] == ["system", "user"]
    assert (chat.options.num_ctx, chat.options.num_predict, chat.options.top_k) == (2048, 64, 0)
    stopped = await provider.generate(_request(sampling=Sampling(64, 0.5, 0.7, 1.25, 7, ("r1",))))
    assert stopped.text == "t0.5 p0.7 "
    short = await provider.generate(_request(sampling=Sampling(2, 0.5, 0.7, 1.25, 7)))
    assert (short.finish_reason, short.completion_tokens) == ("length", 2)


async def test_it_streams_and_closing_the_stream_ends_the_answer(server: FakeOllama, provider: OllamaProvider) -> None:
    deltas = [delta async for delta in provider.stream(_request())]
    assert len(deltas) == 6 and "".join(delta.text for delta in deltas) == "t0.5 p0.7 r1.25 s7 end "
    assert (deltas[-1].finish_reason, deltas[-1].completion_tokens) == ("stop", 5)
    async with aclosing(provider.stream(_request(HANG))) as stream:  # type: ignore[type-var] # an async generator
        await anext(stream)
        assert not server.gone.is_set()
    async with asyncio.timeout(60):
        await server.gone.wait()


async def test_a_cancelled_call_ends_the_answer(server: FakeOllama, provider: OllamaProvider) -> None:
    async with asyncio.TaskGroup() as tasks:
        call = tasks.create_task(provider.generate(_request(HANG)))
        while not server.chats:
            await asyncio.sleep(0)
        call.cancel()
    async with asyncio.timeout(60):
        await server.gone.wait()


async def test_a_json_schema_goes_as_format(server: FakeOllama, provider: OllamaProvider) -> None:
    schema = {"type": "object", "properties": {"name": {"type": "string"}}, "required": ["name"]}
    assert json.loads((await provider.generate(_request(json_schema=schema))).text) == {"name": "x"}
    assert server.chats[0].format == schema


async def test_an_adapter_is_refused_before_anything_is_sent(server: FakeOllama, provider: OllamaProvider) -> None:
    assert not provider.capabilities.adapters
    with pytest.raises(AdapterUnsupportedError):
        await provider.generate(_request(adapter="abc"))
    with pytest.raises(AdapterUnsupportedError):
        provider.stream(_request(adapter="abc"))
    with pytest.raises(AdapterUnsupportedError):
        await provider.load_adapter("abc", "/nowhere")
    with pytest.raises(AdapterUnsupportedError):
        await provider.unload_adapter("abc")
    assert await provider.list_adapters() == ()
    assert server.requests == 0
    # The control: the same request without an adapter is sent.
    await provider.generate(_request())
    assert server.requests == 1


async def test_sleep_unloads_and_wake_loads(server: FakeOllama, provider: OllamaProvider) -> None:
    assert await provider.is_sleeping()
    await provider.wake()
    assert server.loaded and not await provider.is_sleeping()
    await provider.sleep()
    assert not server.loaded and await provider.is_sleeping()


async def test_health_needs_the_server_and_the_model(server: FakeOllama, provider: OllamaProvider) -> None:
    health = await provider.health()
    assert (health.ready, health.backend, health.model) == (True, "ollama", "tiny")
    other = _provider(server.url, "another")
    assert not (await other.health()).ready
    with pytest.raises(ProviderError, match="not found"):
        await other.generate(_request())
    await other.aclose()


async def test_failures_are_named(server: FakeOllama, provider: OllamaProvider) -> None:
    with pytest.raises(ProviderError, match="before its end"):
        await provider.generate(_request(BREAK))
    slow = _provider(server.url, timeout_s=0.2)
    with pytest.raises(ProviderTimeoutError):
        await slow.generate(_request(HANG))
    await slow.aclose()
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        nobody = _provider(f"http://127.0.0.1:{closed.getsockname()[1]}")
        with pytest.raises(ProviderError, match="ollama serve"):
            await nobody.generate(_request())
        assert not (await nobody.health()).ready
        await nobody.aclose()


async def test_no_proxy_of_the_environment_is_used(
    server: FakeOllama, provider: OllamaProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    monkeypatch.setenv("ALL_PROXY", "http://127.0.0.1:1")
    assert (await provider.health()).ready


def test_a_server_elsewhere_is_not_configurable(tmp_path: object) -> None:
    for url in ("http://192.168.0.7:11434", "https://ollama.example.com", "http://127.0.0.1.example.com:11434"):
        with pytest.raises(ConfigError):
            load_config(None, [f"ollama.url={url}"], {})


def test_the_fake_refuses_what_the_api_does_not_have() -> None:
    """The control: a misspelt option would be noticed."""
    from pydantic import ValidationError
    from support.fake_ollama import Chat

    with pytest.raises(ValidationError, match="repetition_penalty"):
        Chat.model_validate({"model": MODEL, "messages": [], "options": {"repetition_penalty": 1.0}})
