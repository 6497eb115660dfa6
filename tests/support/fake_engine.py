"""A fake engine for the terminal's tests: answers `EnginePort` from plain data, and streams what it is told to.

Not a mock: it keeps sessions, journals what changes them and lets a client follow, as the engine does, so a test
speaks of what the user sees and not of which calls were made.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from typing import Any

from engine.api_models import (
    AdapterRecord,
    AttemptRecord,
    EngineStatus,
    Event,
    PhaseName,
    PhaseStatus,
    RunState,
    SessionCreate,
    SessionRecord,
    StreamChunk,
    TaskSpec,
    Trajectory,
)
from engine.errors import EngineUnreachableError, InputError, NotFoundError

START = "2026-01-01T00:00:00.000000+00:00"


def status(**changes: Any) -> EngineStatus:
    """A healthy engine."""
    fields: dict[str, Any] = {
        "pid": 4242,
        "version": "0.1.0",
        "home": "/home/dev/.rune",
        "started_at": START,
        "backend": "scripted",
        "model": "scripted-1",
        "model_state": "serving",
        "sandbox_level": "strict",
        "sandbox_reason": "",
        "sessions_running": 0,
        "sessions_queued": 0,
        "last_sequence": 0,
    }
    return EngineStatus(**{**fields, **changes})


def session(session_id: str = "rune-00000001", **changes: Any) -> SessionRecord:
    """A queued session."""
    task = changes.pop("task", None) or TaskSpec(id=changes.pop("task_id", "sort-list"), prompt="Sort a list.")
    fields: dict[str, Any] = {"id": session_id, "task": task, "state": RunState.QUEUED, "created_at": START}
    return SessionRecord(**{**fields, **changes})


def running(session_id: str = "rune-00000001", **changes: Any) -> SessionRecord:
    """A session whose code phase is at work."""
    phases = (
        PhaseStatus(phase=PhaseName.DECOMPOSE, state="done", iterations=1, score=1.0),
        PhaseStatus(phase=PhaseName.PLAN, state="done", iterations=1, score=0.9),
        PhaseStatus(phase=PhaseName.CODE, state="running", iterations=2, score=0.67),
        PhaseStatus(phase=PhaseName.INTEGRATE, state="waiting"),
    )
    fields: dict[str, Any] = {
        "state": RunState.RUNNING,
        "phases": phases,
        "attempts": 4,
        "tokens": 1234,
        "started_at": START,
        "model": "scripted-1",
        "backend": "scripted",
        "sandbox_level": "strict",
    }
    return session(session_id, **{**fields, **changes})


def adapter(adapter_id: str = "sort-v1", **changes: Any) -> AdapterRecord:
    """An adapter of the task tier."""
    fields: dict[str, Any] = {
        "id": adapter_id,
        "version": 1,
        "task_type": "code-gen",
        "base_model_id": "smollm2-135m-instruct",
        "rank": 16,
        "alpha": 32.0,
        "target_modules": ("q_proj", "v_proj"),
        "created_at": START,
        "file_hash": "ab" * 32,
        "file_size_bytes": 2_100_000,
        "pass_rate": 0.82,
        "fitness_score": 0.71,
        "tier": "task",
        "source": "imported",
        "session_id": None,
        "is_archived": False,
        "is_quarantined": False,
        "parent_ids": (),
        "generation": 0,
    }
    return AdapterRecord(**{**fields, **changes})


def attempt(session_id: str = "rune-00000001", number: int = 1, **changes: Any) -> AttemptRecord:
    """A failed attempt."""
    fields: dict[str, Any] = {
        "session_id": session_id,
        "number": number,
        "phase": PhaseName.CODE,
        "prompt": "Sort a list.",
        "response": "```python\ndef sort(items):\n    return items\n```",
        "code": "def sort(items):\n    return items\n",
        "passed": False,
        "verdict": {
            "passed": False,
            "strength": "verified",
            "ran": 2,
            "failed": 1,
            "failures": [{"name": "test_sorts", "kind": "mismatch", "expected": "[1, 2]", "got": "[2, 1]", "line": 2}],
        },
        "stderr": "AssertionError",
        "diagnosis": "test_sorts expected [1, 2] and got [2, 1].",
        "created_at": START,
    }
    return AttemptRecord(**{**fields, **changes})


class FakeEngine:
    """An engine in memory. `down` makes every call fail; `fail_next` makes the next one raise what it holds."""

    def __init__(
        self, sessions: tuple[SessionRecord, ...] = (), adapters: tuple[AdapterRecord, ...] = (), **health: Any
    ) -> None:
        self.records = {record.id: record for record in sessions}
        self.adapter_list = adapters
        self.attempts: dict[str, tuple[AttemptRecord, ...]] = {}
        self.health_fields = health
        self.down = False
        self.fail_next: Exception | None = None
        self.asked: list[str] = []
        self.journal: list[Event] = []
        self._followers: list[asyncio.Queue[Event | StreamChunk | None]] = []

    # --- what a test does to it ---

    def emit(
        self, subject: str, payload: dict[str, Any], *, kind: str = "updated", session_id: str | None = None
    ) -> Event:
        """Journal an event and send it to whoever follows."""
        number = len(self.journal) + 1
        event = Event(
            sequence=number,
            id=f"event-{number}",
            kind=kind,
            subject=subject,
            payload=payload,
            source="fake",
            session_id=session_id,
            timestamp=START,
        )
        self.journal.append(event)
        self._send(event)
        return event

    def change(self, session_id: str, **changes: Any) -> None:
        """Change a session and journal only what changed."""
        record = self.records[session_id].model_copy(update=changes)
        self.records[session_id] = record
        payload = record.model_dump(mode="json", include=set(changes))
        self.emit(f"session/{session_id}", payload, session_id=session_id)

    def say(self, session_id: str, text: str, **place: Any) -> None:
        """Stream a piece of model output."""
        fields = {"phase": PhaseName.CODE, "attempt": 1, **place}
        self._send(StreamChunk(session_id=session_id, text=text, **fields))

    def hang_up(self) -> None:
        """Close every stream, as a stopping engine does."""
        self.down = True
        for follower in self._followers:
            follower.put_nowait(None)

    def _send(self, item: Event | StreamChunk) -> None:
        for follower in self._followers:
            follower.put_nowait(item)

    # --- EnginePort ---

    def _answer(self, call: str) -> None:
        self.asked.append(call)
        if self.down:
            raise EngineUnreachableError("No engine answers.")
        if self.fail_next is not None and call != "health":
            error, self.fail_next = self.fail_next, None
            raise error

    async def health(self) -> EngineStatus:
        self._answer("health")
        return status(last_sequence=len(self.journal), **self.health_fields)

    async def create_session(self, body: SessionCreate) -> SessionRecord:
        self._answer("create_session")
        record = session(f"rune-{len(self.records) + 1:08d}", task=body.task)
        self.records[record.id] = record
        self.emit(f"session/{record.id}", record.model_dump(mode="json"), kind="created", session_id=record.id)
        return record

    async def sessions(
        self, *, state: str | None = None, run_id: str | None = None, limit: int = 100, offset: int = 0
    ) -> tuple[SessionRecord, ...]:
        self._answer("sessions")
        del run_id
        found = [record for record in self.records.values() if state is None or record.state == state]
        found.sort(key=lambda record: record.created_at, reverse=True)
        return tuple(found[offset : offset + limit])

    async def session(self, session_id: str) -> SessionRecord:
        self._answer("session")
        if session_id not in self.records:
            raise NotFoundError(f"There is no session {session_id}.")
        return self.records[session_id]

    async def cancel_session(self, session_id: str) -> SessionRecord:
        self._answer("cancel_session")
        self.change(session_id, state=RunState.CANCELLED, reason="cancelled by the user")
        return self.records[session_id]

    async def resume_session(self, session_id: str) -> SessionRecord:
        self._answer("resume_session")
        self.change(session_id, state=RunState.QUEUED, reason="")
        return self.records[session_id]

    async def trajectory(self, session_id: str) -> Trajectory:
        self._answer("trajectory")
        return Trajectory(session=await self.session(session_id), attempts=self.attempts.get(session_id, ()))

    async def adapters(
        self,
        *,
        task_type: str | None = None,
        archived: bool = False,
        search: str | None = None,
        sort: str = "fitness",
        limit: int = 100,
        offset: int = 0,
    ) -> tuple[AdapterRecord, ...]:
        self._answer("adapters")
        if sort not in ("created", "fitness", "id"):
            raise InputError(f"query.sort: {sort!r}")
        del task_type, search
        found = tuple(record for record in self.adapter_list if record.is_archived is archived)  # as the engine does
        return found[offset : offset + limit]

    async def events(
        self, since: int = 0, *, session_id: str | None = None, chunks: bool = True, reconnect: bool = True
    ) -> AsyncGenerator[Event | StreamChunk, None]:
        self._answer("events")
        del session_id, chunks, reconnect
        queue: asyncio.Queue[Event | StreamChunk | None] = asyncio.Queue()
        for event in self.journal[since:]:
            queue.put_nowait(event)
        self._followers.append(queue)
        try:
            while (item := await queue.get()) is not None:
                yield item
        finally:
            self._followers.remove(queue)
