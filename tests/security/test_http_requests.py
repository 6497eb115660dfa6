"""H3, H4, H5: hostile heads, bodies and values."""

from __future__ import annotations

import asyncio
import json
import re
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.engine_process import JSON, api

from engine.routes import guards
from engine.routes.guards import MAX_BODY_BYTES, is_our_host

TASK = {"task": {"id": "t", "prompt": "x"}}

HOSTILE_HEADS = [
    {"host": "evil.example"},
    {"host": "evil.example:8750"},
    {"host": "127.0.0.1.evil.example"},
    {"host": "localhost.evil.example"},
    {"host": "0.0.0.0"},
    {"host": "169.254.169.254"},
    {"host": "127.0.0.1@evil.example"},
    {"host": ""},
    {"host": "[::ffff:1.2.3.4]"},
    {"origin": "https://evil.example"},
    {"origin": "http://localhost:8750"},
    {"origin": "null"},
]


@pytest.mark.parametrize("headers", HOSTILE_HEADS)
async def test_h3_a_foreign_host_or_any_origin_is_refused(home: Path, headers: dict[str, str]) -> None:
    async with api(home) as (engine, client):
        for method, path in (("GET", "/health"), ("POST", "/sessions"), ("OPTIONS", "/sessions")):
            answer = await client.request(method, path, headers=headers, json=TASK)
            assert answer.status_code == 403
            assert not [name for name in answer.headers if name.startswith("access-control")]
        assert sum((await engine.sessions.counts()).values()) == 0


@pytest.mark.parametrize("host", ["engine", "localhost", "localhost:8750", "127.0.0.1:8750", "[::1]:8750", "127.1.2.3"])
def test_h3_our_own_hosts_pass(host: str) -> None:
    assert is_our_host(host)


@pytest.mark.parametrize(
    "kind",
    ["application/x-www-form-urlencoded", "text/plain", "multipart/form-data; boundary=x", "application/xml", ""],
)
async def test_h3_a_post_that_a_page_may_send_unasked_is_refused(home: Path, kind: str) -> None:
    async with api(home) as (engine, client):
        body = json.dumps(TASK).encode()
        assert (await client.post("/sessions", content=body, headers={"content-type": kind})).status_code == 415
        assert (await client.post("/shutdown", content=b"x=1", headers={"content-type": kind})).status_code == 415
        assert sum((await engine.sessions.counts()).values()) == 0
        assert not engine._stopping.is_set()


async def test_h3_no_get_changes_anything(home: Path) -> None:
    async with api(home) as (engine, client):
        before = await engine.journal.last_sequence()
        for path, operations in (await client.get("/openapi.json")).json()["paths"].items():
            if "get" in operations:
                await client.get(re.sub(r"\{[a-z_]+\}", "a", path), params={"follow": 0})
        assert await engine.journal.last_sequence() == before
        assert not engine._stopping.is_set()


async def test_h4_a_body_of_a_gigabyte_is_refused_by_its_announced_length(home: Path) -> None:
    async with api(home) as (_, client):
        before = psutil.Process().memory_info().rss
        answer = await _raw(
            home,
            b"POST /sessions HTTP/1.1\r\nhost: engine\r\ncontent-type: application/json\r\n"
            b"content-length: 1073741824\r\n\r\n{",
        )
        assert answer.startswith(b"HTTP/1.1 413")
        assert (await client.get("/ready")).status_code == 200
        assert psutil.Process().memory_info().rss - before < 50 << 20


async def _raw(home: Path, request: bytes) -> bytes:
    async with asyncio.timeout(60):
        reader, writer = await asyncio.open_unix_connection(str(home / "run" / "engine.sock"))
        writer.write(request)
        answer = await reader.readline()
        writer.close()
        return answer


async def test_h4_a_body_that_grows_without_a_length_is_cut(home: Path) -> None:
    async def endless() -> Any:
        for _ in range(MAX_BODY_BYTES // 65536 + 2):
            yield b" " * 65536

    async with api(home) as (_, client):
        assert (await client.post("/sessions", content=endless(), headers=JSON)).status_code == 413


async def test_h4_a_hundred_bodies_that_never_come_hold_nothing(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guards, "BODY_TIMEOUT_S", 0.2)
    head = b"POST /sessions HTTP/1.1\r\nhost: engine\r\ncontent-type: application/json\r\ncontent-length: 10\r\n\r\n{"
    async with api(home) as (_, client):
        async with asyncio.TaskGroup() as group:
            waiting = [group.create_task(_raw(home, head)) for _ in range(100)]
            assert (await client.get("/ready")).status_code == 200
        assert all(task.result().startswith(b"HTTP/1.1 408") for task in waiting)


@pytest.mark.parametrize("opening, closing", [("[", "]"), ('{"a":', "}")])
async def test_h4_json_ten_thousand_levels_deep_is_a_client_error(home: Path, opening: str, closing: str) -> None:
    deep = opening * 10_000 + "1" + closing * 10_000
    inside = json.dumps(TASK)[:-2] + ', "cases": {"function": "f", "items": [{"expected": ' + deep + "}]}}}"
    async with api(home) as (_, client):
        for body in (deep, inside):
            assert 400 <= (await client.post("/sessions", content=body, headers=JSON)).status_code < 500


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=30),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner, max_size=4),
    max_leaves=8,
)


def near(schema: dict[str, Any], document: dict[str, Any]) -> st.SearchStrategy[Any]:
    """Values that nearly fit a schema: the right shape, hostile leaves, and sometimes the wrong shape."""
    if "$ref" in schema:
        schema = document["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
    match schema:
        case {"anyOf": options}:
            good = st.one_of([near(option, document) for option in options])
        case {"enum": options}:
            good = st.sampled_from(options)
        case {"properties": properties}:
            good = st.fixed_dictionaries(
                {name: near(properties[name], document) for name in schema.get("required", [])},
                optional={
                    name: near(inner, document)
                    for name, inner in properties.items()
                    if name not in schema.get("required", [])
                },
            )
        case {"type": "array", "items": inner}:
            good = st.lists(near(inner, document), max_size=3)
        case {"type": "integer"}:
            good = st.integers(1, 50) | st.integers(0, 2**31) | st.integers(-(2**70), 2**70)
        case {"type": "boolean"}:
            good = st.booleans()
        case {"type": "string", "pattern": _}:
            good = st.from_regex(r"[A-Za-z0-9_-]{1,12}", fullmatch=True)
        case {"type": "string"}:
            good = st.text(min_size=1, max_size=40)
        case {"type": "object", "additionalProperties": {"type": "string"}}:
            good = st.dictionaries(st.sampled_from(["a.py", "b/c.py", "../d"]), st.text(max_size=20), max_size=2)
        case _:
            good = values
    return st.integers(0, 39).flatmap(lambda dice: values if dice == 7 else good)


def requests(document: dict[str, Any]) -> st.SearchStrategy[tuple[str, str, dict[str, str], Any]]:
    """Method, path, query and body of requests that nearly fit the OpenAPI document."""
    text = (
        st.text(max_size=30) | st.integers().map(str) | st.sampled_from(["0", "1", "true", "queued", "fitness", "%00"])
    )
    name = st.from_regex(r"[A-Za-z0-9._~%-]{1,20}", fullmatch=True)

    def of(path: str, method: str, operation: dict[str, Any]) -> st.SearchStrategy[Any]:
        keys = [
            one["name"] for one in operation.get("parameters", []) if one["in"] == "query" and one["name"] != "follow"
        ]
        fixed = {"follow": "0"} if path == "/events" else {}
        schema = operation.get("requestBody", {}).get("content", {}).get("application/json", {}).get("schema")
        body = near(schema, document) if schema else st.none()
        query = st.dictionaries(st.sampled_from(keys), text, max_size=3) if keys else st.just({})
        return st.builds(
            lambda part, given, content: (
                method.upper(),
                re.sub(r"\{[a-z_]+\}", lambda _: part, path),
                {**given, **fixed},
                content,
            ),
            name,
            query,
            body,
        )

    return st.one_of(
        [
            of(path, method, operation)
            for path, operations in document["paths"].items()
            for method, operation in operations.items()
            if path not in ("/shutdown", "/device/backend")  # these do what they are asked: stop it, start real models
            for _ in range(5 if path == "/sessions" else 1)  # where most of what may be given is given
        ]
    )


async def test_h5_generated_requests_never_get_a_500(home: Path) -> None:
    """Some hundred requests from the OpenAPI document, most of them nearly valid."""
    statuses: dict[int, int] = {}
    async with api(home) as (_, client):
        document = (await client.get("/openapi.json")).json()
        drawn: list[Any] = []

        @settings(max_examples=400, suppress_health_check=list(HealthCheck))
        @given(requests(document))
        def draw(request: Any) -> None:
            drawn.append(request)

        await asyncio.to_thread(draw)
        for request in drawn:
            answer = await send(client, *request)
            statuses[answer.status_code] = statuses.get(answer.status_code, 0) + 1
            assert answer.status_code < 500, (request, answer.text)
    accepted = sum(count for status, count in statuses.items() if 200 <= status < 300)
    assert accepted > 20 and statuses.get(422, 0) > 20, f"the requests are too tame or too wild: {statuses}"


async def send(client: httpx.AsyncClient, method: str, path: str, query: dict[str, str], body: Any) -> httpx.Response:
    content = None if method == "GET" or body is None else json.dumps(body)
    return await client.request(method, path, params=query, content=content, headers=JSON if content else {})
