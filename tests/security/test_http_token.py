"""★H2: on TCP nothing answers without the token, and the token is nowhere to be read."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest
from support.engine_process import api
from support.ports import free_port

from engine.core import Engine
from engine.routes.guards import TokenGate
from engine.server import create_app


@asynccontextmanager
async def tcp(home: Path) -> AsyncIterator[tuple[Engine, httpx.AsyncClient, str]]:
    """An engine on TCP, a client without a token, and the token."""
    port = free_port()
    async with api(home, f'engine.tcp="127.0.0.1:{port}"') as (engine, _):
        token = await asyncio.to_thread((home / "run" / "token").read_text)
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=60) as client:
            yield engine, client, token


def routes(engine: Engine) -> list[tuple[str, str]]:
    """Every route, with its parameters filled in."""
    paths = create_app(engine).openapi()["paths"]
    filled = {path: re.sub(r"\{\w+\}", "some-id", path) for path in paths}
    found = [(method.upper(), filled[path]) for path, operations in paths.items() for method in operations]
    return [*found, ("GET", "/openapi.json"), ("GET", "/nowhere")]


async def test_h2_every_route_refuses_every_wrong_token(home: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    async with tcp(home) as (engine, client, token):
        wrong = {
            "none": {},
            "empty": {"authorization": ""},
            "wrong": {"authorization": f"Bearer {'0' * len(token)}"},
            "truncated": {"authorization": f"Bearer {token[:-1]}"},
            "longer": {"authorization": f"Bearer {token}0"},
            "other scheme": {"authorization": f"Basic {token}"},
            "bare": {"authorization": token},
            "other header": {"x-token": token},
            "not ascii": {"authorization": "Bearer \xff\xfe"},
        }
        for method, path in routes(engine):
            for name, headers in wrong.items():
                encoded = {key: value.encode("latin-1") for key, value in headers.items()}
                answer = await client.request(method, path, headers=encoded)
                assert answer.status_code == 401, (method, path, name)
            for query in (f"token={token}", f"access_token={token}"):
                assert (await client.request(method, f"{path}?{query}")).status_code == 401
        assert sum((await engine.sessions.counts()).values()) == 0
    ours = [record.getMessage() for record in caplog.records if not record.name.startswith(("http", "hpack"))]
    assert not [line for line in ours if token in line], "the token is in the log"


async def test_h2_the_right_token_opens_every_route_but_shutdown(home: Path) -> None:
    async with tcp(home) as (_, client, token):
        client.headers["authorization"] = f"Bearer {token}"
        assert (await client.get("/health")).status_code == 200
        assert (await client.post("/sessions", json={"task": {"id": "t", "prompt": "x"}})).status_code == 201
        answer = await client.post("/shutdown")
        assert (answer.status_code, answer.json()["error"]) == (403, "RequestRefusedError")
        assert (await client.get("/ready")).status_code == 200


async def test_control_a_gate_that_compares_a_prefix_is_caught(home: Path) -> None:
    """Negative control: a gate that lets a truncated token pass does not survive the check."""

    class PrefixGate(TokenGate):
        async def __call__(self, scope, receive, send):  # type: ignore[no-untyped-def]
            headers = dict(scope["headers"])
            if self._expected.startswith(headers.get(b"authorization", b"x")):
                await self._app(scope, receive, send)
            else:
                await super().__call__(scope, receive, send)

    async with tcp(home) as (engine, _, token):
        transport = httpx.ASGITransport(PrefixGate(create_app(engine), token))
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            answer = await client.get("/health", headers={"authorization": f"Bearer {token[:-1]}"})
    assert answer.status_code == 200, "what the real gate refuses"
