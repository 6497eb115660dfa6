"""The only door to the engine: HTTP and server-sent events over its Unix socket.

Everything that the terminal app, the command line and a batch know of the engine passes here, as the frozen
models of `engine.api_models`. An error answer comes back as the exception class of `engine.errors` that the
engine named, so a caller handles the same errors wherever the work was done.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx
import httpx_sse
from pydantic import TypeAdapter, ValidationError

from engine import errors
from engine.api_device import BackendInfo, BackendName, BackendSwitch, BackendSwitched, DeviceStatus
from engine.api_models import (
    AdapterImport,
    AdapterRecord,
    EngineStatus,
    Event,
    Problem,
    SessionCreate,
    SessionRecord,
    StreamChunk,
    Trajectory,
)
from engine.api_training import JobMove, TrainJob, TrainPreview, TrainRequest

CALL_TIMEOUT_S = 30.0
"""No call waits for a model: what takes longer than this is stuck."""

SWITCH_TIMEOUT_S = 7_200.0
"""Of a backend switch, which waits for a model server to start: the longest `vllm.start_timeout_s` there can be."""

PREVIEW_TIMEOUT_S = 600.0
"""Of a preview, which reads and tokenises the whole data set."""

IDLE_STREAM_TIMEOUT_S = 60.0
"""The engine sends a keep-alive every 15 s; four missed ones mean that the connection is dead."""

RECONNECT_DELAYS_S = (0.1, 0.5, 1.0, 2.0, 4.0, 8.0)
"""Waits between tries to get an event stream back; after the last the stream gives up."""

PAGE = 200
"""Sessions of one read of all."""

_SESSIONS = TypeAdapter(tuple[SessionRecord, ...])
_ADAPTERS = TypeAdapter(tuple[AdapterRecord, ...])
_BACKENDS = TypeAdapter(tuple[BackendInfo, ...])
_JOBS = TypeAdapter(tuple[TrainJob, ...])


class EngineClient:
    """An open connection to one engine.

    Every call raises `EngineUnreachableError` when nothing answers, and the engine's own error class when it
    answers with one.
    """

    def __init__(self, socket: Path) -> None:
        self._socket = socket
        self._http = httpx.AsyncClient(
            transport=httpx.AsyncHTTPTransport(uds=str(socket)),
            base_url="http://engine",
            timeout=CALL_TIMEOUT_S,
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close the connection; the engine goes on."""
        await self._http.aclose()

    # --- engine ---

    async def health(self) -> EngineStatus:
        """What the engine says of itself."""
        return EngineStatus.model_validate(await self.call("GET", "/health"))

    async def ready(self) -> bool:
        """Whether it accepts work."""
        try:
            await self.call("GET", "/ready")
        except errors.RuneError:
            return False
        return True

    async def shutdown(self) -> None:
        """Ask the engine to stop; running sessions stay resumable."""
        await self.call("POST", "/shutdown")

    # --- sessions ---

    async def create_session(self, body: SessionCreate) -> SessionRecord:
        """Queue a task."""
        return SessionRecord.model_validate(await self.call("POST", "/sessions", body=body.model_dump(mode="json")))

    async def sessions(
        self, *, state: str | None = None, run_id: str | None = None, limit: int = 100, offset: int = 0
    ) -> tuple[SessionRecord, ...]:
        """A page of sessions, newest first, without their code and summary."""
        query = {"state": state, "run_id": run_id, "limit": limit, "offset": offset}
        return _SESSIONS.validate_python(await self.call("GET", "/sessions", query=query))

    async def all_sessions(self, *, run_id: str | None = None) -> tuple[SessionRecord, ...]:
        """Every session, newest first, without their code and summary."""
        found: dict[str, SessionRecord] = {}  # sessions that begin meanwhile shift the pages: one may come twice
        offset = 0
        while page := await self.sessions(run_id=run_id, limit=PAGE, offset=offset):
            found |= {session.id: session for session in page}
            offset += len(page)
        return tuple(found.values())

    async def session(self, session_id: str) -> SessionRecord:
        """One session, whole."""
        return SessionRecord.model_validate(await self.call("GET", f"/sessions/{session_id}"))

    async def cancel_session(self, session_id: str) -> SessionRecord:
        """Stop it; it can be resumed."""
        return SessionRecord.model_validate(await self.call("POST", f"/sessions/{session_id}/cancel"))

    async def resume_session(self, session_id: str) -> SessionRecord:
        """Go on from its last finished step."""
        return SessionRecord.model_validate(await self.call("POST", f"/sessions/{session_id}/resume"))

    async def trajectory(self, session_id: str) -> Trajectory:
        """The session with all its attempts."""
        return Trajectory.model_validate(await self.call("GET", f"/sessions/{session_id}/trajectory"))

    # --- adapters ---

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
        """A page of adapters."""
        query = {
            "task_type": task_type,
            "archived": archived,
            "search": search,
            "sort": sort,
            "limit": limit,
            "offset": offset,
        }
        return _ADAPTERS.validate_python(await self.call("GET", "/adapters", query=query))

    async def adapter(self, adapter_id: str) -> AdapterRecord:
        """One adapter."""
        return AdapterRecord.model_validate(await self.call("GET", f"/adapters/{adapter_id}"))

    async def import_adapter(self, body: AdapterImport) -> AdapterRecord:
        """Check a PEFT directory and copy it into the registry."""
        return AdapterRecord.model_validate(await self.call("POST", "/adapters", body=body.model_dump(mode="json")))

    async def archive_adapter(self, adapter_id: str) -> AdapterRecord:
        """Take it out of use; nothing is deleted."""
        return AdapterRecord.model_validate(await self.call("POST", f"/adapters/{adapter_id}/archive"))

    async def restore_adapter(self, adapter_id: str) -> AdapterRecord:
        """Bring it back into use."""
        return AdapterRecord.model_validate(await self.call("POST", f"/adapters/{adapter_id}/restore"))

    # --- device ---

    async def device(self) -> DeviceStatus:
        """Who owns the device, since when, and what comes next."""
        return DeviceStatus.model_validate(await self.call("GET", "/device"))

    async def backends(self) -> tuple[BackendInfo, ...]:
        """Every backend, and why one is not available."""
        return _BACKENDS.validate_python(await self.call("GET", "/device/backends"))

    async def use_backend(self, name: BackendName) -> BackendSwitched:
        """Serve with that backend from now on; returns when it serves, or when the old one does again."""
        body = BackendSwitch(backend=name).model_dump(mode="json")
        answer = await self.call("POST", "/device/backend", body=body, timeout_s=SWITCH_TIMEOUT_S)
        return BackendSwitched.model_validate(answer)

    async def retry_device(self) -> DeviceStatus:
        """Look at a device in FAULT again, now."""
        return DeviceStatus.model_validate(await self.call("POST", "/device/retry"))

    # --- training ---

    async def preview_training(self, body: TrainRequest) -> TrainPreview:
        """What that job would take; nothing is queued."""
        answer = await self.call(
            "POST",
            "/train/lora",
            query={"preview": True},
            body=body.model_dump(mode="json"),
            timeout_s=PREVIEW_TIMEOUT_S,
        )
        return TrainPreview.model_validate(answer)

    async def train(self, body: TrainRequest) -> TrainJob:
        """Queue a training job."""
        answer = await self.call("POST", "/train/lora", body=body.model_dump(mode="json"), timeout_s=PREVIEW_TIMEOUT_S)
        return TrainJob.model_validate(answer)

    async def jobs(self, *, state: str | None = None, limit: int = 100, offset: int = 0) -> tuple[TrainJob, ...]:
        """A page of training jobs: the queue in its order, then the others, newest first."""
        query = {"state": state, "limit": limit, "offset": offset}
        return _JOBS.validate_python(await self.call("GET", "/jobs", query=query))

    async def job(self, job_id: str) -> TrainJob:
        """One training job."""
        return TrainJob.model_validate(await self.call("GET", f"/jobs/{job_id}"))

    async def cancel_job(self, job_id: str) -> TrainJob:
        """Stop it for good."""
        return TrainJob.model_validate(await self.call("POST", f"/jobs/{job_id}/cancel"))

    async def pause_job(self, job_id: str) -> TrainJob:
        """Stop it at a checkpoint."""
        return TrainJob.model_validate(await self.call("POST", f"/jobs/{job_id}/pause"))

    async def resume_job(self, job_id: str) -> TrainJob:
        """Queue it again; it goes on from its checkpoint."""
        return TrainJob.model_validate(await self.call("POST", f"/jobs/{job_id}/resume"))

    async def retry_job(self, job_id: str) -> TrainJob:
        """Queue a failed or cancelled one again, from the beginning."""
        return TrainJob.model_validate(await self.call("POST", f"/jobs/{job_id}/retry"))

    async def move_job(self, job_id: str, position: int) -> TrainJob:
        """Put a queued one to that 1-based place."""
        body = JobMove(position=position).model_dump(mode="json")
        return TrainJob.model_validate(await self.call("POST", f"/jobs/{job_id}/move", body=body))

    # --- events ---

    async def replay(self, since: int = 0, *, session_id: str | None = None) -> AsyncGenerator[Event, None]:
        """The journal after sequence `since`, to its present end."""
        async with aclosing(self._stream(since, session_id, chunks=False, follow=False)) as items:
            async for item in items:
                if isinstance(item, Event):
                    yield item

    async def events(
        self, since: int = 0, *, session_id: str | None = None, chunks: bool = True, reconnect: bool = True
    ) -> AsyncGenerator[Event | StreamChunk, None]:
        """The journal after `since` and then live, without a gap or a repeat, across lost connections.

        Args:
            reconnect: False ends the stream when the engine closes it and raises at once when the connection is
                lost, for a caller that says so on its screen and tries again itself.

        Raises:
            EngineUnreachableError: the engine stayed away for the whole of `RECONNECT_DELAYS_S`.
        """
        tries = 0
        while True:
            try:
                async with aclosing(self._stream(since, session_id, chunks=chunks, follow=True)) as items:
                    async for item in items:
                        tries = 0
                        if isinstance(item, Event):
                            since = item.sequence
                        yield item
            except errors.EngineUnreachableError:
                if not reconnect or tries >= len(RECONNECT_DELAYS_S):
                    raise
            if not reconnect:
                return
            await asyncio.sleep(RECONNECT_DELAYS_S[min(tries, len(RECONNECT_DELAYS_S) - 1)])
            tries += 1

    async def _stream(
        self, since: int, session_id: str | None, *, chunks: bool, follow: bool
    ) -> AsyncGenerator[Event | StreamChunk, None]:
        query = _query({"since": since, "session": session_id, "chunks": int(chunks), "follow": int(follow)})
        timeout = httpx.Timeout(CALL_TIMEOUT_S, read=IDLE_STREAM_TIMEOUT_S)
        try:
            async with httpx_sse.aconnect_sse(self._http, "GET", "/events", params=query, timeout=timeout) as source:
                if source.response.status_code >= 400:
                    await source.response.aread()
                    raise _problem(source.response)
                async for message in source.aiter_sse():
                    match message.event:
                        case "event":
                            yield Event.model_validate_json(message.data)
                        case "chunk":
                            yield StreamChunk.model_validate_json(message.data)
                        case _:
                            continue  # a newer engine may say more than this client knows
        except httpx.TransportError as error:
            raise self._unreachable() from error

    # --- transport ---

    async def call(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, object] | None = None,
        body: object = None,
        timeout_s: float = CALL_TIMEOUT_S,
    ) -> Any:
        """One request and its answer as JSON values: for the siblings of this client, one for each area of the API."""
        content = None if body is None else json.dumps(body)
        headers = {} if body is None else {"content-type": "application/json"}
        try:
            response = await self._http.request(
                method,
                path,
                params=_query(query or {}),
                content=content,
                headers=headers,
                timeout=httpx.Timeout(timeout_s, connect=CALL_TIMEOUT_S),
            )
        except httpx.TimeoutException as error:
            raise errors.EngineUnreachableError(f"The engine did not answer {path} in {timeout_s:.0f} s.") from error
        except httpx.TransportError as error:
            raise self._unreachable() from error
        if response.status_code >= 400:
            raise _problem(response)
        return response.json() if response.content else None

    def _unreachable(self) -> errors.EngineUnreachableError:
        return errors.EngineUnreachableError(
            f"No engine answers on {self._socket}; start one with `rune-tui engine start`."
        )


def _query(values: Mapping[str, object]) -> dict[str, str]:
    return {key: _text(value) for key, value in values.items() if value is not None}


def _text(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _problem(response: httpx.Response) -> errors.RuneError:
    try:
        problem = Problem.model_validate_json(response.content)
    except ValidationError:
        return errors.RuneError(f"The engine answered {response.status_code} without saying why; see RUNE_HOME/logs.")
    kind = getattr(errors, problem.error, None)
    if isinstance(kind, type) and issubclass(kind, errors.RuneError):
        return kind(problem.message)
    return errors.RuneError(problem.message)
