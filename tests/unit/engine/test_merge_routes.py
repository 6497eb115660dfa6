"""POST /merge over the real socket: queued, merged in a child, published, and its end told (A61, A62)."""

from __future__ import annotations

import asyncio
from pathlib import Path

from support.engine_process import api

from engine.api_evolution import MergeReport, MergeRequest
from engine.api_learning import Operation
from engine.api_models import FINAL_STATES, Event, RunState
from engine.core import Engine
from engine.home import socket_path
from registry.models import NewAdapter, Source
from registry.samples import write_sample
from rune_tui.client import EngineClient
from rune_tui.client_learning import LearningClient


async def publish(engine: Engine, folder: Path, *names: str) -> None:
    for seed, name in enumerate(names):
        directory = await asyncio.to_thread(write_sample, folder / name, seed)
        await engine.registry.publish(directory, NewAdapter(id=name, task_type="sort", source=Source.QLORA))


async def ended(client: EngineClient, learning: LearningClient, operation: Operation, since: int) -> Operation:
    async for event in client.events(since, chunks=False):
        if isinstance(event, Event) and event.subject == f"operation/{operation.id}":
            operation = await learning.operation(operation.id)
            if operation.state in FINAL_STATES:
                return operation
    raise AssertionError("the stream ended")


async def test_a_merge_is_an_operation_with_a_report(home: Path, tmp_path: Path) -> None:
    async with api(home) as (engine, http), EngineClient(socket_path(home)) as client:
        await publish(engine, tmp_path, "a", "b")
        learning = LearningClient(client)
        since = (await client.health()).last_sequence
        queued = await learning.merge(MergeRequest(adapters=("a", "b"), adapter_id="child"))
        done = await ended(client, learning, queued, since)
        assert (done.state, done.reason) == (RunState.SUCCEEDED, "")
        report = MergeReport.model_validate(done.result)
        child = await engine.registry.get("child")
        assert (report.adapter_id, report.digest, child.parent_ids) == ("child", child.digest, ("a", "b"))
        refused = await ended(client, learning, await learning.merge(MergeRequest(adapters=("a", "nobody"))), since)
        assert refused.state is RunState.FAILED and "nobody" in refused.reason
        assert (await http.post("/merge", json={"adapters": []})).status_code == 422
