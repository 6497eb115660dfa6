"""The engine: wires the parts, owns their lives.

    home's lock ─► database open, checked, migrated ─► recovery ─► accepting work ─► stopping ─► closed
         │                    │
         └ EngineBusyError    └ EnvironmentUnfitError: says what is wrong with the file, changes nothing

One task group holds every long-lived task (device, runner, operations, training queue, snapshots, sandbox probe); one
that dies stops the engine. The device is let go last: whoever works on it has ended then. What was taken is given back
in the reverse order, so a dead database never loses a lock and a dead model server never loses a row. Parts that cost
a start-up (LangGraph, the OpenAI client) come with the first session, not with the engine; the sandbox is looked at
beside its first answers.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import asdict
from importlib.resources import files
from pathlib import Path
from types import TracebackType
from typing import Self

from engine import recovery
from engine.api_device import BackendInfo
from engine.api_models import EngineStatus, RunState, SessionCreate, SessionRecord, Trajectory
from engine.assembly import Stores, make_hosting, make_training
from engine.config import Config, program_version
from engine.device.owner import Device
from engine.errors import EnvironmentUnfitError
from engine.events import Bus, Journal
from engine.home import HomeLock, prepare_home
from engine.inference.servers.catalogue import backend_infos
from engine.jobs import Jobs
from engine.learning import Ground, Learning
from engine.runner import Runner, Work
from engine.sessions import Sessions
from engine.training.service import TrainingService
from engine.training.trajectories import TrajectoryStore
from engine.workshop import Workshop
from registry.clock import Clock, SystemClock, timestamp
from registry.db import Database, Migrations
from registry.errors import DatabaseError
from registry.files import run_to_end
from registry.registry import MIGRATIONS as REGISTRY_MIGRATIONS
from registry.registry import AdapterLimits, Registry

log = logging.getLogger(__name__)


class Engine:
    """One home's engine: `async with Engine(config, home) as engine` accepts work until the block ends.

    Args:
        work: what runs a session; None is the pipeline.

    Entering raises:
        EngineBusyError: another engine owns the home.
        EnvironmentUnfitError: the home or its database cannot be used; the sentence says what to do.
    """

    db: Database
    journal: Journal
    sessions: Sessions
    registry: Registry
    trajectories: TrajectoryStore
    device: Device
    training: TrainingService
    learning: Learning

    def __init__(self, config: Config, home: Path, clock: Clock | None = None, *, work: Work | None = None) -> None:
        self.config = config
        self.home = home
        self._clock = clock or SystemClock()
        self._work = work
        self.bus = Bus(config.engine.event_queue)
        self._stack = AsyncExitStack()
        self._stopping = asyncio.Event()

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as opening:
            await opening.enter_async_context(self._lock())
            await opening.enter_async_context(self._database())
            await self._recover()
            await opening.enter_async_context(self._working())
            self._stack = opening.pop_all()
        log.info("engine ready in %s", self.home)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        self._stopping.set()
        return await self._stack.__aexit__(kind, error, trace)

    # --- opening, in order ---

    @asynccontextmanager
    async def _lock(self) -> AsyncGenerator[None]:
        await asyncio.to_thread(prepare_home, self.home)
        self.version = await asyncio.to_thread(program_version)
        lock = await asyncio.to_thread(HomeLock.acquire, self.home)
        try:
            yield
        finally:
            lock.release()

    @asynccontextmanager
    async def _database(self) -> AsyncGenerator[None]:
        sets = (
            REGISTRY_MIGRATIONS,
            Migrations("engine", files("engine") / "migrations"),
        )
        try:
            self.db = await Database.open(self.home / "rune.db", sets, self._clock)
        except DatabaseError as error:
            raise EnvironmentUnfitError(str(error)) from error
        try:
            await self._build()
            yield
        finally:
            self.bus.close()
            await self.db.close()

    async def _build(self) -> None:
        self.started_at = timestamp(self._clock.now())
        self.journal = Journal(self.db, self.bus, self._clock, "engine")
        jobs = self._jobs = Jobs(self.journal, self._clock, owner=self._clock.uuid())
        self.sessions = Sessions(self.db, jobs, self.journal, self._clock)
        limits = AdapterLimits(self.config.registry.max_adapter_mb << 20, self.config.registry.max_rank)
        self.registry = Registry(self.db, self.home / "adapters", limits, self._clock, self.journal.source("registry"))
        self.trajectories = TrajectoryStore(self.db, self.journal.source("training"), self._clock)
        stores = Stores(self.db, self.journal, jobs, self.sessions, self.registry, self.trajectories)
        hosting = await make_hosting(self.config, self.home, self._clock, stores)
        self.device = hosting.device
        self.training = make_training(self.config, self.home, self._clock, stores, hosting)
        self._workshop = Workshop(self.config, self.home, self._clock, stores, self.device, self.bus)
        work = self._work or self._workshop.run
        self._runner = Runner(self.sessions, work, self.config.pipeline.sessions_at_once)
        ground = Ground(
            self.config,
            self.home,
            self._clock,
            stores,
            self.device,
            self._workshop,
            self.training,
            self.create_session,
            self.cancel_session,
            self.resume_session,
        )
        self.learning = Learning(ground)

    async def _recover(self) -> None:
        await self.learning.recover()
        moved = await self.sessions.recover()
        for session in moved:
            log.warning("session %s was left behind by a dead engine: now %s", session.id, session.state)
        await self.training.recover()
        await self.registry.recover()
        await recovery.clean_leftovers(self.home)

    @asynccontextmanager
    async def _working(self) -> AsyncGenerator[None]:
        try:
            await self._workshop.check()
            async with asyncio.TaskGroup() as group:
                group.create_task(self.device.run(), name="device")
                runner = group.create_task(self._runner.run(), name="runner")
                training = group.create_task(self.training.run(), name="training queue")
                learning = group.create_task(self.learning.run(), name="operations")
                beside = [group.create_task(self._snapshots(), name="snapshots")]
                if self._work is None:
                    beside.append(group.create_task(self._workshop.look_at_sandbox(), name="sandbox probe"))
                try:
                    yield
                finally:
                    for task in beside:
                        task.cancel()
                    await self._stop(runner, learning)
                    await self.device.close()  # a trainer writes its checkpoint; its worker hears of its end
                    training.cancel()
        except BaseExceptionGroup as failures:
            raise _cause(failures) from failures
        finally:
            await self._release_jobs()

    async def _release_jobs(self) -> None:
        """What a worker was too late to settle is queued again."""
        try:
            await self.db.write(self._jobs.release_all)
        except DatabaseError as error:  # the next start settles what this one cannot
            log.error("running jobs could not be released: %s", error)

    async def _stop(self, *working: asyncio.Task[None]) -> None:
        """End the sessions' runner and the operations, which hold the device and wait for sessions."""
        for task in working:
            task.cancel()
        _, late = await asyncio.wait(working, timeout=self.config.engine.shutdown_s)
        if late:
            names = ", ".join(task.get_name() for task in late)
            log.error("%s did not stop in %s s; what runs is released", names, self.config.engine.shutdown_s)
            await self.sessions.release_all()

    async def _snapshots(self) -> None:
        while True:
            await asyncio.sleep(self.config.registry.snapshot_minutes * 60)
            try:
                path = await self.db.snapshot(self.config.registry.snapshots)
            except DatabaseError as error:  # a full disk must not stop the work that runs
                log.error("no snapshot: %s", error)
            else:
                log.info("snapshot %s", path.name)

    # --- what the API asks for ---

    async def create_session(self, body: SessionCreate) -> SessionRecord:
        """Accept a task; when this returns it is on disk."""
        record = await self.sessions.create(body)
        self._runner.wake()
        return record

    async def cancel_session(self, session_id: str) -> SessionRecord:
        """Cancel a queued session at once; ask a running one to stop.

        Raises:
            NotFoundError, ConflictError
        """
        record = await self.sessions.cancel(session_id)
        if record.state is RunState.RUNNING:
            self._runner.cancel(session_id)
        return record

    async def resume_session(self, session_id: str) -> SessionRecord:
        """Queue a stopped session again.

        Raises:
            NotFoundError, ConflictError
        """
        record = await self.sessions.resume(session_id)
        self._runner.wake()
        return record

    async def trajectory(self, session_id: str) -> Trajectory:
        """A session with all its attempts.

        Raises:
            NotFoundError
        """
        session = await self.sessions.get(session_id)
        return Trajectory(session=session, attempts=await self.trajectories.attempts(session_id))

    async def backends(self) -> tuple[BackendInfo, ...]:
        """Which kinds of model server can run here, and how to get the others."""
        return await run_to_end(lambda: backend_infos(self.config, self.home))

    async def status(self) -> EngineStatus:
        """What the engine says about itself."""
        counts = await self.sessions.counts()
        return EngineStatus(
            pid=os.getpid(),
            version=self.version,
            home=str(self.home),
            started_at=self.started_at,
            sessions_running=counts[RunState.RUNNING],
            sessions_queued=counts[RunState.QUEUED],
            last_sequence=await self.journal.last_sequence(),
            **asdict(self._workshop.facts()),
        )

    async def check_ready(self) -> None:
        """Answer only if the engine can accept work.

        Raises:
            EnvironmentUnfitError: the database fails, or the engine is stopping.
        """
        if self._stopping.is_set():
            raise EnvironmentUnfitError("The engine is stopping.")
        try:
            await self.journal.last_sequence()
        except DatabaseError as error:
            raise EnvironmentUnfitError(str(error)) from error

    def request_shutdown(self) -> None:
        """Ask whoever serves this engine to stop it."""
        self._stopping.set()

    async def shutdown_requested(self) -> None:
        """Return once somebody asked."""
        await self._stopping.wait()


def _cause(failure: BaseException) -> BaseException:
    """What a group of one comes down to: callers catch errors, not groups."""
    while isinstance(failure, BaseExceptionGroup) and len(failure.exceptions) == 1:
        failure = failure.exceptions[0]
    return failure
