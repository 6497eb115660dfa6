"""What the screens show: a frozen model folded from a snapshot and the events after it. Knows no Textual.

    Offline --snapshot--> Loaded --events in batches--> Loaded' ...
       ^                    |
       +--- link lost ------+   (what was known stays on screen, marked as out of date)

Every function here is pure: the same snapshot and the same items give the same state, so re-attaching shows what was
there before. Events name what changed; a payload that is not a whole record makes its subject `stale`, and whoever
owns the connection reads it again, so that the state converges on the engine's whatever a payload carries.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

from pydantic import ValidationError

from engine.api_models import (
    FINAL_STATES,
    AdapterRecord,
    EngineStatus,
    Event,
    RunState,
    SessionRecord,
    StreamChunk,
)

MAX_SESSIONS = 1_000
"""Sessions kept in memory; the oldest finished ones leave first, and stay in the engine."""

MAX_TAILS = 20
"""Sessions whose streamed output is kept; more than anyone looks at in one sitting."""

MAX_STREAM_LINE_CHARS = 4_000
"""A streamed line without an end is cut here, so that a tail is bounded in characters too."""

MAX_LOG = 500
"""Events kept for the event log."""

DEFAULT_STREAM_LINES = 400

SESSION_JOB = "session"
"""Kind of the jobs that are sessions."""


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


@dataclass(frozen=True)
class AdapterList:
    """The adapters, read again."""

    adapters: tuple[AdapterRecord, ...]


@dataclass(frozen=True)
class Gone:
    """The engine no longer knows this session."""

    session_id: str


@dataclass(frozen=True)
class Job:
    """A job that is not a session, as its events describe it: training."""

    id: str
    kind: str
    state: str
    reason: str


@dataclass(frozen=True)
class LogEntry:
    """One journalled event, short."""

    sequence: int
    timestamp: str
    kind: str
    subject: str


Origin = tuple[str, str, int]
"""Phase, subtask, attempt: which answer of the model a piece of output belongs to."""


@dataclass(frozen=True)
class Block:
    """One answer of the model. The last line may still grow: answers of parallel subtasks grow side by side."""

    origin: Origin
    lines: tuple[str, ...] = ("",)


@dataclass(frozen=True)
class Tail:
    """The end of a session's streamed output, one block an answer, in the order in which they began."""

    blocks: tuple[Block, ...] = ()
    dropped: int = 0
    """Lines that fell off the beginning."""


Item = Snapshot | AdapterList | Gone | Link | EngineStatus | SessionRecord | Event | StreamChunk
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
    jobs: Mapping[str, Job] = field(default_factory=dict[str, Job])
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

    def count(self, state: RunState) -> int:
        """Sessions in that state, of those that are kept."""
        return sum(record.state is state for record in self.sessions.values())

    def ordered_sessions(self) -> list[SessionRecord]:
        """Unfinished first, then the newest: what one looks for stands at the top."""
        newest = sorted(self.sessions.values(), key=lambda record: (record.created_at, record.id), reverse=True)
        return sorted(newest, key=lambda record: _RANK.get(record.state, 2))


_RANK = {RunState.RUNNING: 0, RunState.QUEUED: 1}


def select(state: State, session_id: str) -> State:
    """Another session under the cursor."""
    return replace(state, selected=session_id if session_id in state.sessions else "")


def reread(state: State, sessions: Iterable[str], adapters: bool) -> State:
    """Those subjects are being read again now."""
    return replace(state, stale=state.stale - frozenset(sessions), adapters_stale=state.adapters_stale and not adapters)


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
        self._sessions = dict(state.sessions)
        self._heard = dict(state.heard)
        self._tails = dict(state.tails)
        self._adapters = dict(state.adapters)
        self._jobs = dict(state.jobs)
        self._log = list(state.log)
        self._stale = set(state.stale)
        self._adapters_stale = state.adapters_stale
        self._sequence = state.sequence

    def take(self, item: Item) -> None:
        match item:
            case StreamChunk():
                self._heard[item.session_id] = self._now
                self._tails[item.session_id] = _grow(self._tails.pop(item.session_id, Tail()), item)
                if item.session_id not in self._sessions:
                    self._stale.add(item.session_id)
            case Event():
                self._event(item)
            case SessionRecord():
                self._put_session(item)
            case Snapshot():
                self._snapshot(item)
            case AdapterList():
                self._adapters = {adapter.id: adapter for adapter in item.adapters}
                self._adapters_stale = False
            case EngineStatus():
                self._state = replace(self._state, engine=item)
            case Link():
                self._state = replace(self._state, link=item)
            case Gone():
                self._sessions.pop(item.session_id, None)
                self._stale.discard(item.session_id)

    def _snapshot(self, snapshot: Snapshot) -> None:
        self._state = replace(self._state, engine=snapshot.status)
        self._sessions = {record.id: record for record in snapshot.sessions}
        self._adapters = {adapter.id: adapter for adapter in snapshot.adapters}
        self._sequence = snapshot.status.last_sequence  # also backwards: another engine may own the home now
        self._stale.clear()
        self._adapters_stale = False

    def _event(self, event: Event) -> None:
        if event.sequence <= self._sequence:
            return
        self._sequence = event.sequence
        self._log.append(LogEntry(event.sequence, event.timestamp, event.kind, event.subject))
        kind, _, subject_id = event.subject.partition("/")
        if event.session_id:
            self._heard[event.session_id] = self._now
        match kind:
            case "session":
                self._session_event(subject_id, event)
            case "adapter":
                self._adapter_event(subject_id, event)
            case "job":
                self._job_event(subject_id, event)
            case _:
                # attempts and kinds of a newer engine: what they change of a session comes as its own event
                if event.session_id and event.session_id not in self._sessions:
                    self._stale.add(event.session_id)

    def _session_event(self, session_id: str, event: Event) -> None:
        if event.kind == "deleted":
            self._sessions.pop(session_id, None)
            return
        known = self._sessions.get(session_id)
        record = _session_of(event.payload, known)
        if record is None:
            self._stale.add(session_id)
            return
        self._heard[session_id] = self._now
        self._put_session(record)

    def _put_session(self, record: SessionRecord) -> None:
        self._sessions[record.id] = record
        self._stale.discard(record.id)

    def _adapter_event(self, adapter_id: str, event: Event) -> None:
        if event.kind == "deleted":
            self._adapters.pop(adapter_id, None)
            return
        try:
            self._adapters[adapter_id] = AdapterRecord.model_validate(event.payload)
        except ValidationError:
            self._adapters_stale = True

    def _job_event(self, job_id: str, event: Event) -> None:
        known, payload = self._jobs.get(job_id), event.payload
        kind = str(payload.get("kind", known.kind if known else SESSION_JOB))
        if kind == SESSION_JOB:  # shown as sessions
            return
        if event.kind == "deleted":
            self._jobs.pop(job_id, None)
            return
        state = str(payload.get("state", known.state if known else ""))
        self._jobs[job_id] = Job(job_id, kind, state, str(payload.get("reason", known.reason if known else "")))

    def finish(self) -> State:
        selected = self._state.selected
        ids = self._trimmed()
        return replace(
            self._state,
            sessions=self._sessions,
            heard={key: moment for key, moment in self._heard.items() if key in ids},
            tails=_bounded_tails(self._tails, self._state.stream_lines, selected),
            adapters=self._adapters,
            jobs=self._jobs,
            log=tuple(self._log[-MAX_LOG:]),
            sequence=self._sequence,
            stale=frozenset(self._stale),
            adapters_stale=self._adapters_stale,
            selected=selected if selected in ids else "",
        )

    def _trimmed(self) -> Mapping[str, SessionRecord]:
        excess = len(self._sessions) - MAX_SESSIONS
        if excess > 0:
            finished = [record for record in self._sessions.values() if record.state in FINAL_STATES]
            finished.sort(key=lambda record: record.created_at)
            for record in finished[:excess]:
                del self._sessions[record.id]
        return self._sessions


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


def _grow(tail: Tail, chunk: StreamChunk) -> Tail:
    origin: Origin = (str(chunk.phase), chunk.subtask, chunk.attempt)
    blocks = tail.blocks
    place = next((index for index in range(len(blocks) - 1, -1, -1) if blocks[index].origin == origin), len(blocks))
    block = blocks[place] if place < len(blocks) else Block(origin)
    first, *others = chunk.text.split("\n")
    lines = [*block.lines[:-1], block.lines[-1] + first, *others]
    grown = Block(origin, tuple(line[:MAX_STREAM_LINE_CHARS] for line in lines))
    return replace(tail, blocks=(*blocks[:place], grown, *blocks[place + 1 :]))


def _bounded_tails(tails: dict[str, Tail], limit: int, selected: str) -> dict[str, Tail]:
    for session_id in [key for key in tails if key != selected][: max(0, len(tails) - MAX_TAILS)]:
        del tails[session_id]  # `take` puts the one just heard last, so the longest silent leave first
    return {key: _last_lines(tail, limit) for key, tail in tails.items()}


def _last_lines(tail: Tail, limit: int) -> Tail:
    """The tail with so many lines at most; a heading counts as one."""
    excess = sum(len(block.lines) + 1 for block in tail.blocks) - limit
    blocks, dropped = list(tail.blocks), tail.dropped
    while excess > 0 and len(blocks) > 1 and len(blocks[0].lines) <= excess:
        gone = blocks.pop(0)
        excess -= len(gone.lines) + 1
        dropped += len(gone.lines)
    if excess > 0 and blocks:
        cut = min(excess, len(blocks[0].lines) - 1)
        blocks[0] = replace(blocks[0], lines=blocks[0].lines[cut:])
        dropped += cut
    return tail if dropped == tail.dropped else Tail(tuple(blocks), dropped)
