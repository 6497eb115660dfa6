"""A fake engine for the terminal's tests: answers `EnginePort` from plain data, and streams what it is told to.

Not a mock: it keeps sessions, journals what changes them and lets a client follow, as the engine does, so a test
speaks of what the user sees and not of which calls were made.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from typing import Any

from support.fake_registry import FakeRegistry

from engine.api_device import BackendInfo, BackendName, BackendSwitched, DeviceState, DeviceStatus
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
from engine.api_training import TrainJob, TrainPreview, TrainProgress, TrainRequest
from engine.errors import BackendUnavailableError, EngineUnreachableError, InputError, NotFoundError

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


def device(**changes: Any) -> DeviceStatus:
    """A device that serves."""
    fields: dict[str, Any] = {
        "id": "cpu",
        "state": DeviceState.SERVING,
        "reason": "llamacpp answers.",
        "since": START,
        "epoch": 3,
        "backend": BackendName.LLAMACPP,
        "free_mib": 12_288,
        "total_mib": 24_064,
    }
    return DeviceStatus(**{**fields, **changes})


BACKENDS = (
    BackendInfo(name=BackendName.LLAMACPP, available=True, reason="The embedded model.", adapters=True, sleep=True),
    BackendInfo(
        name=BackendName.VLLM,
        available=False,
        reason="Not installed; run `rune-tui backend install vllm`.",
        adapters=True,
        sleep=True,
    ),
    BackendInfo(name=BackendName.OLLAMA, available=True, reason="Its server answers.", adapters=False, sleep=True),
    BackendInfo(name=BackendName.SCRIPTED, available=True, reason="Rules, no model.", adapters=True, sleep=True),
)

PREVIEW = TrainPreview(
    examples=90,
    held_out=10,
    left_out=4,
    tokens=41_000,
    steps=36,
    peak_mib=1_536,
    free_mib=12_288,
    fits=True,
    asleep=("llamacpp",),
    seconds=345.0,
    method="qlora",
)


def job(job_id: str = "train-1", **changes: Any) -> TrainJob:
    """A queued training job."""
    fields: dict[str, Any] = {
        "id": job_id,
        "state": RunState.QUEUED,
        "request": TrainRequest(from_trajectories=True),
        "adapter_id": f"adapter-{job_id}",
        "created_at": START,
    }
    return TrainJob(**{**fields, **changes})


def progress(job_id: str = "train-1", **changes: Any) -> TrainProgress:
    """A job at its twelfth step."""
    fields: dict[str, Any] = {
        "job_id": job_id,
        "step": 12,
        "steps": 36,
        "loss": 1.234,
        "held_out_loss": 1.5,
        "learning_rate": 2e-4,
        "grad_norm": 0.7,
        "tokens_per_second": 119.0,
        "memory_mib": 512,
        "eta_seconds": 80.0,
    }
    return TrainProgress(**{**fields, **changes})


class FakeDevice:
    """The part of the fake that owns the device and the training queue. `old` answers as an engine without them."""

    def __init__(self) -> None:
        self.old = False
        self.device_now = device()
        self.backend_list = BACKENDS
        self.preview = PREVIEW
        self.job_list: dict[str, TrainJob] = {}
        self.trained: list[TrainRequest] = []

    def _answer(self, call: str) -> None:
        raise NotImplementedError

    def emit(
        self, subject: str, payload: dict[str, Any], *, kind: str = "updated", session_id: str | None = None
    ) -> Event:
        raise NotImplementedError

    # --- what a test does to it ---

    def set_device(self, **changes: Any) -> None:
        """The device changes, and says so."""
        self.device_now = self.device_now.model_copy(update=changes)
        self.emit(f"device/{self.device_now.id}", self.device_now.model_dump(mode="json"))

    def add_job(self, record: TrainJob) -> None:
        """Queue it behind the others."""
        queued = sum(one.state is RunState.QUEUED for one in self.job_list.values())
        position = queued + 1 if record.state is RunState.QUEUED else None
        self.job_list[record.id] = record.model_copy(update={"position": position})
        row = {"id": record.id, "kind": "train", "state": record.state, "reason": ""}  # as the jobs' table has it
        self.emit(f"job/{record.id}", row, kind="created")
        self.emit(f"training/{record.id}", self.job_list[record.id].model_dump(mode="json"), kind="created")

    def change_job(self, job_id: str, **changes: Any) -> TrainJob:
        """A job changes, and only what changed is said."""
        record = self.job_list[job_id].model_copy(update=changes)
        self.job_list[job_id] = record
        self.emit(f"training/{job_id}", record.model_dump(mode="json", include=set(changes)))
        return record

    def step(self, record: TrainProgress) -> None:
        """A running job says how far it is."""
        known = self.job_list[record.job_id]
        self.job_list[record.job_id] = known.model_copy(update={"progress": record})
        self.emit(f"training/{record.job_id}", record.model_dump(mode="json"))

    # --- DevicePort ---

    def _served(self, call: str) -> None:
        self._answer(call)
        if self.old:
            raise NotFoundError("There is nothing of that id.")

    def _known(self, call: str, job_id: str) -> None:
        self._served(call)
        if job_id not in self.job_list:
            raise NotFoundError(f"There is no job {job_id}.")

    async def device(self) -> DeviceStatus:
        self._served("device")
        return self.device_now

    async def backends(self) -> tuple[BackendInfo, ...]:
        self._served("backends")
        return self.backend_list

    async def use_backend(self, name: BackendName) -> BackendSwitched:
        self._served("use_backend")
        info = next(info for info in self.backend_list if info.name is name)
        if not info.available:
            raise BackendUnavailableError(info.reason)
        self.set_device(backend=name, reason=f"{name} answers.")
        return BackendSwitched(backend=name, switched=True, reason="", seconds=1.5)

    async def retry_device(self) -> DeviceStatus:
        self._served("retry_device")
        self.set_device(state=DeviceState.SERVING, reason="It answers again.")
        return self.device_now

    async def preview_training(self, body: TrainRequest) -> TrainPreview:
        self._served("preview_training")
        del body
        return self.preview

    async def train(self, body: TrainRequest) -> TrainJob:
        self._served("train")
        self.trained.append(body)
        name = f"train-{len(self.job_list) + 1}"
        self.add_job(job(name, request=body, adapter_id=body.adapter_id or f"made-up-{name}"))
        return self.job_list[name]

    async def jobs(self, *, state: str | None = None, limit: int = 100, offset: int = 0) -> tuple[TrainJob, ...]:
        self._served("jobs")
        found = [record for record in self.job_list.values() if state is None or record.state == state]
        return tuple(found[offset : offset + limit])

    async def job(self, job_id: str) -> TrainJob:
        self._known("job", job_id)
        return self.job_list[job_id]

    async def cancel_job(self, job_id: str) -> TrainJob:
        self._known("cancel_job", job_id)
        return self.change_job(job_id, state=RunState.CANCELLED, position=None, reason="cancelled")

    async def pause_job(self, job_id: str) -> TrainJob:
        self._known("pause_job", job_id)
        return self.change_job(job_id, state=RunState.INTERRUPTED, position=None, reason="paused")

    async def resume_job(self, job_id: str) -> TrainJob:
        self._known("resume_job", job_id)
        return self.change_job(job_id, state=RunState.QUEUED, position=1, reason="")

    async def retry_job(self, job_id: str) -> TrainJob:
        self._known("retry_job", job_id)
        return self.change_job(job_id, state=RunState.QUEUED, position=1, reason="")

    async def move_job(self, job_id: str, position: int) -> TrainJob:
        self._known("move_job", job_id)
        other = next(one for one in self.job_list.values() if one.position == position)
        self.job_list[other.id] = other.model_copy(update={"position": self.job_list[job_id].position})
        return self.change_job(job_id, position=position)


class FakeEngine(FakeDevice, FakeRegistry):
    """An engine in memory. `down` makes every call fail; `fail_next` makes the next one raise what it holds."""

    def __init__(
        self, sessions: tuple[SessionRecord, ...] = (), adapters: tuple[AdapterRecord, ...] = (), **health: Any
    ) -> None:
        FakeDevice.__init__(self)
        FakeRegistry.__init__(self)
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
