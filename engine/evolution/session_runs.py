"""Has tasks worked on as sessions like anyone's, and waits for their ends.

A run is named; a session of that name and task that is there already is taken as it is, or resumed where it stopped,
so whoever asks again after a crash pays only for what was not done. Only a few are queued at once: a session that a
user starts meanwhile waits for those few and not for hundreds.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import aclosing, suppress
from dataclasses import dataclass, replace
from typing import cast

from engine.api_models import FINAL_STATES, Event, RunState, SessionCreate, SessionRecord, StreamChunk, TaskSpec
from engine.errors import ConflictError
from engine.events import Journal
from engine.operations import Progress
from engine.sessions import Query, Sessions

AT_ONCE = 8
"""Sessions of a run that are queued or running together."""
STOPPED = (RunState.CANCELLED, RunState.INTERRUPTED)
PAGE = 500
"""Sessions of one read."""
IDLE_S = 5.0
"""A session is looked at again after so long without any news of it."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Doors:
    """What a user may ask of the engine about sessions."""

    create: Callable[[SessionCreate], Awaitable[SessionRecord]]
    resume: Callable[[str], Awaitable[SessionRecord]]
    cancel: Callable[[str], Awaitable[SessionRecord]]


class SessionRuns:
    """Runs tasks as sessions of a named run."""

    def __init__(self, sessions: Sessions, journal: Journal, doors: Doors) -> None:
        self._sessions = sessions
        self._journal = journal
        self._doors = doors

    async def solve(
        self, tasks: Sequence[TaskSpec], run_id: str, progress: Progress, *, adapter: str | None = None
    ) -> list[SessionRecord]:
        """Every task's session, ended, in the order of the tasks. Cancelled, it takes back what it has queued.

        Args:
            adapter: None: the engine picks one for each task.
        """
        known = await self._known(run_id)
        done = [known[task.id] for task in tasks if _is_done(known.get(task.id), task)]
        # A page has neither code nor summary: a run that goes on would not know what its own sessions came to.
        results = {session.task.id: await self._sessions.get(session.id) for session in done}
        await progress(len(results), len(tasks), "begins")
        slots = asyncio.Semaphore(AT_ONCE)

        async def one(task: TaskSpec) -> None:
            async with slots:
                results[task.id] = await self._one(task, known.get(task.id), run_id, adapter)
            await progress(len(results), len(tasks), f"{task.id}: {results[task.id].outcome or 'stopped'}")

        async with asyncio.TaskGroup() as group:
            for task in tasks:
                if task.id not in results:
                    group.create_task(one(task), name=f"{run_id} {task.id}")
        return [results[task.id] for task in tasks]

    async def _known(self, run_id: str) -> dict[str, SessionRecord]:
        """The newest session of each task of the run."""
        found: dict[str, SessionRecord] = {}
        query = Query(run_id=run_id, limit=PAGE)
        while page := await self._sessions.page(query):
            for session in page:
                found.setdefault(session.task.id, session)
            query = replace(query, offset=query.offset + PAGE)
        return found

    async def _one(
        self, task: TaskSpec, known: SessionRecord | None, run_id: str, adapter: str | None
    ) -> SessionRecord:
        since = await self._journal.last_sequence()
        if known is None or known.task != task:
            known = await self._doors.create(SessionCreate(task=task, run_id=run_id, adapter=adapter))
            stopped = False
        else:
            stopped = known.state in STOPPED or (await self._ended(known.id, since)).state in STOPPED
        try:
            if stopped:  # by an earlier run of ours, which may have ended a moment ago
                await self._doors.resume(known.id)
            return await self._ended(known.id, since)
        except asyncio.CancelledError:
            with suppress(ConflictError):  # it ended in this very moment
                await self._doors.cancel(known.id)
            raise

    async def _ended(self, session_id: str, since: int) -> SessionRecord:
        batches = cast(
            "AsyncGenerator[Sequence[Event | StreamChunk]]",
            self._journal.follow(since, session_id=session_id, idle_s=IDLE_S),
        )
        async with aclosing(batches):
            if (session := await self._sessions.get(session_id)).state in FINAL_STATES:
                return session
            async for _ in batches:
                if (session := await self._sessions.get(session_id)).state in FINAL_STATES:
                    return session
        # The stream ends when the engine stops, and then we are cancelled too: session and run go on later.
        log.info("the engine stops while %s runs", session_id)
        await asyncio.Event().wait()
        raise AssertionError("nothing sets that event")


def _is_done(session: SessionRecord | None, task: TaskSpec) -> bool:
    """Whether an earlier run has its end already: one that was stopped goes on."""
    return (
        session is not None and session.task == task and session.state in FINAL_STATES and session.state not in STOPPED
    )
