"""Keeps a terminal attached to an engine: snapshot, then events, and again after a lost connection.

    connecting --snapshot--> live --stream ends or fails--> retrying --1,2,4,8,16,30,30.. s--> connecting

Knows no Textual: it delivers items of `rune_tui.state` to a callback, which must not block.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import aclosing, suppress
from typing import Protocol

from engine.api_device import BackendInfo, BackendName, BackendSwitched, DeviceStatus
from engine.api_models import (
    AdapterRecord,
    EngineStatus,
    Event,
    SessionCreate,
    SessionRecord,
    StreamChunk,
    Trajectory,
)
from engine.api_training import TrainJob, TrainPreview, TrainRequest
from engine.errors import EngineUnreachableError, NotFoundError, RuneError
from rune_tui.device_state import MAX_JOBS, BackendList, DeviceRead, JobList
from rune_tui.state import AdapterList, Gone, Item, Link, LinkState, Snapshot, Stale

RETRY_DELAYS_S = (1.0, 2.0, 4.0, 8.0, 16.0, 30.0)
"""Waits between tries to reach the engine; the last repeats for ever."""

HEALTH_PERIOD_S = 5.0
"""How often the engine is asked for what no event says: the state of its model server, the device's free memory."""

AT_ONCE_S = 0.005
"""Pieces that come within this time of a rest were read together."""

FAST = 5
"""More pieces than this in one period: faster than anyone reads, so they may gather for two. Drawing costs by the
draw, not by the piece."""

BUSY = 50
"""More pieces than this between two rests: the stream is not one that trickles."""

PAGE = 200
"""Sessions or adapters read in one answer."""

MAX_ADAPTERS = 2_000
"""Adapters that a terminal shows; `rune-tui adapters` searches among more."""

_log = logging.getLogger(__name__)


class DevicePort(Protocol):
    """What the terminal asks of an engine's device and of its training queue."""

    async def device(self) -> DeviceStatus:
        """See EngineClient."""
        ...

    async def backends(self) -> tuple[BackendInfo, ...]:
        """See EngineClient."""
        ...

    async def use_backend(self, name: BackendName) -> BackendSwitched:
        """See EngineClient."""
        ...

    async def retry_device(self) -> DeviceStatus:
        """See EngineClient."""
        ...

    async def preview_training(self, body: TrainRequest) -> TrainPreview:
        """See EngineClient."""
        ...

    async def train(self, body: TrainRequest) -> TrainJob:
        """See EngineClient."""
        ...

    async def jobs(self, *, state: str | None = None, limit: int = 100, offset: int = 0) -> tuple[TrainJob, ...]:
        """See EngineClient."""
        ...

    async def job(self, job_id: str) -> TrainJob:
        """See EngineClient."""
        ...

    async def cancel_job(self, job_id: str) -> TrainJob:
        """See EngineClient."""
        ...

    async def pause_job(self, job_id: str) -> TrainJob:
        """See EngineClient."""
        ...

    async def resume_job(self, job_id: str) -> TrainJob:
        """See EngineClient."""
        ...

    async def retry_job(self, job_id: str) -> TrainJob:
        """See EngineClient."""
        ...

    async def move_job(self, job_id: str, position: int) -> TrainJob:
        """See EngineClient."""
        ...


class EnginePort(DevicePort, Protocol):
    """What the terminal asks of an engine: `rune_tui.client.EngineClient`, or a fake of it."""

    async def health(self) -> EngineStatus:
        """See EngineClient."""
        ...

    async def create_session(self, body: SessionCreate) -> SessionRecord:
        """See EngineClient."""
        ...

    async def sessions(
        self, *, state: str | None = None, run_id: str | None = None, limit: int = 100, offset: int = 0
    ) -> tuple[SessionRecord, ...]:
        """See EngineClient."""
        ...

    async def session(self, session_id: str) -> SessionRecord:
        """See EngineClient."""
        ...

    async def cancel_session(self, session_id: str) -> SessionRecord:
        """See EngineClient."""
        ...

    async def resume_session(self, session_id: str) -> SessionRecord:
        """See EngineClient."""
        ...

    async def trajectory(self, session_id: str) -> Trajectory:
        """See EngineClient."""
        ...

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
        """See EngineClient."""
        ...

    def events(
        self, since: int = 0, *, session_id: str | None = None, chunks: bool = True, reconnect: bool = True
    ) -> AsyncGenerator[Event | StreamChunk, None]:
        """See EngineClient."""
        ...


def plain_reason(error: Exception) -> str:
    """One sentence about what went wrong, for a person."""
    if isinstance(error, RuneError):
        return str(error)
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename or 'File'}: {error.strerror}."
    return f"Something unexpected happened ({type(error).__name__}: {error})."


AliasSource = Callable[[], Awaitable[Mapping[str, str]]]
"""Reads every alias: `rune_tui.client_registry.RegistryClient.aliases`, or a fake of it."""


async def read_snapshot(client: EnginePort, aliases: AliasSource | None = None) -> Snapshot:
    """The engine's present state.

    The status comes first: its sequence is a floor, so an event that happens while the lists are read is seen twice
    rather than never.
    """
    status = await client.health()
    newest = await client.sessions(limit=PAGE)
    found = {record.id: record for record in newest}
    if len(newest) == PAGE:  # a long queue hides the running ones, which are older
        for state in ("running", "queued"):
            found.update({record.id: record for record in await client.sessions(state=state, limit=PAGE)})
    adapters = await read_adapters(client)
    device, jobs = await read_device(client), await read_jobs(client)
    return Snapshot(status, tuple(found.values()), adapters, device, jobs, await _read_aliases(aliases))


async def _read_aliases(aliases: AliasSource | None) -> Mapping[str, str] | None:
    with suppress(NotFoundError):
        return None if aliases is None else await aliases()
    return None


async def read_device(client: DevicePort) -> DeviceStatus | None:
    """The device; None where the engine has no such route."""
    with suppress(NotFoundError):
        return await client.device()
    return None


async def read_jobs(client: DevicePort) -> tuple[TrainJob, ...] | None:
    """The training jobs, as many as a terminal shows; None where the engine has no such route."""
    found: dict[str, TrainJob] = {}  # jobs that end meanwhile shift the pages: one may come twice
    offset = 0
    try:
        while offset < MAX_JOBS and (page := await client.jobs(limit=PAGE, offset=offset)):
            found.update({job.id: job for job in page})
            offset += len(page)
            if len(page) < PAGE:
                break
    except NotFoundError:
        return None
    return tuple(found.values())


async def read_adapters(client: EnginePort) -> tuple[AdapterRecord, ...]:
    """All adapters, archived ones too: they are part of the lineage."""
    return (*await _adapters(client, archived=False), *await _adapters(client, archived=True))[:MAX_ADAPTERS]


async def _adapters(client: EnginePort, *, archived: bool) -> list[AdapterRecord]:
    found: list[AdapterRecord] = []
    while len(found) < MAX_ADAPTERS:
        page = await client.adapters(archived=archived, sort="created", limit=PAGE, offset=len(found))
        found.extend(page)
        if len(page) < PAGE:
            break
    return found


class Gathering:
    """Lets a stream gather while its reader rests: ten pieces that are read at once cost little more than one.

    After a piece that had to be waited for, the reader rests for a period, or for two if many came in the last one,
    and what arrives meanwhile waits in the socket. A stream that brings more than `BUSY` pieces in between is left
    alone: its batches are large already.
    """

    def __init__(self, period_s: float) -> None:
        self._period_s = period_s
        self._woke = -math.inf
        self._taken = 0

    def rest_s(self, now: float) -> float:
        """How long to rest after the piece that was just taken."""
        self._taken += 1
        if not self._period_s or now - self._woke < AT_ONCE_S:
            return 0.0
        rest = 0.0 if self._taken > BUSY else self._period_s * (2 if self._taken > FAST else 1)
        self._woke, self._taken = now + rest, 0
        return rest


class Attachment:
    """One terminal's connection; owns no state but whether it is connected.

    Args:
        deliver: takes each item; must not block.
        gather_s: how long live items are left to gather; 0 reads each at once.
        aliases: reads the registry's aliases; None where nobody shows them.
    """

    def __init__(
        self,
        client: EnginePort,
        deliver: Callable[[Item], None],
        gather_s: float = 0.0,
        aliases: AliasSource | None = None,
    ) -> None:
        self._client = client
        self._aliases = aliases
        self._deliver = deliver
        self._gather_s = gather_s
        self._wake = asyncio.Event()

    def retry_now(self) -> None:
        """Do not wait for the next try; when connected, read everything again."""
        self._wake.set()

    async def run(self) -> None:
        """Stay attached until cancelled."""
        failures = 0
        while True:
            self._wake.clear()
            try:
                await self._attend()
                failures = 0
                continue
            except _LinkLost as lost:
                failures = 0 if lost.was_live else failures
                reason = str(lost)
            delay = RETRY_DELAYS_S[min(failures, len(RETRY_DELAYS_S) - 1)]
            failures += 1
            self._deliver(Link(LinkState.RETRYING, reason, delay))
            await self._pause(delay)

    async def _pause(self, delay: float) -> None:
        try:
            await asyncio.wait_for(self._wake.wait(), delay)
        except TimeoutError:
            return

    async def _attend(self) -> None:
        """From a snapshot to the end of its stream; returns when `retry_now` asked for a fresh snapshot.

        Raises:
            _LinkLost: the engine does not answer, or went away.
        """
        live = False
        try:
            snapshot = await read_snapshot(self._client, self._aliases)
            self._deliver(snapshot)
            self._deliver(Link(LinkState.LIVE))
            live = True
            await self._follow(snapshot.status.last_sequence)
        except Exception as error:
            # the boundary of the connection: whatever an engine does, the terminal says so and tries again
            cause = _first_cause(error)
            if not isinstance(cause, RuneError):
                _log.exception("lost the engine")
            raise _LinkLost(plain_reason(cause), was_live=live) from error

    async def _follow(self, since: int) -> None:
        async with asyncio.TaskGroup() as group:
            tasks = [
                group.create_task(self._stream(since)),
                group.create_task(self._watch_health()),
                group.create_task(self._read_backends()),
            ]
            await self._wake.wait()
            for task in tasks:
                task.cancel()

    async def _stream(self, since: int) -> None:
        clock = asyncio.get_running_loop().time
        gathering = Gathering(self._gather_s)
        async with aclosing(self._client.events(since, reconnect=False)) as items:
            async for item in items:
                self._deliver(item)
                if rest_s := gathering.rest_s(clock()):
                    await asyncio.sleep(rest_s)
        raise RuneError("The engine closed the connection.")

    async def _watch_health(self) -> None:
        while True:
            await asyncio.sleep(HEALTH_PERIOD_S)
            self._deliver(await self._client.health())
            self._deliver(DeviceRead(await read_device(self._client)))

    async def _read_backends(self) -> None:
        """Beside the stream: an engine may look for a while at what is installed."""
        try:
            self._deliver(BackendList(await self._client.backends()))
        except EngineUnreachableError:
            raise
        except RuneError as error:  # the dialog asks again and says why
            _log.info("the engine does not list its backends: %s", error)

    async def read_again(self, stale: Stale) -> None:
        """Read subjects whose events did not carry them whole."""
        for session_id in sorted(stale.sessions):
            try:
                self._deliver(await self._client.session(session_id))
            except NotFoundError:
                self._deliver(Gone(session_id))
        if stale.adapters:
            self._deliver(AdapterList(await read_adapters(self._client)))
        if stale.device:
            self._deliver(DeviceRead(await read_device(self._client)))
        if stale.jobs:
            self._deliver(JobList(await read_jobs(self._client)))


class _LinkLost(Exception):
    """The engine is not there; `was_live` says whether it had been."""

    def __init__(self, reason: str, *, was_live: bool) -> None:
        super().__init__(reason)
        self.was_live = was_live


def _first_cause(error: Exception) -> Exception:
    while isinstance(error, ExceptionGroup):
        error = error.exceptions[0]
    return error
