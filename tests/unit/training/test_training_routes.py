"""The queue over HTTP, in a whole engine whose memory is never proven: the first job waits for it (A50, A90)."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest
from support.engine_process import api
from support.training_house import write_base

from engine.api_models import RunState
from engine.api_training import TrainJob, TrainPreview
from engine.core import Engine
from engine.errors import EngineUnreachableError
from rune_tui.client import EngineClient


@pytest.fixture
def request_body(tmp_path: Path) -> dict[str, object]:
    rows = ({"prompt": f"p{number}", "completion": f"y = {number}"} for number in range(30))
    path = tmp_path / "d.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return {"dataset": str(path)}


@asynccontextmanager
async def hungry(home: Path, tmp_path: Path) -> AsyncIterator[tuple[Engine, httpx.AsyncClient]]:
    """No machine has so much memory, so the first job waits for it and the others behind it."""
    base = await asyncio.to_thread(write_base, tmp_path / "base")
    overrides = (f'model.path="{base}"', "device.margin_mib=1048576", "device.settle_s=500")
    async with api(home, *overrides) as (engine, client):
        yield engine, client


async def until(engine: Engine, job_id: str, *states: RunState) -> TrainJob:
    async with asyncio.timeout(90):
        async for _ in engine.journal.stream():
            job = await engine.training.jobs.get(job_id)
            if job.state in states:
                return job
    raise EngineUnreachableError


async def test_a50_the_queue_over_http(home: Path, tmp_path: Path, request_body: dict[str, object]) -> None:
    async with hungry(home, tmp_path) as (engine, client):
        told = await client.post("/train/lora", params={"preview": "true"}, json=request_body)
        assert told.status_code == 200
        preview = TrainPreview.model_validate(told.json())
        assert (preview.examples, preview.fits) == (27, False)
        assert (await client.get("/jobs")).json() == []
        answers = [await client.post("/train/lora", json=request_body | {"adapter_id": name}) for name in "abc"]
        assert [answer.status_code for answer in answers] == [201] * 3
        a, b, c = (TrainJob.model_validate(answer.json()).id for answer in answers)
        await until(engine, a, RunState.RUNNING)
        assert (await client.post(f"/jobs/{c}/move", json={"position": 1})).json()["position"] == 1
        assert [job["id"] for job in (await client.get("/jobs")).json()] == [a, c, b]
        assert [job["id"] for job in (await client.get("/jobs", params={"state": "queued"})).json()] == [c, b]
        assert (await client.post(f"/jobs/{c}/pause")).json()["reason"] == "paused"
        assert (await client.post(f"/jobs/{c}/resume")).json()["state"] == "queued"
        assert (await client.post(f"/jobs/{b}/cancel")).json()["state"] == "cancelled"
        assert (await client.post(f"/jobs/{b}/retry")).json()["state"] == "queued"
        await client.post(f"/jobs/{a}/cancel")
        assert (await until(engine, a, RunState.CANCELLED)).reason == "cancelled"
        assert (await client.get(f"/jobs/{a}")).json()["state"] == "cancelled"


async def test_a90_errors_are_problems_with_their_status(
    home: Path, tmp_path: Path, request_body: dict[str, object]
) -> None:
    async with hungry(home, tmp_path) as (engine, client):
        job = (await client.post("/train/lora", json=request_body | {"adapter_id": "mine"})).json()["id"]
        await until(engine, job, RunState.RUNNING)
        for method, path, body, status in (
            ("GET", "/jobs/train-none", None, 404),
            ("GET", "/jobs/..%2f..%2fetc", None, 404),
            ("GET", "/jobs/.hidden", None, 422),
            ("GET", "/jobs?state=lost", None, 422),
            ("POST", "/jobs/train-none/cancel", None, 404),
            ("POST", f"/jobs/{job}/resume", None, 409),
            ("POST", f"/jobs/{job}/move", {"position": 1}, 409),
            ("POST", f"/jobs/{job}/move", {"position": 0}, 422),
            ("POST", "/train/lora", {}, 422),
            ("POST", "/train/lora", request_body | {"adapter_id": "../x"}, 422),
            ("POST", "/train/lora", request_body | {"adapter_id": "mine"}, 409),
            ("POST", "/train/lora", {"dataset": "/no/such/file"}, 422),
            ("POST", "/train/lora", {"from_trajectories": True, "sessions": ["rune-none"]}, 404),
            ("POST", "/train/lora?preview=true", {"from_trajectories": True}, 422),
        ):
            answer = await client.request(method, path, json=body)
            assert (path, answer.status_code) == (path, status)
            assert set(answer.json()) == {"error", "message"} and "Traceback" not in answer.text


async def test_a93_stopping_leaves_the_queue_as_it_is(
    home: Path, tmp_path: Path, request_body: dict[str, object]
) -> None:
    async with hungry(home, tmp_path) as (engine, client):
        ids = [(await client.post("/train/lora", json=request_body)).json()["id"] for _ in range(2)]
        await until(engine, ids[0], RunState.RUNNING)
        stopped = asyncio.get_running_loop().time()
    assert asyncio.get_running_loop().time() - stopped < 10
    async with hungry(home, tmp_path / "again") as (engine, client):
        await until(engine, ids[0], RunState.RUNNING)
        assert [job["id"] for job in (await client.get("/jobs")).json()] == ids


async def test_the_client_speaks_the_same(home: Path, tmp_path: Path, request_body: dict[str, object]) -> None:
    from engine.api_training import TrainRequest

    async with hungry(home, tmp_path) as (engine, _), EngineClient(home / "run" / "engine.sock") as client:
        request = TrainRequest.model_validate(request_body)
        assert not (await client.preview_training(request)).fits
        first, second = await client.train(request), await client.train(request)
        await until(engine, first.id, RunState.RUNNING)
        assert (await client.pause_job(second.id)).reason == "paused"
        assert (await client.resume_job(second.id)).position == 1
        assert (await client.move_job(second.id, 5)).position == 1
        assert (await client.cancel_job(second.id)).state is RunState.CANCELLED
        assert (await client.retry_job(second.id)).state is RunState.QUEUED
        assert [job.id for job in await client.jobs()] == [first.id, second.id]
        assert await client.job(second.id) == (await client.jobs(state="queued"))[0]
