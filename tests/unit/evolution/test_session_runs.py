"""Tasks as sessions of a named run, on a whole engine whose sessions are worked on by the test."""

from __future__ import annotations

import asyncio
from pathlib import Path

from engine.api_models import Outcome, RunState, SessionRecord, TaskMode, TaskSpec
from engine.config import load_config
from engine.core import Engine
from engine.evolution.session_runs import AT_ONCE, Doors, SessionRuns
from engine.runner import Ended, Work
from engine.sessions import Changes, Query

CONFIG = load_config(Path("/nonexistent/config.toml"), ["inference.backend=scripted"], {})


def tasks(number: int) -> list[TaskSpec]:
    return [TaskSpec(id=f"t{index}", prompt="do it", mode=TaskMode.ATTEMPT) for index in range(number)]


async def verified(session: SessionRecord) -> Ended:
    return Ended(RunState.SUCCEEDED, "", Changes(outcome=Outcome.VERIFIED, code=f"# {session.task.id}"))


async def tell_nobody(done: int, total: int, note: str = "") -> None:
    """Progress for whoever does not watch."""


def engine_with(home: Path, work: Work) -> Engine:
    return Engine(CONFIG, home, work=work)


def runs_of(engine: Engine) -> SessionRuns:
    doors = Doors(engine.create_session, engine.resume_session, engine.cancel_session)
    return SessionRuns(engine.sessions, engine.journal, doors)


async def test_every_task_becomes_a_session_and_a_second_call_finds_them_done(home: Path) -> None:
    told: list[int] = []

    async def tell(done: int, total: int, note: str = "") -> None:
        told.append(done)

    async with engine_with(home, verified) as engine:
        first = await runs_of(engine).solve(tasks(20), "run-1", tell)
        assert [session.code for session in first] == [f"# t{index}" for index in range(20)]
        assert sorted(told) == list(range(21))
        told.clear()
        again = await runs_of(engine).solve(tasks(20), "run-1", tell)
        assert told == [20], "what an earlier run did is told at once: it says nothing about the pace of this one"
        assert again == first, "code and summary too: what was solved is learned from"
        other = await runs_of(engine).solve(tasks(1), "run-2", tell_nobody)
        assert other[0].id != first[0].id


async def test_few_are_queued_at_once_so_that_a_user_does_not_wait_for_all(home: Path) -> None:
    most = 0

    async def watch(session: SessionRecord) -> Ended:
        nonlocal most
        page = await engine.sessions.page(Query(run_id="run-1"))
        most = max(most, sum(one.state in (RunState.QUEUED, RunState.RUNNING) for one in page))
        return await verified(session)

    engine = engine_with(home, watch)
    async with engine:
        await runs_of(engine).solve(tasks(3 * AT_ONCE), "run-1", tell_nobody)
    assert 1 < most <= AT_ONCE


async def test_cancelled_it_takes_back_what_it_queued_and_goes_on_from_there(home: Path) -> None:
    begun, open_ = asyncio.Event(), asyncio.Event()

    async def slow(session: SessionRecord) -> Ended:
        if session.task.id != "t0":
            begun.set()
            await open_.wait()
        return await verified(session)

    async with engine_with(home, slow) as engine:
        runs = runs_of(engine)
        solving = asyncio.ensure_future(runs.solve(tasks(3), "run-1", tell_nobody))
        await begun.wait()
        solving.cancel()
        await asyncio.wait([solving])
        assert solving.cancelled()
        open_.set()
        ended = await runs.solve(tasks(3), "run-1", tell_nobody)
        assert [session.outcome for session in ended] == [Outcome.VERIFIED] * 3
        assert len(await engine.sessions.page(Query(run_id="run-1"))) == 3, "resumed, not made anew"


async def test_a_failure_is_a_result_and_does_not_end_the_run(home: Path) -> None:
    async def fails_once(session: SessionRecord) -> Ended:
        if session.task.id == "t1":
            return Ended(RunState.FAILED, "no model", Changes(outcome=Outcome.ERROR))
        return await verified(session)

    async with engine_with(home, fails_once) as engine:
        ended = await runs_of(engine).solve(tasks(3), "run-1", tell_nobody)
    assert [session.outcome for session in ended] == [Outcome.VERIFIED, Outcome.ERROR, Outcome.VERIFIED]
