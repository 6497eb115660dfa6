"""H2 in vLLM's process: without the whole key nothing gets through, on any path."""

from __future__ import annotations

import importlib.util
from collections.abc import MutableMapping
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import engine.inference.servers as servers

KEY = "rune-1-0123456789abcdef"
FILE = Path(servers.__file__).with_name("beside_vllm") / "rune_bearer.py"


def _module() -> ModuleType:
    """As vLLM imports it: by itself, from its folder."""
    spec = importlib.util.spec_from_file_location("rune_bearer", FILE)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


async def _send(scope: MutableMapping[str, Any]) -> tuple[bool, list[MutableMapping[str, Any]]]:
    """Whether the application behind it was reached, and what came back."""
    reached: list[str] = []
    sent: list[MutableMapping[str, Any]] = []

    async def behind(scope: Any, receive: Any, send: Any) -> None:
        reached.append(scope["type"])

    async def receive() -> MutableMapping[str, Any]:
        return {}

    async def send(message: MutableMapping[str, Any]) -> None:
        sent.append(message)

    await _module().BearerOnly(behind)(scope, receive, send)
    return bool(reached), sent


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLLM_API_KEY", KEY)


@pytest.mark.parametrize("path", ["/sleep", "/collective_rpc", "/v1/models", "/health"])
@pytest.mark.parametrize(
    "headers",
    [
        [],
        [(b"authorization", f"Bearer {KEY[:-1]}".encode())],
        [(b"authorization", f"Bearer {KEY}0".encode())],
        [(b"authorization", f"Basic {KEY}".encode())],
        [(b"authorization", b"Bearer \xff\xfe")],
        [(b"x-authorization", f"Bearer {KEY}".encode())],
    ],
)
async def test_h2_a_request_without_the_whole_key_is_refused(path: str, headers: list[tuple[bytes, bytes]]) -> None:
    scope = {"type": "http", "method": "OPTIONS", "path": path, "headers": headers}
    reached, sent = await _send(scope)
    assert not reached and sent[0]["status"] == 401
    # The control: with the key it gets through.
    assert (await _send(scope | {"headers": [(b"authorization", f"Bearer {KEY}".encode())]}))[0]


async def test_a_web_socket_without_the_key_is_closed() -> None:
    reached, sent = await _send({"type": "websocket", "path": "/v1/realtime", "headers": []})
    assert not reached and [message["type"] for message in sent] == ["websocket.close"]


async def test_the_servers_own_start_passes() -> None:
    assert (await _send({"type": "lifespan"}))[0]


def test_without_a_key_the_server_does_not_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("VLLM_API_KEY")
    with pytest.raises(RuntimeError, match="VLLM_API_KEY"):
        _module().BearerOnly(None)


def test_nothing_else_is_put_on_vllms_path() -> None:
    assert [path.name for path in FILE.parent.iterdir() if path.name != "__pycache__"] == ["rune_bearer.py"]
