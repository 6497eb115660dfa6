"""The device inside a real engine: a real model server under its guardian, the real lock, memory and database."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

from support.device_fakes import FakeTrainer, World
from support.engine_process import api, scripted

from engine.api_device import BackendInfo, BackendSwitched, DeviceState, DeviceStatus
from engine.core import Engine
from engine.device.processes import descendants
from engine.inference.admitted import AdmittedProvider
from engine.inference.provider import Message, Request, Sampling

REQUEST = Request((Message("user", "say something"),), Sampling(8, 0.0, 1.0, 1.0, 0))


async def test_a_handover_with_a_real_server_keeps_its_process_and_its_answers(home: Path) -> None:
    async with Engine(scripted(home), home) as engine:
        provider = AdmittedProvider(engine.device, "base")
        before = await provider.generate(REQUEST)
        server = engine.device._hands.server.current
        assert server is not None
        process = server.process
        trainer = FakeTrainer(World(), need_mib=1)
        assert (await engine.device.train(trainer)).succeeded and trainer.published == 1
        assert server.process == process, "it slept and woke; it was not started again"
        assert (await provider.generate(REQUEST)).text == before.text
        states = [
            event.payload["state"]
            for event in await engine.journal.replay()
            if event.subject == f"device/{engine.device.status().id}"
        ]
        assert states[-8:] == [
            "draining", "sleeping", "preflight", "training", "reclaiming", "waking", "verifying", "serving",
        ]  # fmt: skip


async def test_a_killed_server_is_started_again_for_the_next_request(home: Path) -> None:
    async with Engine(scripted(home), home) as engine:
        provider = AdmittedProvider(engine.device, "base")
        await provider.generate(REQUEST)
        server = engine.device._hands.server.current
        assert server is not None and server.process is not None
        first = server.process
        for child in await asyncio.to_thread(descendants, first):
            os.kill(child.pid, signal.SIGKILL)
        async with asyncio.timeout(60):
            await engine.device.until(lambda snapshot: snapshot.state is not DeviceState.SERVING)
            assert (await provider.generate(REQUEST)).text
        assert server.process not in (None, first)


async def test_the_routes_of_the_device(home: Path) -> None:
    async with api(home) as (engine, client):
        status = DeviceStatus.model_validate((await client.get("/device")).json())
        assert status == engine.device.status() and status.state is DeviceState.COLD
        names = [BackendInfo.model_validate(one).name for one in (await client.get("/device/backends")).json()]
        assert {"scripted", "llamacpp", "vllm", "transformers", "ollama"} == set(names)
        answer = await client.post("/device/backend", json={"backend": "scripted"})
        switched = BackendSwitched.model_validate(answer.json())
        assert switched.switched and engine.device.status().state is DeviceState.SERVING
        assert (await client.post("/device/backend", json={"backend": "abacus"})).status_code == 422
        assert (await client.post("/device/retry")).status_code == 200
