"""The API over the real socket (A90), and the event stream (A91)."""

from __future__ import annotations

import asyncio
import json
import os
import stat
from pathlib import Path

import httpx
import pytest
from httpx_sse import aconnect_sse
from support.engine_process import JSON, api, at_once

from engine.api_models import AdapterRecord, EngineStatus, Event, RunState, SessionRecord, Trajectory
from engine.events import replay_state
from engine.routes import problems
from registry.samples import write_sample

TASK = {"task": {"id": "t", "prompt": "add"}}


def problem(answer: httpx.Response) -> tuple[int, str]:
    body = answer.json()
    assert set(body) == {"error", "message"} and body["message"] and "Traceback" not in body["message"]
    return answer.status_code, body["error"]


async def test_a90_health_and_ready(home: Path) -> None:
    async with api(home) as (engine, client):
        answer = await client.get("/health")
        assert EngineStatus.model_validate(answer.json()) == await engine.status()
        assert (await client.get("/ready")).json() == {"ready": True}


async def test_a90_ready_is_503_when_the_database_fails(home: Path) -> None:
    async with api(home) as (engine, client):
        damaged = os.open(home / "rune.db", os.O_WRONLY)
        os.pwrite(damaged, b"\xff" * 8192, 0)
        os.close(damaged)
        wal = os.open(home / "rune.db-wal", os.O_WRONLY | os.O_TRUNC)
        os.close(wal)
        assert problem(await client.get("/ready")) == (503, "EnvironmentUnfitError")
        await engine.db.close()
        assert problem(await client.get("/ready")) == (503, "EnvironmentUnfitError")
        assert problem(await client.get("/health"))[0] == 503


async def test_a90_sessions_create_list_get_cancel_resume_trajectory(home: Path) -> None:
    async with api(home) as (_, client):
        created = await client.post("/sessions", json=TASK | {"run_id": "batch"})
        assert created.status_code == 201
        session = SessionRecord.model_validate(created.json())
        other = (await client.post("/sessions", json=TASK)).json()["id"]
        listed = (await client.get("/sessions")).json()
        assert [one["id"] for one in listed] == [other, session.id]
        for query, ids in (
            ({"run_id": "batch"}, [session.id]),
            ({"limit": 1, "offset": 1}, [session.id]),
            ({"state": "succeeded"}, []),
            ({"since": "2999-01-01T00:00:00Z"}, []),
        ):
            found = (await client.get("/sessions", params=query)).json()
            assert [one["id"] for one in found] == ids
        assert (await client.get(f"/sessions/{session.id}")).json()["task"]["id"] == "t"
        cancelled = await client.post(f"/sessions/{other}/cancel")
        assert (cancelled.status_code, cancelled.json()["state"]) == (200, "cancelled")
        assert problem(await client.post(f"/sessions/{other}/cancel")) == (409, "ConflictError")
        assert (await client.post(f"/sessions/{other}/resume")).json()["state"] == "queued"
        assert problem(await client.post(f"/sessions/{other}/resume")) == (409, "ConflictError")
        story = Trajectory.model_validate((await client.get(f"/sessions/{other}/trajectory")).json())
        assert (story.session.id, story.attempts) == (other, ())


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/sessions/rune-00000000", 404),
        ("GET", "/sessions/rune-00000000/trajectory", 404),
        ("POST", "/sessions/rune-00000000/cancel", 404),
        ("POST", "/sessions/rune-00000000/resume", 404),
        ("GET", "/adapters/nobody", 404),
        ("POST", "/adapters/nobody/archive", 404),
        ("GET", "/nowhere", 404),
        ("GET", "/sessions/..%2f..%2fetc", 404),
        ("GET", "/sessions/.hidden", 422),
        ("GET", "/sessions?limit=0", 422),
        ("GET", "/sessions?state=lost", 422),
        ("GET", "/sessions?since=yesterday", 422),
        ("GET", "/events?since=-1", 422),
        ("GET", "/events?since=99999999999999999999", 422),
        ("GET", "/adapters?sort=magic", 422),
        ("DELETE", "/sessions", 405),
        ("GET", "/shutdown", 405),
    ],
)
async def test_a90_errors_are_problems_with_the_status_of_their_class(
    home: Path, method: str, path: str, status: int
) -> None:
    async with api(home) as (_, client):
        assert problem(await client.request(method, path))[0] == status


@pytest.mark.parametrize(
    "body",
    [
        "",
        "{",
        "[]",
        "null",
        "{}",
        '{"task": {"id": "t"}}',
        '{"task": {"id": "../t", "prompt": "x"}}',
        '{"task": {"id": "t", "prompt": "x", "surprise": 1}}',
        '{"task": {"id": "t", "prompt": "x", "files": {"../x": ""}}}',
        '{"task": {"id": "t", "prompt": "\\ud800"}}',
        '{"task": {"id": "\\ud800", "prompt": "x"}}',
    ],
)
async def test_a90_a_session_that_is_not_valid_is_422_and_nothing_is_queued(home: Path, body: str) -> None:
    async with api(home) as (engine, client):
        assert problem(await client.post("/sessions", content=body, headers=JSON))[0] == 422
        assert sum((await engine.sessions.counts()).values()) == 0


async def test_a90_adapters_import_list_get_archive_restore(home: Path, tmp_path: Path) -> None:
    folder = await asyncio.to_thread(write_sample, tmp_path / "peft", 1)
    async with api(home) as (engine, client):
        body = {"id": "sort-v1", "directory": str(folder), "task_type": "sort"}
        created = await client.post("/adapters", json=body)
        assert created.status_code == 201
        adapter = AdapterRecord.model_validate(created.json())
        assert (adapter.id, adapter.task_type, adapter.tier) == ("sort-v1", "sort", "task")
        assert await asyncio.to_thread(lambda: len(list((home / "adapters").iterdir()))) >= 1
        assert problem(await client.post("/adapters", json=body)) == (409, "ConflictError")
        for broken in ({"directory": str(tmp_path / "nowhere")}, {"id": "oracle_1"}, {"id": "../x"}):
            assert problem(await client.post("/adapters", json=body | {"id": "b"} | broken))[0] == 422

        async def ids(**query: object) -> list[str]:
            return [one["id"] for one in (await client.get("/adapters", params=query)).json()]  # type: ignore[arg-type]

        assert await ids() == await ids(task_type="sort", search="V1", sort="id", tier="task") == ["sort-v1"]
        assert await ids(task_type="other") == await ids(offset=1) == await ids(archived=True) == []
        assert (await client.post("/adapters/sort-v1/archive")).json()["is_archived"] is True
        assert (await ids(), await ids(archived=True)) == ([], ["sort-v1"])
        assert (await client.post("/adapters/sort-v1/restore")).json()["is_archived"] is False
        state = replay_state(await engine.journal.replay())["adapter/sort-v1"]
        assert AdapterRecord.model_validate(state) == AdapterRecord.model_validate(
            (await client.get("/adapters/sort-v1")).json()
        ), "A91: the log replays to the adapter"


async def test_an_unexpected_error_is_500_with_a_log_pointer_and_no_traceback(
    home: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with api(home) as (engine, client):

        async def breaks(session_id: str) -> None:
            raise ZeroDivisionError("secret detail")

        engine.sessions.get = breaks  # type: ignore[method-assign,assignment]
        answer = await client.get("/sessions/rune-00000000")
    assert problem(answer) == (500, "RuneError")
    assert "secret" not in answer.text and "logs" in answer.text
    assert "secret detail" in caplog.text


async def test_the_socket_is_0600_and_gone_afterwards(home: Path) -> None:
    socket = home / "run" / "engine.sock"
    async with api(home):
        assert stat.S_IMODE(socket.stat().st_mode) == 0o600
    assert not socket.exists()


async def test_shutdown_ends_the_server_and_open_event_streams(home: Path) -> None:
    query = {"since": 2}  # behind the device's first two
    async with (
        asyncio.timeout(60),
        api(home) as (_, client),
        aconnect_sse(client, "GET", "/events", params=query) as source,
    ):
        answer = await client.post("/shutdown")
        assert answer.status_code == 202
        assert [message.event async for message in source.aiter_sse()] == []


async def test_a91_events_replay_with_ids_and_end(home: Path) -> None:
    async with api(home, work=at_once) as (engine, client):
        session_id = (await client.post("/sessions", json=TASK)).json()["id"]
        async for event in engine.journal.stream(session_id=session_id):
            if event.payload.get("state") == RunState.SUCCEEDED:  # type: ignore[union-attr]
                break
        everything = await replay(client, {})
        assert [event.sequence for event in everything] == [1, 2, 3, 4, 5, 6, 7, 8]
        assert [event.sequence for event in await replay(client, {"since": 6})] == [7, 8]
        assert [event.sequence for event in await replay(client, {}, last="7")] == [8]
        assert len(await replay(client, {}, last="9" * 5000)) == 8, "a number too long to be one is none"
        assert [event.sequence for event in await replay(client, {"session": session_id})] == [4, 6, 8]
        assert everything == await engine.journal.replay()


async def replay(client: httpx.AsyncClient, query: dict[str, object], last: str = "") -> list[Event]:
    headers = {"last-event-id": last} if last else {}
    events: list[Event] = []
    async with aconnect_sse(client, "GET", "/events", params={"follow": 0, **query}, headers=headers) as source:
        assert source.response.headers["content-type"].startswith("text/event-stream")
        async for message in source.aiter_sse():
            event = Event.model_validate_json(message.data)
            assert (message.event, message.id) == ("event", str(event.sequence))
            events.append(event)
    return events


async def test_the_openapi_document_lists_every_status(home: Path) -> None:
    async with api(home) as (_, client):
        document = (await client.get("/openapi.json")).json()
    routes = {
        (method.upper(), path): set(operation["responses"])
        for path, operations in document["paths"].items()
        for method, operation in operations.items()
    }
    guarded = {str(status) for status in problems._GUARDED}
    assert all(guarded <= statuses for statuses in routes.values())
    assert {"201", "409", "422"} <= routes["POST", "/adapters"]
    assert {"200", "404", "409", "422"} <= routes["POST", "/sessions/{session_id}/cancel"]
    assert {"200", "503"} <= routes["GET", "/ready"]
    assert {"202", "404", "422"} <= routes["POST", "/evaluate"]
    assert len(routes) == 55
    assert json.dumps(document)
