"""A provider behind the device's door: waits, is aborted, is asked again (I6); sessions say who really answered."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
from support.device_fakes import FakeTrainer, Stage, staged
from support.pipeline_fakes import Ground, ScriptedProvider, in_turn, make_parts, memory_directory, open_ground

from engine.api_device import BackendName, DeviceState
from engine.api_models import PhaseName
from engine.device.contracts import LiveAdapter
from engine.errors import DeviceBusyError, ProviderError, RequestAbortedError
from engine.inference.admitted import AdmittedProvider
from engine.inference.provider import Completion, Delta, Message, Request, Sampling
from engine.pipeline.generate import MAX_ABORTS, Call, generate
from engine.pipeline.limits import Stopwatch, TokenBudget
from engine.pipeline.turns import Ask

REQUEST = Request((Message("user", "say something"),), Sampling(8, 0.0, 1.0, 1.0, 0))
ASK = Ask("diagnose", {"project": "p", "codes": [], "errors": "e", "one": True})
CALL = Call("session", PhaseName.CODE, "", 1, 0, 0.0, 100)


class Speaker(ScriptedProvider):
    """Streams three pieces; holds after the first until it is let go on."""

    def __init__(self) -> None:
        super().__init__(in_turn(["one two three"]))
        self.first = asyncio.Event()
        self.go_on = asyncio.Event()

    async def stream(self, request: Request) -> AsyncIterator[Delta]:
        async for delta in super().stream(request):
            yield delta
            self.first.set()
            await self.go_on.wait()


def speak(stage: Stage) -> Speaker:
    """Give both servers one provider."""
    speaker = Speaker()
    for server in (stage.server, stage.other):
        cast("Any", server).provider = speaker
    return speaker


async def collect(provider: AdmittedProvider) -> list[Delta]:
    async with aclosing(cast("Any", provider.stream(REQUEST))) as stream:
        return [delta async for delta in stream]


async def test_an_answer_says_which_backend_gave_it(tmp_path: Path) -> None:
    async with staged(tmp_path) as stage:
        speak(stage).go_on.set()
        provider = AdmittedProvider(stage.device, "base")
        assert (await collect(provider))[-1].backend == "scripted"
        await stage.device.use_backend(BackendName.LLAMACPP)
        assert (await provider.generate(REQUEST)).text == "one two three"
        assert provider.answered_by is BackendName.LLAMACPP
        health = await provider.health()
        assert health.ready and health.backend == "llamacpp" and stage.device.status().in_flight == 0


async def test_an_adapter_is_made_live_before_each_request(tmp_path: Path) -> None:
    async with staged(tmp_path) as stage:
        speak(stage).go_on.set()
        provider = AdmittedProvider(stage.device, "base", LiveAdapter("digest", "/adapters/digest"))
        await provider.generate(REQUEST)
        stage.server.die()
        async with asyncio.timeout(60):
            await stage.device.until(lambda snapshot: snapshot.state is not DeviceState.SERVING)
        await provider.generate(REQUEST)
        assert stage.world.log.count("scripted load digest") == 2
        assert await provider.list_adapters() == ("digest",)


async def test_a_stream_is_aborted_by_a_handover_in_the_midst_of_a_piece(tmp_path: Path) -> None:
    async with staged(tmp_path) as stage, asyncio.TaskGroup() as group:
        speaker = speak(stage)
        streaming = group.create_task(_outcome(AdmittedProvider(stage.device, "base")))
        await speaker.first.wait()
        assert (await stage.device.train(FakeTrainer(stage.world))).succeeded
        assert isinstance(await streaming, RequestAbortedError)
        assert speaker.closed_early == 1, "the server's side of it was closed too"


async def test_a_death_of_the_server_is_no_fault_of_the_request(tmp_path: Path) -> None:
    async with staged(tmp_path) as stage:
        speaker = speak(stage)
        speaker.go_on.set()
        await AdmittedProvider(stage.device, "base").generate(REQUEST)

        def dies(request: Request, number: int) -> Exception:
            del request, number
            stage.server.die()
            return ProviderError("Connection reset.")

        speaker._rule = dies
        assert isinstance(await _outcome(AdmittedProvider(stage.device, "base")), RequestAbortedError)
        speaker._rule = in_turn([ProviderError("500: a bug")])
        refused = await _outcome(AdmittedProvider(stage.device, "base"))
        assert type(refused) is ProviderError, "a server that lives is believed"


async def test_one_that_does_not_wait_fails_fast(tmp_path: Path) -> None:
    async with staged(tmp_path) as stage:
        await stage.reaches(DeviceState.COLD)
        with pytest.raises(DeviceBusyError, match="cold"):
            await AdmittedProvider(stage.device, "base", wait=False).generate(REQUEST)


async def _outcome(provider: AdmittedProvider) -> object:
    try:
        return await collect(provider)
    except ProviderError as error:
        return error


@pytest.fixture
async def ground() -> AsyncIterator[Ground]:
    with memory_directory() as home:
        async with open_ground(home) as opened:
            yield opened


async def test_the_pipeline_asks_again_and_the_lost_answer_costs_nothing(ground: Ground) -> None:
    model = ScriptedProvider(in_turn([RequestAbortedError(), RequestAbortedError(), "done"]))
    parts = make_parts(ground.home, ground.store, model)
    budget = TokenBudget(1000)
    answer = await generate(parts, budget, ASK, CALL)
    assert answer.text == "done" and len(model.requests) == 3
    budget.check(1000 - 15 - 1)


async def test_a_request_that_is_always_aborted_is_given_up(ground: Ground) -> None:
    model = ScriptedProvider(in_turn([RequestAbortedError()]))
    with pytest.raises(RequestAbortedError):
        await generate(make_parts(ground.home, ground.store, model), TokenBudget(1000), ASK, CALL)
    assert len(model.requests) == MAX_ABORTS + 1


async def test_waiting_for_the_model_is_not_the_session_s_time() -> None:
    watch = Stopwatch()
    with watch.limited(0.05) as limit:
        async with limit:
            with watch.paused(), watch.paused():
                await asyncio.sleep(0.1)  # the time itself is what is tested
    with pytest.raises(TimeoutError), watch.limited(0.05) as limit:
        async with limit:
            with watch.paused():
                pass
            await asyncio.sleep(1)


class Named(ScriptedProvider):
    """Says who answered, truly or not, and which adapters it has."""

    def __init__(self, served: str, loaded: tuple[str, ...]) -> None:
        super().__init__(in_turn(["answer"]))
        self._served = served
        self._loaded = loaded

    async def generate(self, request: Request) -> Completion:
        return replace(await super().generate(request), served=self._served)

    async def list_adapters(self) -> tuple[str, ...]:
        return self._loaded


@pytest.mark.parametrize(
    ("asked", "served", "loaded", "proven"),
    [
        (None, "scripted", (), True),
        (None, "digest", ("digest",), False),
        ("digest", "digest", ("digest",), True),
        ("digest", "scripted", ("digest",), False),
        ("digest", "digest", ("other",), False),
        ("digest", "", ("digest",), False),
    ],
)
async def test_an_answer_is_proven_by_what_the_server_says(
    tmp_path: Path, asked: str | None, served: str, loaded: tuple[str, ...], proven: bool
) -> None:
    """A81: who answered is what the server named and lists, never what was asked for."""
    async with staged(tmp_path) as stage:
        for server in (stage.server, stage.other):
            cast("Any", server).provider = Named(served, loaded)
        adapter = LiveAdapter(asked, f"/adapters/{asked}") if asked else None
        answered = await AdmittedProvider(stage.device, "scripted", adapter).answer(replace(REQUEST, adapter=asked))
    assert (answered.completion.text, answered.backend, answered.proven) == ("answer", BackendName.SCRIPTED, proven)
