"""The streamed answer as it stands on the wire: what ends a line, and what a broken answer says."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager

import pytest

from engine.errors import ProviderError
from engine.inference.factory import CAPABILITIES
from engine.inference.openai_client import Endpoint, OpenAIProvider, import_library
from engine.inference.provider import Delta, Message, Request, Sampling

REQUEST = Request((Message("user", "x"),), Sampling(16, 0.0, 1.0, 1.0, 0))
HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\nconnection: close\r\n\r\n"
SEPARATORS = "one\u2028two\u2029three\u0085four\x0bfive\u00e9\U0001f600"
"""Characters that Python, but not the protocol, ends a line at, and some of several bytes."""


def event(text: str, end: str = "\n", finish: str | None = None) -> bytes:
    """A chunk of an answer, with its text raw as vLLM writes it."""
    choice = {"index": 0, "delta": {"content": text}, "finish_reason": finish}
    return f"data: {json.dumps({'choices': [choice]}, ensure_ascii=False)}{end}{end}".encode()


@asynccontextmanager
async def serving(pieces: Sequence[bytes]) -> AsyncGenerator[OpenAIProvider]:
    """A client of a server that answers everything with these pieces, each a chunk of its own."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        (length,) = [line.split(b":")[1] for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
        await reader.readexactly(int(length))
        writer.write(HEAD + b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n")
        await writer.drain()
        writer.close()

    await asyncio.to_thread(import_library)
    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        provider = OpenAIProvider(Endpoint("vllm", url, "base", "k", CAPABILITIES["vllm"], 60.0, 0))
        yield provider
        await provider.aclose()


async def answered(body: bytes, size: int) -> list[Delta]:
    """What a client makes of the body that comes in pieces of `size` bytes."""
    async with serving([body[at : at + size] for at in range(0, len(body), size)]) as provider:
        return [delta async for delta in provider.stream(REQUEST)]


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("size", [1, 7, 100_000])
async def test_only_a_newline_ends_a_line_and_characters_survive_being_cut(end: str, size: int) -> None:
    body = event(SEPARATORS, end) + event("!", end, "stop") + f"data: [DONE]{end}{end}".encode()
    assert await answered(body, size) == [Delta(SEPARATORS), Delta("!"), Delta("", "stop")]


async def test_an_answer_that_ends_within_a_line_is_the_servers_failure() -> None:
    body = event("one") + event("two", finish="stop")[:-20]
    with pytest.raises(ProviderError, match="ended the answer before its end"):
        await answered(body, 100)
