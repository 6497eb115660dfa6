"""What the screens show: a frozen model folded from a snapshot and the events after it. Knows no Textual.

    Offline --snapshot--> Loaded --events in batches--> Loaded' ...
       ^                    |
       +--- link lost ------+   (what was known stays on screen, marked as out of date)

Every function here is pure: the same snapshot and the same items give the same state, so re-attaching shows what was
there before. Events name what changed; a payload that is not a whole record makes its subject `stale`, and whoever
owns the connection reads it again, so that the state converges on the engine's whatever a payload carries.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

from pydantic import ValidationError

from engine.api_device import DeviceStatus
from engine.api_models import (
    FINAL_STATES,
    AdapterRecord,
    EngineStatus,
    Event,
    RunState,
    SessionRecord,
    StreamChunk,
)
from engine.api_training import TrainJob
from rune_tui.device_state import BackendList, DeviceRead, JobList, Workshop, WorkshopFold, reread_workshop, select_job
from rune_tui.draft import Draft
from rune_tui.registry_state import RegistryFold, RegistryView
from rune_tui.tails import DEFAULT_STREAM_LINES, Tail, TailsFold

MAX_SESSIONS = 1_000
"""Sessions kept in memory; the oldest finished ones leave first, and stay in the engine."""

MAX_LOG = 500
"""Events kept for the event log."""


class LinkState(StrEnum):
    """How the terminal stands with the engine."""

    CONNECTING = "connecting"
    LIVE = "live"
    RETRYING = "retrying"


@dataclass(frozen=True)
class Link:
    """The connection, and why it is down when it is."""

    state: LinkState = LinkState.CONNECTING
    reason: str = ""
    retry_in_s: float = 0.0


@dataclass(frozen=True)
class Snapshot:
    """What the engine said when we attached; events after `status.last_sequence` come on top."""

    status: EngineStatus
    sessions: tuple[SessionRecord, ...]
    adapters: tuple[AdapterRecord, ...]
    device: DeviceStatus | None = None
    """None where the engine has no such route."""
    jobs: tuple[TrainJob, ...] | None = None
    """Likewise."""
    aliases: Mapping[str, str] | None = None
    """Likewise."""


@dataclass(frozen=True)
class AdapterList:
    """The adapters, read again."""

    adapters: tuple[AdapterRecord, ...]


@dataclass(frozen=True)
class Gone:
    """The engine no longer knows this session."""

    session_id: str


@dataclass(frozen=True)
class LogEntry:
    """One journalled event, short."""

    sequence: int
    timestamp: str
    kind: str
    subject: str


Item = (
    Snapshot
    | AdapterList
    | DeviceRead
    | BackendList
    | JobList
    | Gone
    | Link
    | EngineStatus
    | SessionRecord
    | Event
    | StreamChunk
)
"""What changes the state."""


@dataclass(frozen=True)
class State:
    """All that the screens know."""

    link: Link = Link()
    engine: EngineStatus | None = None
    """None until the first snapshot: the panes are loading."""
    sessions: Mapping[str, SessionRecord] = field(default_factory=dict[str, SessionRecord])
    heard: Mapping[str, datetime] = field(default_factory=dict[str, datetime])
    """Session -> when it last gave a sign of life, on this terminal's clock."""
    tails: Mapping[str, Tail] = field(default_factory=dict[str, Tail])
    adapters: Mapping[str, AdapterRecord] = field(default_factory=dict[str, AdapterRecord])
    workshop: Workshop = field(default_factory=Workshop)
    """The device, its backends, the training jobs."""
    registry: RegistryView = field(default_factory=RegistryView)
    """Aliases, operations, and the adapter under the cursor."""
    log: tuple[LogEntry, ...] = ()
    sequence: int = 0
    """Of the last event taken in; older ones are ignored."""
    stale: frozenset[str] = frozenset()
    """Sessions to read again."""
    adapters_stale: bool = False
    selected: str = ""
    """Session whose output is shown; empty means none."""
    stream_lines: int = DEFAULT_STREAM_LINES

    @property
    def loaded(self) -> bool:
        """Whether there ever was a snapshot."""
        return self.engine is not None

    @property
    def selected_session(self) -> SessionRecord | None:
        """The session under the cursor."""
        return self.sessions.get(self.selected)

    @property
    def selected_adapter(self) -> AdapterRecord | None:
        """The adapter under the cursor."""
        return self.adapters.get(self.registry.selected)

    def count(self, state: RunState) -> int:
        """Sessions in that state, of those that are kept."""
        return sum(record.state is state for record in self.sessions.values())

    def ordered_sessions(self) -> list[SessionRecord]:
        """Unfinished first, then the newest: what one looks for stands at the top."""
        newest = sorted(self.sessions.values(), key=lambda record: (record.created_at, record.id), reverse=True)
        return sorted(newest, key=lambda record: _RANK.get(record.state, 2))


def only_output_differs(one: State, other: State) -> bool:
    """Whether all that is new in the other state is what models wrote; compares by identity, so it costs nothing."""
    return all(getattr(one, name) is getattr(other, name) for name in _WITHOUT_OUTPUT)


_WITHOUT_OUTPUT = tuple(field.name for field in fields(State) if field.name not in {"tails", "heard"})
_RANK = {RunState.RUNNING: 0, RunState.QUEUED: 1}


def select(state: State, session_id: str) -> State:
    """Another session under the cursor."""
    return replace(state, selected=session_id if session_id in state.sessions else "")


def select_training(state: State, job_id: str) -> State:
    """Another training job under the cursor."""
    return replace(state, workshop=select_job(state.workshop, job_id))


def select_adapter(state: State, adapter_id: str) -> State:
    """Another adapter under the cursor; a tier, or nothing, is no adapter."""
    selected = adapter_id if adapter_id in state.adapters else ""
    return replace(state, registry=replace(state.registry, selected=selected))


@dataclass(frozen=True)
class Stale:
    """What must be read again, because its events did not carry it whole."""

    sessions: frozenset[str] = frozenset()
    adapters: bool = False
    device: bool = False
    jobs: bool = False

    def __bool__(self) -> bool:
        return self != Stale()


def stale(state: State) -> Stale:
    """What must be read again."""
    workshop = state.workshop
    return Stale(state.stale, state.adapters_stale, workshop.device_stale, workshop.jobs_stale)


def reread(state: State) -> State:
    """All that was stale is being read again now."""
    return replace(state, stale=frozenset(), adapters_stale=False, workshop=reread_workshop(state.workshop))


def apply(state: State, item: Item, now: datetime | None = None) -> State:
    """One item on top of the state."""
    return apply_all(state, (item,), now)


def apply_all(state: State, items: Sequence[Item], now: datetime | None = None) -> State:
    """A batch of items on top of the state, in order; tables are copied once for the batch."""
    if not items:
        return state
    fold = _Fold(state, now or datetime.now(UTC))
    for item in items:
        fold.take(item)
    return fold.finish()


class _Fold:
    """The tables of a state, open for one batch."""

    def __init__(self, state: State, now: datetime) -> None:
        self._state = state
        self._now = now
        self._sessions = Draft(state.sessions)
        self._heard = Draft(state.heard)
        self._adapters = Draft(state.adapters)
        self._tails = TailsFold(state.tails)
        self._workshop = WorkshopFold(state.workshop, now)
        self._registry = RegistryFold(state.registry)
        self._log: list[LogEntry] = []
        self._stale = set(state.stale)
        self._adapters_stale = state.adapters_stale
        self._sequence = state.sequence

    def take(self, item: Item) -> None:
        match item:
            case StreamChunk():
                self._hear(item.session_id)
                self._tails.take(item)
            case Event():
                self._event(item)
            case SessionRecord():
                self._put_session(item)
            case Snapshot():
                self._snapshot(item)
            case AdapterList():
                self._adapters.replace({adapter.id: adapter for adapter in item.adapters})
                self._adapters_stale = False
            case DeviceRead():
                self._workshop.read_device(item.status)
            case BackendList():
                self._workshop.read_backends(item.backends)
            case JobList():
                self._workshop.read_jobs(item.jobs)
            case EngineStatus():
                self._state = replace(self._state, engine=item)
            case Link():
                self._state = replace(self._state, link=item)
            case Gone():
                self._sessions.drop(item.session_id)
                self._stale.discard(item.session_id)

    def _hear(self, session_id: str) -> None:
        self._heard.edit()[session_id] = self._now
        if session_id not in self._sessions.read:
            self._stale.add(session_id)

    def _snapshot(self, snapshot: Snapshot) -> None:
        self._state = replace(self._state, engine=snapshot.status)
        self._sessions.replace({record.id: record for record in snapshot.sessions})
        self._adapters.replace({adapter.id: adapter for adapter in snapshot.adapters})
        self._workshop.read_device(snapshot.device)
        self._workshop.read_jobs(snapshot.jobs)
        self._registry.read_aliases(snapshot.aliases)
        self._sequence = snapshot.status.last_sequence  # also backwards: another engine may own the home now
        self._stale.clear()
        self._adapters_stale = False

    def _event(self, event: Event) -> None:
        if event.sequence <= self._sequence:
            return
        self._sequence = event.sequence
        self._log.append(LogEntry(event.sequence, event.timestamp, event.kind, event.subject))
        kind, _, subject_id = event.subject.partition("/")
        match kind:
            case "session":
                self._session_event(subject_id, event)
            case "adapter":
                self._adapter_event(subject_id, event)
            case "job":
                self._workshop.job_event(subject_id, event)
            case "training":
                self._workshop.training_event(subject_id, event)
            case "device":
                self._workshop.device_event(event)
            case "alias":
                self._registry.alias_event(subject_id, event)
            case "operation":
                self._registry.operation_event(subject_id, event)
            case _:
                # attempts and kinds of a newer engine: what they change of a session comes as its own event
                if event.session_id:
                    self._hear(event.session_id)

    def _session_event(self, session_id: str, event: Event) -> None:
        if event.kind == "deleted":
            self._sessions.drop(session_id)
            return
        known = self._sessions.read.get(session_id)
        self._heard.edit()[session_id] = self._now
        record = _session_of(event.payload, known)
        if record is None:
            self._stale.add(session_id)
            return
        self._put_session(record)

    def _put_session(self, record: SessionRecord) -> None:
        self._sessions.edit()[record.id] = record
        self._stale.discard(record.id)

    def _adapter_event(self, adapter_id: str, event: Event) -> None:
        if event.kind == "deleted":
            self._adapters.drop(adapter_id)
            return
        try:
            self._adapters.edit()[adapter_id] = AdapterRecord.model_validate(event.payload)
        except ValidationError:
            self._adapters_stale = True

    def finish(self) -> State:
        selected = self._state.selected
        ids = self._trimmed()
        for session_id in [key for key in self._heard.read if key not in ids]:
            self._heard.drop(session_id)
        return replace(
            self._state,
            sessions=ids,
            heard=self._heard.read,
            tails=self._tails.finish(self._state.stream_lines, selected),
            adapters=self._adapters.read,
            workshop=self._workshop.finish(),
            registry=self._registry.finish(),
            log=(*self._state.log, *self._log)[-MAX_LOG:] if self._log else self._state.log,
            sequence=self._sequence,
            stale=self._state.stale if not self._stale ^ self._state.stale else frozenset(self._stale),
            adapters_stale=self._adapters_stale,
            selected=selected if selected in ids else "",
        )

    def _trimmed(self) -> Mapping[str, SessionRecord]:
        excess = len(self._sessions.read) - MAX_SESSIONS
        if excess > 0:
            sessions = self._sessions.edit()
            finished = [record for record in sessions.values() if record.state in FINAL_STATES]
            finished.sort(key=lambda record: record.created_at)
            for record in finished[:excess]:
                del sessions[record.id]
        return self._sessions.read


def _session_of(payload: Mapping[str, Any], known: SessionRecord | None) -> SessionRecord | None:
    """The record that an event carries, whole or as the fields that changed; None means: read it again."""
    fields = {key: value for key, value in payload.items() if key in SessionRecord.model_fields}
    if not fields:
        return None
    try:
        if known is None:
            return SessionRecord.model_validate(fields)
        return SessionRecord.model_validate({**known.model_dump(), **fields})
    except ValidationError:
        return None
