"""Runs queued sessions, `limit` at a time, and settles how each of them ended.

One loop claims; each claimed session is a task of one group. A session's task ends in exactly one of these ways, and
each is one write, fenced by its claim:

    work returned              -> the state it gave
    work raised RuneError      -> failed, with its sentence as the reason
    work raised anything else  -> failed, with a pointer to the log
    cancelled by the user      -> cancelled
    cancelled because we stop  -> released with all others: queued again, or interrupted

Whatever moment a cancellation hits, the write that follows is fenced, so a result that was already recorded stands.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from engine.api_models import Outcome, RunState, SessionRecord
from engine.errors import LeaseLostError, RuneError
from engine.jobs import Claim
from engine.sessions import Changes, Sessions
from registry.errors import DatabaseError

HEARTBEAT_S = 10.0
"""How often running jobs are noted as alive; only people read it, since the home's lock is the lease."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Ended:
    """How a session's work ended."""

    state: RunState
    reason: str = ""
    changes: Changes = field(default_factory=Changes)


Work = Callable[[SessionRecord], Awaitable[Ended]]


class Runner:
    """Owner of everything that is running; its dictionary is the only place that knows."""

    def __init__(self, sessions: Sessions, work: Work, limit: int) -> None:
        self._sessions = sessions
        self._work = work
        self._limit = limit
        self._running: dict[str, tuple[Claim, asyncio.Task[None] | None]] = {}
        self._unwanted: set[str] = set()
        self._wake = asyncio.Event()

    def wake(self) -> None:
        """Something was queued."""
        self._wake.set()

    def cancel(self, session_id: str) -> None:
        """Stop a running session on its user's wish. The row must say so already."""
        self._unwanted.add(session_id)
        self._stop(session_id)

    async def run(self) -> None:
        """Claim and run until this task is cancelled; what runs then is released."""
        slots = asyncio.Semaphore(self._limit)
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._beat(), name="heartbeat")
                while True:
                    await slots.acquire()
                    claim, session = await self._next()
                    task = group.create_task(self._run_one(claim, session), name=f"session {claim.job_id}")
                    task.add_done_callback(lambda _: slots.release())
        finally:
            await self._release()

    async def _release(self) -> None:
        # Also what was claimed in the very moment of the cancellation, and never reached a task.
        try:
            await self._sessions.release_all()
        except DatabaseError as error:  # the next start settles what this one cannot
            log.error("running sessions could not be released: %s", error)

    async def _next(self) -> tuple[Claim, SessionRecord]:
        while True:
            self._wake.clear()  # before the look: what is queued during it must wake us again
            claimed = await self._sessions.claim()
            if claimed is not None:
                return claimed
            await self._wake.wait()

    async def _run_one(self, claim: Claim, session: SessionRecord) -> None:
        self._running[claim.job_id] = (claim, asyncio.current_task())
        try:
            if claim.job_id in self._unwanted:  # cancelled between the claim and the start of this task
                await self._sessions.finish(claim, RunState.CANCELLED, "cancelled")
                return
            ended = await self._guarded(session)
            await self._sessions.finish(claim, ended.state, ended.reason, ended.changes)
        except asyncio.CancelledError:
            if claim.job_id in self._unwanted:
                await self._finish_cancelled(claim)
            raise
        except LeaseLostError:
            log.error("session %s was taken from this engine while it ran; its result is dropped", claim.job_id)
        finally:
            del self._running[claim.job_id]
            self._unwanted.discard(claim.job_id)

    async def _guarded(self, session: SessionRecord) -> Ended:
        try:
            return await self._work(session)
        except LeaseLostError:
            raise
        except RuneError as error:
            log.warning("session %s failed: %s", session.id, error)
            return Ended(RunState.FAILED, str(error), Changes(outcome=Outcome.ERROR))
        except Exception:  # the session's task ends here; the engine goes on with the others
            log.exception("session %s failed unexpectedly", session.id)
            reason = "An unexpected error; the log in RUNE_HOME/logs has the details."
            return Ended(RunState.FAILED, reason, Changes(outcome=Outcome.ERROR))

    async def _finish_cancelled(self, claim: Claim) -> None:
        try:
            await self._sessions.finish(claim, RunState.CANCELLED, "cancelled")
        except LeaseLostError:
            log.info("session %s had ended when it was cancelled", claim.job_id)

    async def _beat(self) -> None:
        while True:
            await asyncio.sleep(HEARTBEAT_S)
            claims = [claim for claim, _ in self._running.values()]
            for lost in await self._sessions.heartbeat(claims):
                if self._running.get(lost.job_id, (None, None))[0] == lost:
                    log.error("session %s is not held any more; its work stops", lost.job_id)
                    self._stop(lost.job_id)

    def _stop(self, session_id: str) -> None:
        _, task = self._running.get(session_id, (None, None))
        if task is not None:
            task.cancel()
