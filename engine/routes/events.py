"""/events: the journal and what follows, as server-sent events.

Messages: `event: event` with `id: <sequence>` and the JSON envelope; `event: chunk` with a `StreamChunk` (only where
`chunks=1`). Many messages share one write: 5,000 events a second to several clients would otherwise spend a core on
system calls.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Annotated

from fastapi import APIRouter, Header, Query
from fastapi.responses import StreamingResponse

from engine.api_models import Identifier, StreamChunk
from engine.core import Engine
from engine.events import Item
from engine.routes.dependencies import EngineOfApp
from engine.routes.problems import answers

MAX_SEQUENCE = 2**63 - 1
"""The largest integer that SQL takes."""

MAX_SEQUENCE_DIGITS = 19
"""More is no sequence, and a number of thousands of digits is one that Python refuses to read."""

KEEP_ALIVE = b": keep-alive\n\n"
MEDIA_TYPE = "text/event-stream"

router = APIRouter(tags=["events"])


@router.get(
    "/events",
    response_class=StreamingResponse,
    responses={**answers(422), 200: {"content": {MEDIA_TYPE: {}}, "description": "Envelopes and chunks."}},
)
async def events(
    engine: EngineOfApp,
    since: Annotated[int, Query(ge=0, le=MAX_SEQUENCE, description="only what came after this sequence")] = 0,
    session: Identifier | None = None,
    chunks: Annotated[bool, Query(description="also model output, live only")] = False,
    follow: Annotated[bool, Query(description="0 ends the stream at the present end of the journal")] = True,
    last_event_id: Annotated[str, Header()] = "",
) -> StreamingResponse:
    """Everything after `since` (or the `Last-Event-ID` of a client that comes back), without gap or repeat."""
    if last_event_id.isdecimal() and len(last_event_id) <= MAX_SEQUENCE_DIGITS:
        since = min(max(since, int(last_event_id)), MAX_SEQUENCE)
    lines = _live(engine, since, session, chunks=chunks) if follow else _replay(engine, since, session)
    return StreamingResponse(lines, media_type=MEDIA_TYPE, headers={"cache-control": "no-store"})


async def _live(engine: Engine, since: int, session: str | None, *, chunks: bool) -> AsyncIterator[bytes]:
    async for batch in engine.journal.follow(since, session_id=session, chunks=chunks):
        yield b"".join(map(_message, batch)) or KEEP_ALIVE


async def _replay(engine: Engine, since: int, session: str | None) -> AsyncIterator[bytes]:
    async for page in engine.journal.pages(since, session_id=session):
        yield b"".join(map(_message, page))


def _message(item: Item) -> bytes:
    data = item.model_dump_json()  # one line: JSON escapes every line break
    if isinstance(item, StreamChunk):
        return f"event: chunk\ndata: {data}\n\n".encode()
    return f"event: event\nid: {item.sequence}\ndata: {data}\n\n".encode()
