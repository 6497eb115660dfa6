"""A30, A33: which client for which backend."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from engine.config import load_config
from engine.errors import AdapterUnsupportedError, ConfigError, ModelNotFoundError
from engine.inference.factory import CAPABILITIES, ProviderFactory
from engine.inference.model_files import embedded_model, model_path
from engine.inference.openai_client import Endpoint, OpenAIProvider, import_library
from engine.inference.provider import Capabilities, Message, Provider, Request, Sampling


def _create(factory: ProviderFactory, kind: str, url: str) -> Provider:
    return factory.create_provider(kind, url=url, model="base", key="k", timeout_s=1.0, retries=0)


async def test_a30_one_instance_for_each_kind_and_url() -> None:
    factory = ProviderFactory(OpenAIProvider)
    first = _create(factory, "scripted", "unix:///one")
    assert _create(factory, "scripted", "unix:///one") is first
    assert _create(factory, "scripted", "unix:///two") is not first
    assert _create(factory, "llamacpp", "unix:///one") is not first
    await factory.aclose()
    assert _create(factory, "scripted", "unix:///one") is not first
    await factory.aclose()


def test_a30_an_unknown_kind_is_an_error_that_names_the_valid_ones() -> None:
    with pytest.raises(ValueError, match="'vlllm': choose one of llamacpp, ollama, scripted, transformers, vllm"):
        _create(ProviderFactory(OpenAIProvider), "vlllm", "unix:///one")


def test_a30_the_environment_overrides_the_file_and_the_command_line_overrides_both(tmp_path: Path) -> None:
    file = tmp_path / "config.toml"
    file.write_text('[inference]\nbackend = "llamacpp"\n')

    def backend(variable: str, *overrides: str) -> str:
        return load_config(file, overrides, {"RUNE_BACKEND": variable}).inference.backend

    assert backend("") == "llamacpp"
    assert backend("scripted") == "scripted"
    assert backend("scripted", "inference.backend=llamacpp") == "llamacpp"
    with pytest.raises(ConfigError, match=r"inference\.backend = 'x'.*RUNE_BACKEND"):
        backend("x")


async def test_a33_a_backend_without_adapters_says_so_before_anything_is_sent() -> None:
    none = Capabilities(adapters=False, json_schema=False, logprobs=False, sleep=False)
    await asyncio.to_thread(import_library)
    provider = OpenAIProvider(Endpoint("ollama", "unix:///nowhere", "base", "k", none, 1.0, 0))
    request = Request((Message("user", "x"),), Sampling(1, 0.0, 1.0, 1.0, 0), adapter="a")
    with pytest.raises(AdapterUnsupportedError):
        await provider.load_adapter("a", "/a")
    with pytest.raises(AdapterUnsupportedError):
        await provider.unload_adapter("a")
    with pytest.raises(AdapterUnsupportedError):
        await provider.generate(request)
    with pytest.raises(AdapterUnsupportedError):
        provider.stream(request)
    assert await provider.list_adapters() == ()
    assert not (await provider.health()).ready
    await provider.aclose()


def test_every_configurable_backend_has_capabilities() -> None:
    for kind in CAPABILITIES:
        assert load_config(overrides=[f"inference.backend={kind}"]).inference.backend == kind


def test_the_embedded_model_is_found_and_a_missing_one_is_named(tmp_path: Path) -> None:
    assert model_path(load_config(tmp_path / "none.toml")) == embedded_model()
    assert embedded_model().read_bytes()[:4] == b"GGUF"
    with pytest.raises(ModelNotFoundError, match=r"gone\.gguf"):
        model_path(load_config(tmp_path / "none.toml", [f"model.path={tmp_path}/gone.gguf"]))
