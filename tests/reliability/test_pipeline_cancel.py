"""A15: pause, cancellation and a spent budget at any phase leave a session that resumes without repeating anything."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from support.pipeline_fakes import (
    Ground,
    Reply,
    ScriptedProvider,
    Told,
    comparable,
    defaults,
    make_parts,
    memory_directory,
    open_ground,
)
from support.pipeline_worker import SESSION, TASK, answer

from engine.api_models import AttemptRecord, PhaseName, PhaseStatus
from engine.errors import BudgetExceededError
from engine.inference.provider import Delta, Request
from engine.pipeline.parts import SessionResult
from engine.pipeline.run import run_session

PHASES = ["decompose", "plan", "code", "integrate", "diagnose", "repair"]
CALLS = 18
"""Model calls of the undisturbed session, diagnoses included; `test_the_calls_are_counted` keeps it honest."""


@pytest.fixture
async def ground() -> AsyncIterator[Ground]:
    with memory_directory() as home:
        async with open_ground(home) as opened:
            yield opened


async def undisturbed(ground: Ground) -> tuple[SessionResult, list[str]]:
    """The same session, with nothing happening to it, in a place of its own."""
    place = ground.home / "undisturbed"
    place.mkdir()
    async with open_ground(place) as other:
        result = await run_session(SESSION, TASK, make_parts(place, other.store, ScriptedProvider(answer)))
        return result, comparable(await other.store.attempts(SESSION))


def repeated(provider: ScriptedProvider, recorded: tuple[AttemptRecord, ...]) -> set[int | None]:
    """Seeds of calls that made a recorded attempt again."""
    return {request.sampling.seed for request in provider.requests} & {record.seed for record in recorded}


async def resumed_as_undisturbed(ground: Ground) -> None:
    """Resume the session and compare."""
    before = await ground.store.attempts(SESSION)
    provider = ScriptedProvider(answer)
    result = await run_session(SESSION, TASK, make_parts(ground.home, ground.store, provider))
    expected, records = await undisturbed(ground)
    assert not repeated(provider, before)
    assert comparable(await ground.store.attempts(SESSION)) == records
    assert result == expected


@pytest.mark.parametrize("state", ["running", "done"])
@pytest.mark.parametrize("phase", PHASES)
async def test_a15_cancelled_at_a_phase_and_resumed(ground: Ground, phase: str, state: str) -> None:
    def cancel(status: PhaseStatus) -> None:
        if (status.phase, status.state) == (phase, state):
            session.cancel()

    parts = make_parts(ground.home, ground.store, ScriptedProvider(answer), report=Told(on_phase=cancel))
    session = asyncio.ensure_future(run_session(SESSION, TASK, parts))
    with pytest.raises(asyncio.CancelledError):
        await session
    await resumed_as_undisturbed(ground)


async def test_the_calls_are_counted(ground: Ground) -> None:
    provider = ScriptedProvider(answer)
    await run_session(SESSION, TASK, make_parts(ground.home, ground.store, provider))
    assert len(provider.requests) == CALLS


@pytest.mark.parametrize("number", range(CALLS))
async def test_a15_cancelled_during_a_model_call_and_resumed(ground: Ground, number: int) -> None:
    class Cancelling(ScriptedProvider):
        async def stream(self, request: Request) -> AsyncIterator[Delta]:
            here = len(self.requests) == number
            async for delta in super().stream(request):
                yield delta
                if here:
                    session.cancel()

    parts = make_parts(ground.home, ground.store, Cancelling(answer))
    session = asyncio.ensure_future(run_session(SESSION, TASK, parts))
    with pytest.raises(asyncio.CancelledError):
        await session
    await resumed_as_undisturbed(ground)


async def test_a15_negative_control_without_its_checkpoints_a_session_repeats_attempts(ground: Ground) -> None:
    def cancel(status: PhaseStatus) -> None:
        if (status.phase, status.state) == (PhaseName.CODE, "done"):
            session.cancel()

    parts = make_parts(ground.home, ground.store, ScriptedProvider(answer), report=Told(on_phase=cancel))
    session = asyncio.ensure_future(run_session(SESSION, TASK, parts))
    with pytest.raises(asyncio.CancelledError):
        await session
    before = await ground.store.attempts(SESSION)
    provider = ScriptedProvider(answer)
    forgotten = make_parts(ground.home, ground.store, provider, checkpoints=ground.home / "other.db")
    await run_session(SESSION, TASK, forgotten)
    assert repeated(provider, before)


async def test_a15_a_gate_pauses_between_phases_and_lets_go_on(ground: Ground) -> None:
    told, opened, waiting = Told(), asyncio.Event(), asyncio.Event()

    async def gate(phase: PhaseName) -> None:
        if phase is PhaseName.CODE:
            waiting.set()
            await opened.wait()

    parts = make_parts(ground.home, ground.store, ScriptedProvider(answer), report=told, gate=gate)
    async with asyncio.TaskGroup() as group:
        session = group.create_task(run_session(SESSION, TASK, parts))
        await waiting.wait()
        assert told.ended() == [PhaseName.DECOMPOSE, PhaseName.PLAN]
        assert not session.done()
        opened.set()
    assert session.result().outcome == "verified"


async def test_a15_a_token_budget_that_is_spent_again_and_again_still_ends_the_same(ground: Ground) -> None:
    config = defaults(budget_tokens=70)
    stops = 0
    while True:
        provider = ScriptedProvider(answer)
        before = await ground.store.attempts(SESSION)
        try:
            await run_session(SESSION, TASK, make_parts(ground.home, ground.store, provider, config=config))
            break
        except BudgetExceededError:
            stops += 1
            assert stops < CALLS, "each run must get further"
        assert not repeated(provider, before)
    assert stops >= 2
    await resumed_as_undisturbed(ground)


async def test_a15_the_seconds_stop_a_session_that_hangs_and_cancel_its_generation(ground: Ground) -> None:
    class Hanging(ScriptedProvider):
        async def stream(self, request: Request) -> AsyncIterator[Delta]:
            try:
                yield Delta("1. ")
                await asyncio.Event().wait()
            finally:
                self.closed_early += 1

    hanging = Hanging(lambda request, number: Reply(""))
    parts = make_parts(ground.home, ground.store, hanging, config=defaults(budget_seconds=1.5))
    with pytest.raises(BudgetExceededError, match=r"1\.5 seconds"):
        await run_session(SESSION, TASK, parts)
    assert hanging.closed_early == 1
    await resumed_as_undisturbed(ground)
