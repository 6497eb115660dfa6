"""The HTTP routes of the sidecar, over any `Backend`. vLLM's paths, status codes and bodies.

Where it differs from vLLM, on purpose:
- every route needs the key, `/health` too;
- a request to a sleeping server is answered 503 at once (vLLM parks it without a word until the wake);
- loading an adapter again under its own name, with the same bytes, is a success;
- an adapter that is not acceptable is a 400 with the reason (vLLM: 500).
"""

from __future__ import annotations

import hmac
import json
from collections.abc import AsyncGenerator, Awaitable, Callable, MutableMapping
from dataclasses import dataclass
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse

from engine.inference.sidecar import wire
from engine.inference.sidecar.backend import (
    AdapterMissingError,
    AsleepError,
    Backend,
    BackendError,
    BadRequestError,
    Finish,
    Generation,
    Piece,
)
from registry.clock import Clock

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
SLEEP_LEVELS = (0, 1, 2)


class BearerOnly:
    """Lets a request through only with the key, compared in constant time."""

    def __init__(self, app: Callable[[Scope, Receive, Send], Awaitable[None]], key: str) -> None:
        self._app = app
        self._expected = f"Bearer {key}".encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan" or self._allowed(scope):
            await self._app(scope, receive, send)
            return
        await JSONResponse({"error": "Unauthorized"}, status_code=401)(scope, receive, send)

    def _allowed(self, scope: Scope) -> bool:
        given = dict(scope.get("headers", [])).get(b"authorization", b"")
        return hmac.compare_digest(given, self._expected)


class _EventStream(StreamingResponse):
    """Server-sent events that give the slot back however the connection ends, even before the first byte."""

    def __init__(self, events: AsyncGenerator[str, None], cancel: Callable[[], None]) -> None:
        super().__init__(events, media_type="text/event-stream", headers={"Cache-Control": "no-store"})
        self._cancel = cancel

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._cancel()


@dataclass(frozen=True)
class _Shape:
    """What tells a chat answer from a text completion."""

    prefix: str
    whole: str
    chunk: str
    choice: Callable[[str, Piece, bool], dict[str, Any]]
    delta: Callable[[Piece, bool, bool], dict[str, Any]]


_CHAT = _Shape("chatcmpl", "chat.completion", "chat.completion.chunk", wire.chat_choice, wire.chat_delta)
_TEXT = _Shape(
    "cmpl",
    "text_completion",
    "text_completion",
    wire.text_choice,
    lambda piece, logprobs, _first: wire.text_choice(piece.text, piece, logprobs),
)


def create_app(backend: Backend, model: str, key: str, clock: Clock) -> FastAPI:
    """The sidecar's routes.

    Args:
        model: the name of the base model in requests and in `/v1/models`.
        key: the bearer token; must not be empty.
    """
    assert key, "a model server without a key is open to every user of this machine"
    app = FastAPI(title="rune-tui sidecar", docs_url=None, redoc_url=None, openapi_url=None)
    app.add_middleware(BearerOnly, key=key)
    app.add_exception_handler(BackendError, _backend_error)
    app.add_exception_handler(RequestValidationError, _invalid)
    _add_generation(app, backend, model, clock)
    _add_adapters(app, backend, model)
    _add_state(app, backend)
    return app


async def _backend_error(_request: Request, error: Exception) -> Response:
    assert isinstance(error, BackendError)
    # The client's library retries 503; asleep stays asleep until somebody wakes it, so a retry is lost time.
    headers = {"x-should-retry": "false"} if isinstance(error, AsleepError) else None
    return JSONResponse(wire.error(error.status, error.kind, str(error)), error.status, headers)


async def _invalid(_request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    place = ".".join(str(part) for part in first["loc"])
    return JSONResponse(wire.error(400, "BadRequestError", f"{place}: {first['msg']}"), 400)


def _add_generation(app: FastAPI, backend: Backend, model: str, clock: Clock) -> None:
    @app.post("/v1/chat/completions")
    async def chat(body: wire.ChatRequest, request: Request) -> Response:
        generation = await _submit(backend, body, model)
        return await _answer(request, body, generation, _CHAT, body.logprobs, clock)

    @app.post("/v1/completions")
    async def complete(body: wire.CompletionRequest, request: Request) -> Response:
        generation = await _submit(backend, body, model)
        return await _answer(request, body, generation, _TEXT, body.logprobs is not None, clock)


async def _submit(backend: Backend, body: wire.ChatRequest | wire.CompletionRequest, model: str) -> Generation:
    job = body.job(model)
    if job.adapter is not None and job.adapter not in {info.name for info in backend.adapters()}:
        raise AdapterMissingError(f"The model `{job.adapter}` does not exist.")
    return await backend.submit(job)


async def _answer(
    request: Request,
    body: wire.ChatRequest | wire.CompletionRequest,
    generation: Generation,
    shape: _Shape,
    logprobs: bool,
    clock: Clock,
) -> Response:
    envelope = {
        "id": f"{shape.prefix}-{clock.hex_id(24)}",
        "created": int(clock.now().timestamp()),
        "model": body.model,
    }
    if body.stream:
        events = _events(generation, shape, envelope, logprobs, body.include_usage)
        return _EventStream(events, generation.cancel)
    whole = await _collect(request, generation)
    choice = shape.choice(whole.text, whole, logprobs)
    counts = wire.usage(generation.prompt_tokens, whole.tokens)
    return JSONResponse(envelope | {"object": shape.whole, "choices": [choice], "usage": counts})


async def _collect(request: Request, generation: Generation) -> Piece:
    """The whole answer as one piece; stops when the client has gone."""
    parts: list[Piece] = []
    try:
        async for piece in generation.pieces:
            parts.append(piece)
            if await request.is_disconnected():
                break
    finally:
        generation.cancel()
    return Piece(
        text="".join(part.text for part in parts),
        tokens=sum(part.tokens for part in parts),
        logprobs=tuple(item for part in parts for item in part.logprobs),
        finish=parts[-1].finish if parts else Finish.ABORT,
    )


async def _events(
    generation: Generation, shape: _Shape, envelope: dict[str, Any], logprobs: bool, include_usage: bool
) -> AsyncGenerator[str, None]:
    envelope = envelope | {"object": shape.chunk}
    tokens, first = 0, True
    try:
        async for piece in generation.pieces:
            tokens += piece.tokens
            if piece.text or piece.finish or piece.logprobs:
                yield _event(envelope | {"choices": [shape.delta(piece, logprobs, first)]})
                first = False
    except BackendError as error:
        # The status line has gone out already: the error travels in the stream, as vLLM sends it.
        yield _event(wire.error(error.status, error.kind, str(error)))
    else:
        if include_usage:
            yield _event(envelope | {"choices": [], "usage": wire.usage(generation.prompt_tokens, tokens)})
    yield "data: [DONE]\n\n"


def _event(body: dict[str, Any]) -> str:
    return f"data: {json.dumps(body, separators=(',', ':'))}\n\n"


def _add_adapters(app: FastAPI, backend: Backend, model: str) -> None:
    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        base: dict[str, Any] = {"id": model, "object": "model", "owned_by": backend.name, "root": model, "parent": None}
        base["max_model_len"] = backend.context_tokens
        adapters = [
            {"id": info.name, "object": "model", "owned_by": backend.name, "root": info.path, "parent": model}
            for info in backend.adapters()
        ]
        return {"object": "list", "data": [base, *adapters]}

    @app.post("/v1/load_lora_adapter")
    async def load(body: wire.LoadAdapter) -> Response:
        if body.lora_name == model:
            raise BadRequestError(f"The name '{model}' is that of the base model.")
        await backend.load_adapter(body.lora_name, body.lora_path, body.gguf_sha256)
        return PlainTextResponse(f"Success: LoRA adapter '{body.lora_name}' added successfully.")

    @app.post("/v1/unload_lora_adapter")
    async def unload(body: wire.UnloadAdapter) -> Response:
        await backend.unload_adapter(body.lora_name)
        return PlainTextResponse(f"Success: LoRA adapter '{body.lora_name}' removed successfully.")


def _add_state(app: FastAPI, backend: Backend) -> None:
    @app.get("/health")
    async def health() -> Response:
        return Response()

    @app.post("/sleep")
    async def sleep(level: int = 1) -> dict[str, Any]:
        if level not in SLEEP_LEVELS:
            raise BadRequestError(f"level must be one of {SLEEP_LEVELS}")
        await backend.sleep(level)
        return {"status": "sleeping", "level": level}

    @app.post("/wake_up")
    async def wake_up() -> dict[str, Any]:
        await backend.wake()
        return {"status": "awake", "tags": None}

    @app.get("/is_sleeping")
    async def is_sleeping() -> dict[str, bool]:
        return {"is_sleeping": backend.sleeping}

    @app.get("/metrics")
    async def metrics() -> Response:
        return PlainTextResponse(_metrics(backend), media_type="text/plain; version=0.0.4")


def _metrics(backend: Backend) -> str:
    stats = backend.stats()
    rows = [
        ("num_requests_running", "gauge", stats.running),
        ("num_requests_waiting", "gauge", stats.waiting),
        ("prompt_tokens_total", "counter", stats.prompt_tokens),
        ("prompt_tokens_cached_total", "counter", stats.cached_prompt_tokens),
        ("generation_tokens_total", "counter", stats.generated_tokens),
        ("engine_asleep", "gauge", int(backend.sleeping)),
    ]
    return "".join(f"# TYPE vllm:{name} {kind}\nvllm:{name} {value}\n" for name, kind, value in rows)
