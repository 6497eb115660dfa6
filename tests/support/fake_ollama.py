"""A small server that speaks Ollama's documented API over HTTP: /api/chat, /api/generate, /api/tags, /api/ps.

It answers from a rule that depends on every option, and refuses a field that the API does not have. Ollama itself is
not to be had from the package registries.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import uvicorn
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, StreamingResponse
from pydantic import BaseModel, ConfigDict, ValidationError

MODEL = "tiny:latest"
HANG = "HANG"
"""A prompt with this word is answered for ever."""
BREAK = "BREAK"
"""A prompt with this word has its answer broken off."""


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Options(_Body):
    num_ctx: int | None = None
    num_predict: int = -1
    temperature: float = 0.8
    top_p: float = 0.9
    top_k: int = 40
    repeat_penalty: float = 1.1
    repeat_last_n: int = 64
    seed: int = 0
    stop: list[str] = []


class ChatMessage(_Body):
    role: str
    content: str


class Chat(_Body):
    model: str
    messages: list[ChatMessage]
    stream: bool = True
    format: dict[str, Any] | str | None = None
    options: Options = Options()
    keep_alive: float | str | None = None
    tools: list[Any] = []


class Generate(_Body):
    model: str
    prompt: str = ""
    stream: bool = True
    keep_alive: float | str | None = None
    options: Options = Options()


class FakeOllama:
    """The server's state, for the test to look at."""

    def __init__(self) -> None:
        self.loaded = False
        self.chats: list[Chat] = []
        self.requests = 0
        self.gone = asyncio.Event()
        """Set when a client left in the middle of an answer."""
        self.url = ""
        self.app = FastAPI()
        self.app.post("/api/chat")(self._chat)
        self.app.post("/api/generate")(self._generate)
        self.app.get("/api/tags")(self._tags)
        self.app.get("/api/ps")(self._ps)

    async def _chat(self, request: Request) -> Any:
        self.requests += 1
        try:
            body = Chat.model_validate(await request.json())
        except ValidationError as error:
            return JSONResponse({"error": str(error)}, 400)
        if body.model not in (MODEL, MODEL.removesuffix(":latest")):
            return JSONResponse({"error": f"model '{body.model}' not found"}, 404)
        self.loaded = True
        self.chats.append(body)
        return StreamingResponse(self._lines(body), media_type="application/x-ndjson")

    async def _lines(self, body: Chat) -> AsyncGenerator[str, None]:
        prompt = body.messages[-1].content
        words = _words(body)
        try:
            for at, word in enumerate(words):
                yield _line(word)
                await asyncio.sleep(0)
                if BREAK in prompt and at == 1:
                    return
            while HANG in prompt:
                yield _line(".")
                await asyncio.sleep(0.01)
        except asyncio.CancelledError:
            self.gone.set()
            raise
        reason = "length" if len(words) == body.options.num_predict else "stop"
        counts = {"prompt_eval_count": len(prompt.split()), "eval_count": len(words)}
        yield _line("", done=True, done_reason=reason, **counts)

    async def _generate(self, body: Generate) -> Any:
        self.requests += 1
        self.loaded = body.keep_alive != 0
        return {"model": MODEL, "response": "", "done": True, "done_reason": "load" if self.loaded else "unload"}

    async def _tags(self) -> Any:
        return {"models": [{"name": MODEL, "model": MODEL}]}

    async def _ps(self) -> Any:
        return {"models": [{"name": MODEL, "model": MODEL}] if self.loaded else []}


def _line(text: str, **fields: Any) -> str:
    body = {"model": MODEL, "message": {"role": "assistant", "content": text}, "done": False}
    return json.dumps(body | fields) + "\n"


def _words(body: Chat) -> list[str]:
    if isinstance(body.format, dict):
        return [json.dumps(dict.fromkeys(body.format["properties"], "x"))]
    options = body.options
    seed = options.seed if options.temperature > 0 else 0
    words = [f"t{options.temperature} ", f"p{options.top_p} ", f"r{options.repeat_penalty} ", f"s{seed} ", "end"]
    text = "".join(words[: options.num_predict] if options.num_predict > 0 else words)
    for stop in options.stop:
        text = text.split(stop)[0]
    return [f"{word} " for word in text.split()]


@asynccontextmanager
async def fake_ollama() -> AsyncGenerator[FakeOllama, None]:
    """The server on a free port of 127.0.0.1."""
    fake = FakeOllama()
    config = uvicorn.Config(fake.app, host="127.0.0.1", port=0, log_level="warning", lifespan="off", access_log=False)
    server = uvicorn.Server(config)
    async with asyncio.TaskGroup() as tasks:
        running = tasks.create_task(server.serve())
        while not server.started:
            await asyncio.sleep(0.01)
        fake.url = f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
        try:
            yield fake
        finally:
            server.should_exit = server.force_exit = True
            await running
