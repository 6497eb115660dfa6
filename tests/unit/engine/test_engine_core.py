"""The engine's life: opening, owning the home, refusing a bad database, stopping (A93, A51)."""

from __future__ import annotations

import asyncio
import os
import stat
from pathlib import Path

import pytest
from support.engine_process import at_once, forever, scripted

from engine.api_models import RunState, SessionCreate, SessionRecord, TaskSpec
from engine.core import Engine
from engine.errors import ConfigError, EngineBusyError, EnvironmentUnfitError
from engine.runner import Ended
from engine.server import serve

BODY = SessionCreate(task=TaskSpec(id="t", prompt="x"))
BATCH = SessionCreate(task=TaskSpec(id="t", prompt="x"), run_id="run")


async def until(engine: Engine, session_id: str, state: RunState) -> SessionRecord:
    async with asyncio.timeout(60):
        async for _ in engine.journal.stream(session_id=session_id):
            record = await engine.sessions.get(session_id)
            if record.state is state:
                return record
    raise AssertionError("the stream ended")


async def test_the_home_is_private(home: Path) -> None:
    async with Engine(scripted(home), home, work=forever):
        modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in (home, home / "run", home / "rune.db")}
    assert modes == {home.name: 0o700, "run": 0o700, "rune.db": 0o600}


async def test_status_says_what_there_is(home: Path) -> None:
    async with Engine(scripted(home), home, work=forever) as engine:
        session = await engine.create_session(BODY)
        await until(engine, session.id, RunState.RUNNING)
        await engine.create_session(BODY)
        status = await engine.status()
    assert (status.pid, status.home, status.backend) == (os.getpid(), str(home), "scripted")
    assert (status.sessions_running, status.sessions_queued) == (1, 1)
    assert status.model_state == "stopped" and status.last_sequence >= 6


async def test_c4_a_second_engine_is_refused_at_once_with_the_pid_and_disturbs_nothing(home: Path) -> None:
    async with Engine(scripted(home), home, work=forever) as engine:
        session = await engine.create_session(BODY)
        await until(engine, session.id, RunState.RUNNING)
        for _ in range(50):
            async with asyncio.timeout(5):
                with pytest.raises(EngineBusyError, match=f"pid {os.getpid()}"):
                    await Engine(scripted(home), home).__aenter__()
        assert (await engine.sessions.get(session.id)).state is RunState.RUNNING


async def test_a_home_is_free_again_after_its_engine(home: Path) -> None:
    for _ in range(3):
        async with Engine(scripted(home), home, work=at_once) as engine:
            session = await engine.create_session(BODY)
            await until(engine, session.id, RunState.SUCCEEDED)


async def test_a93_stopping_takes_seconds_and_leaves_sessions_resumable(home: Path) -> None:
    async with Engine(scripted(home), home, work=forever) as engine:
        running = await engine.create_session(BATCH)
        waiting = await engine.create_session(BODY)
        await until(engine, running.id, RunState.RUNNING)
        stopped = asyncio.get_running_loop().time()
    assert asyncio.get_running_loop().time() - stopped < 5
    async with Engine(scripted(home), home, work=at_once) as engine:
        assert (await engine.sessions.get(running.id)).state is RunState.INTERRUPTED
        await until(engine, waiting.id, RunState.SUCCEEDED)
        await engine.resume_session(running.id)
        await until(engine, running.id, RunState.SUCCEEDED)


async def test_cancelling_running_work_through_the_engine(home: Path) -> None:
    async with Engine(scripted(home), home, work=forever) as engine:
        session = await engine.create_session(BODY)
        await until(engine, session.id, RunState.RUNNING)
        assert (await engine.cancel_session(session.id)).reason == "cancel requested"
        await until(engine, session.id, RunState.CANCELLED)


async def test_work_that_does_not_stop_does_not_hold_the_session(home: Path) -> None:
    """Work that swallows its cancellation longer than `engine.shutdown_s`: the session is given up all the same."""
    release = asyncio.Event()

    async def stubborn(session: SessionRecord) -> Ended:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            await release.wait()
            raise
        raise AssertionError

    async with Engine(scripted(home, "engine.shutdown_s=0.05"), home, work=stubborn) as engine:
        session = await engine.create_session(BODY)
        await until(engine, session.id, RunState.RUNNING)
        async with asyncio.TaskGroup() as group:
            group.create_task(engine._stop(next(t for t in asyncio.all_tasks() if t.get_name() == "runner")))
            await until(engine, session.id, RunState.QUEUED)
        release.set()


@pytest.mark.parametrize("damage", [b"not a database at all " * 100, b"SQLite format 3\0" + b"\xff" * 5000])
async def test_a_damaged_database_is_one_plain_sentence_and_is_left_as_it_is(home: Path, damage: bytes) -> None:
    async with Engine(scripted(home), home, work=forever):
        pass
    file = home / "rune.db"
    await asyncio.to_thread(file.write_bytes, damage)
    for _ in range(2):
        with pytest.raises(EnvironmentUnfitError, match=r"rune\.db is damaged") as refused:
            await Engine(scripted(home), home).__aenter__()
        assert "\n" not in str(refused.value)
    assert await asyncio.to_thread(file.read_bytes) == damage


async def test_a_home_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    file = tmp_path / "file"
    await asyncio.to_thread(file.write_text, "")
    with pytest.raises(EnvironmentUnfitError, match="Choose another"):
        await Engine(scripted(tmp_path), file / "home").__aenter__()


@pytest.mark.parametrize("address", ["0.0.0.0:8750", "8750", "example.com:80", "[::]:80", "127.0.0.1:http", "::1"])
async def test_h1_only_loopback_is_served(home: Path, address: str) -> None:
    with pytest.raises(ConfigError, match=r"engine\.tcp"):
        async with Engine(scripted(home, f'engine.tcp="{address}"'), home, work=forever) as engine:
            await serve(engine)


async def test_the_sandbox_is_looked_at_without_any_session(home: Path) -> None:
    async with Engine(scripted(home), home) as engine:
        async with asyncio.timeout(60):
            while not (status := await engine.status()).sandbox_level:
                await asyncio.sleep(0)
    assert status.sandbox_reason


async def test_a_user_s_templates_are_checked_at_the_start(home: Path) -> None:
    """A mistake in a template stops the engine, not the first session."""
    broken = home.parent / "templates" / "prompt" / "code.j2"
    await asyncio.to_thread(broken.parent.mkdir, parents=True)
    await asyncio.to_thread(broken.write_text, "{{ no_such_variable }}")
    with pytest.raises(ConfigError, match="no_such_variable"):
        await Engine(scripted(home, f"pipeline.templates={broken.parent.parent}"), home).__aenter__()
    await asyncio.to_thread(broken.write_text, "Write {{ name }}.")
    async with Engine(scripted(home, f"pipeline.templates={broken.parent.parent}"), home, work=forever):
        pass


async def test_a_side_task_that_dies_stops_the_engine(home: Path) -> None:
    with pytest.raises(RuntimeError, match="runner broke"):
        async with Engine(scripted(home), home, work=forever) as engine:

            async def breaks() -> None:
                raise RuntimeError("the runner broke")

            engine.sessions.claim = breaks  # type: ignore[method-assign,assignment]
            await engine.create_session(BODY)
            await asyncio.Event().wait()


async def test_snapshots_are_taken_while_it_runs(home: Path) -> None:
    async with Engine(scripted(home, "registry.snapshot_minutes=0.0001"), home, work=forever):
        async with asyncio.timeout(60):
            while not await asyncio.to_thread(lambda: list((home / "snapshots").glob("*.db"))):
                await asyncio.sleep(0)
