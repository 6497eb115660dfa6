"""The envelope's way: journal -> bus -> clients.

Every state change is one row of the journal, written in the transaction of the change (`Journal.record`), so the
log and the tables cannot disagree. After the commit the same event goes to the bus, which hands it to each
subscriber's bounded queue. A client that is too slow is never waited for and never loses an event: its queue is
emptied and it reads on from the journal, where it stopped.

    subscriber:   catching up ──(journal read to its end)──► live
                       ▲                                      │
                       └──────────(queue overflows)───────────┘

Why there is neither gap nor repeat: a subscriber collects live events *before* it reads the journal to its end, and
passes on a live event only if its sequence is above the last one it delivered. Streamed model output (`StreamChunk`)
is live only; it is the first thing dropped when a queue fills.
"""

from __future__ import annotations

import asyncio
import json
from collections import deque
from collections.abc import AsyncIterator, Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

from engine.api_models import SCHEMA_VERSION, Event, EventKind, StreamChunk
from registry.clock import Clock, timestamp
from registry.db import Database, Reader, Transaction
from registry.journal import Recorder

PAGE = 1000
"""Events of one read of the journal: about 10 ms of a reader thread, and a bound on memory for each client."""

BATCH = 500
"""Live items handed over at once: large enough to amortise a wake-up, small enough to keep a client current."""

IDLE_S = 15.0
"""A quiet stream gives an empty batch this often, so that its reader can send a keep-alive."""

Item = Event | StreamChunk

_INSERT = """
INSERT INTO events (id, kind, subject, payload, source, session_id, timestamp, schema_version)
VALUES (?, ?, ?, ?, ?, ?, ?, ?) RETURNING sequence
"""
_REPLAY = "SELECT * FROM events WHERE sequence > ? ORDER BY sequence LIMIT ?"
_REPLAY_SESSION = "SELECT * FROM events WHERE session_id = ? AND sequence > ? ORDER BY sequence LIMIT ?"
_LAST = "SELECT COALESCE(MAX(sequence), 0) AS last FROM events"


class Subscription:
    """One client's queue of live items. Lives on the event loop; only `Bus` puts, only its client takes."""

    def __init__(self, limit: int, session_id: str | None, *, chunks: bool) -> None:
        self._limit = limit
        self._session_id = session_id
        self._chunks = chunks
        self._items: deque[Item] = deque()
        self._waiting_chunks = 0
        self._wake = asyncio.Event()
        self._behind = True
        self._closed = False

    @property
    def closed(self) -> bool:
        """The bus is closed and everything that was queued has been taken."""
        return self._closed and not self._items

    def offer(self, item: Item) -> None:
        """Queue the item, or note that this client must read the journal."""
        if self._behind or (self._session_id is not None and item.session_id != self._session_id):
            return
        if isinstance(item, StreamChunk):
            self._offer_chunk(item)
            return
        if len(self._items) >= self._limit:
            self._drop_chunks()
        if len(self._items) >= self._limit:
            self._items.clear()
            self._behind = True
        else:
            self._items.append(item)
        self._wake.set()

    def _offer_chunk(self, chunk: StreamChunk) -> None:
        # Half of the queue is kept for events: output on a screen may skip, the state may not.
        if not self._chunks or len(self._items) >= self._limit // 2:
            return
        self._items.append(chunk)
        self._waiting_chunks += 1
        self._wake.set()

    def _drop_chunks(self) -> None:
        if self._waiting_chunks:
            self._items = deque(item for item in self._items if isinstance(item, Event))
            self._waiting_chunks = 0

    def close(self) -> None:
        """End the stream once what is queued has been taken."""
        self._closed = True
        self._wake.set()

    def rejoin(self) -> bool:
        """Start to collect again; True if the journal must be read first."""
        behind, self._behind = self._behind, False
        return behind

    async def take(self, idle_s: float) -> list[Item]:
        """The next items, at most `BATCH`; empty after `idle_s` seconds of quiet, when behind, and when closed."""
        if not self._items and not self._behind and not self._closed:
            self._wake.clear()
            try:
                async with asyncio.timeout(idle_s):
                    await self._wake.wait()
            except TimeoutError:
                return []
        batch = [self._items.popleft() for _ in range(min(BATCH, len(self._items)))]
        if self._waiting_chunks:
            self._waiting_chunks -= sum(isinstance(item, StreamChunk) for item in batch)
        return batch


class Bus:
    """Fan-out of committed events to live subscribers, on the event loop's thread, in commit order."""

    def __init__(self, queue_limit: int) -> None:
        self._queue_limit = queue_limit
        self._subscriptions: set[Subscription] = set()
        self._closed = False

    def publish(self, event: Event) -> None:
        """Hand a committed event to every subscriber; never waits."""
        for subscription in self._subscriptions:
            subscription.offer(event)

    def publish_chunk(self, chunk: StreamChunk) -> None:
        """Hand live model output to those who asked for it; dropped where a queue is half full."""
        for subscription in self._subscriptions:
            subscription.offer(chunk)

    @contextmanager
    def subscribe(self, session_id: str | None = None, *, chunks: bool = False) -> Generator[Subscription]:
        """A queue that collects until the block ends."""
        subscription = Subscription(self._queue_limit, session_id, chunks=chunks)
        if self._closed:
            subscription.close()
        self._subscriptions.add(subscription)
        try:
            yield subscription
        finally:
            self._subscriptions.discard(subscription)

    def close(self) -> None:
        """End every stream; the engine is stopping."""
        self._closed = True
        for subscription in self._subscriptions:
            subscription.close()


class Journal:
    """The append-only log of one engine and the way into its bus. Implements `registry.journal.Recorder`."""

    def __init__(self, db: Database, bus: Bus, clock: Clock, source: str) -> None:
        self._db = db
        self._bus = bus
        self._clock = clock
        self._source = source

    def source(self, name: str) -> Recorder:
        """The same journal, writing under another source."""
        return Journal(self._db, self._bus, self._clock, name)

    def record(
        self,
        tx: Transaction,
        *,
        kind: str,
        subject: str,
        payload: Mapping[str, object],
        session_id: str | None = None,
    ) -> None:
        """Append one event inside the caller's transaction; it is published when that commits.

        Raises:
            ValueError: `kind` is not an `EventKind`, or `payload` is null, not an object, or not JSON.
        """
        text = _payload_text(payload)
        fields: dict[str, Any] = {
            "id": self._clock.uuid(),
            "kind": EventKind(kind).value,
            "subject": subject,
            "payload": text,
            "source": self._source,
            "session_id": session_id,
            "timestamp": timestamp(self._clock.now()),
            "schema_version": SCHEMA_VERSION,
        }
        row = tx.execute(_INSERT, tuple(fields.values())).fetchone()
        event = Event(sequence=row["sequence"], **(fields | {"payload": json.loads(text)}))
        tx.after_commit(partial(self._bus.publish, event))

    async def replay(self, since: int = 0, limit: int = PAGE, session_id: str | None = None) -> list[Event]:
        """Up to `limit` events above sequence `since`, oldest first."""
        return await self._db.read(partial(_read_page, since=since, limit=limit, session_id=session_id))

    async def last_sequence(self) -> int:
        """The newest sequence, 0 for an empty journal."""
        return await self._db.read(lambda reader: int(reader.execute(_LAST).fetchone()["last"]))

    async def stream(
        self, since: int = 0, *, session_id: str | None = None, chunks: bool = False
    ) -> AsyncIterator[Item]:
        """Everything above `since`, then live, without gap or repeat, until the bus closes."""
        async for batch in self.follow(since, session_id=session_id, chunks=chunks):
            for item in batch:
                yield item

    async def follow(
        self, since: int = 0, *, session_id: str | None = None, chunks: bool = False, idle_s: float = IDLE_S
    ) -> AsyncIterator[Sequence[Item]]:
        """As `stream`, in batches; an empty batch after every `idle_s` seconds of quiet."""
        position = since
        with self._bus.subscribe(session_id, chunks=chunks) as live:
            while not live.closed:
                if live.rejoin():
                    async for page in self.pages(position, session_id=session_id):
                        position = page[-1].sequence
                        yield page
                    continue
                taken = await live.take(idle_s)
                batch = [item for item in taken if isinstance(item, StreamChunk) or item.sequence > position]
                position = max((item.sequence for item in batch if isinstance(item, Event)), default=position)
                if batch or not taken:
                    yield batch

    async def pages(self, since: int = 0, *, session_id: str | None = None) -> AsyncIterator[list[Event]]:
        """The journal above `since`, page by page, to its present end; no page is empty."""
        while page := await self.replay(since, PAGE, session_id):
            yield page
            if len(page) < PAGE:
                return
            since = page[-1].sequence


def replay_state(events: Iterable[Event]) -> dict[str, dict[str, Any]]:
    """Rebuild what every subject is now from the log alone.

    A `created` payload is the subject's whole record, an `updated` payload the fields that changed. Kinds of a newer
    schema are passed over.

    Returns:
        subject (`session/<id>`, `job/<id>`, `adapter/<id>` ...) -> its record as JSON values.
    """
    state: dict[str, dict[str, Any]] = {}
    for event in events:
        match event.kind:
            case EventKind.CREATED:
                state[event.subject] = dict(event.payload)
            case EventKind.UPDATED:
                state[event.subject] = {**state.get(event.subject, {}), **event.payload}
            case EventKind.DELETED:
                state.pop(event.subject, None)
            case _:
                continue
    return state


def _read_page(reader: Reader, *, since: int, limit: int, session_id: str | None) -> list[Event]:
    if session_id is None:
        rows = reader.execute(_REPLAY, (since, limit))
    else:
        rows = reader.execute(_REPLAY_SESSION, (session_id, since, limit))
    return [Event(**{**dict(row), "payload": json.loads(row["payload"])}) for row in rows]


def _payload_text(payload: object) -> str:
    if not isinstance(payload, Mapping):
        raise ValueError(f"an event's payload is a JSON object, not {type(payload).__name__}")
    try:
        _refuse_odd_keys(payload)
        return json.dumps(dict(payload), allow_nan=False, separators=(",", ":"))
    except (TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"an event's payload must be JSON: {error}") from error


def _refuse_odd_keys(value: object) -> None:
    # json.dumps turns 1, None and True into text keys without a word; the log would then differ from the state.
    match value:
        case Mapping():
            for key, inner in value.items():
                if not isinstance(key, str):
                    raise ValueError(f"an event's payload has the key {key!r}, which is not text")
                _refuse_odd_keys(inner)
        case list() | tuple():
            for inner in value:
                _refuse_odd_keys(inner)
        case _:
            return
