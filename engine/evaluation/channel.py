"""The engine's ends of the pipes to sandboxed programs: frames out and in, with deadlines, never blocking the loop."""

from __future__ import annotations

import asyncio
import os
from contextlib import suppress
from types import TracebackType
from typing import Any

from engine.errors import SandboxUnavailableError
from engine.evaluation.inside import wire
from engine.sandbox.run import Running

READ_LIMIT = 1 << 16
"""Bytes that a reader buffers before it stops reading."""


class Pipe:
    """A pipe of which the engine uses one end, or none; closes what is left of it."""

    def __init__(self) -> None:
        self.read_fd, self.write_fd = os.pipe()

    def close_read(self) -> None:
        """Close the reading end; may be called twice."""
        if self.read_fd >= 0:
            os.close(self.read_fd)
            self.read_fd = -1

    def close_write(self) -> None:
        """Close the writing end: the reader sees the end once no program holds it either."""
        if self.write_fd >= 0:
            os.close(self.write_fd)
            self.write_fd = -1

    def __enter__(self) -> Pipe:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close_read()
        self.close_write()


class FrameReader:
    """Reads frames from a pipe. Owns a duplicate of the descriptor."""

    def __init__(self, stream: asyncio.StreamReader, transport: asyncio.ReadTransport, limit: int) -> None:
        self._stream = stream
        self._transport = transport
        self._limit = limit

    @classmethod
    async def open(cls, fd: int, limit: int) -> FrameReader:
        """Read from `fd`; frames above `limit` bytes are garbage."""
        stream = asyncio.StreamReader(limit=READ_LIMIT)
        loop = asyncio.get_running_loop()
        transport, _ = await loop.connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(stream), os.fdopen(os.dup(fd), "rb", buffering=0)
        )
        return cls(stream, transport, limit)

    async def read(self) -> dict[str, Any] | None:
        """The next frame; None at the end of the channel.

        Raises:
            WireError: not a frame.
        """
        try:
            length = int.from_bytes(await self._stream.readexactly(4), "big")
            if length > self._limit:
                raise wire.WireError("a frame larger than allowed")
            return wire.unpack(await self._stream.readexactly(length))
        except asyncio.IncompleteReadError as error:
            if error.partial:
                raise wire.WireError("the channel ended inside a frame") from error
            return None

    def close(self) -> None:
        """Stop reading."""
        self._transport.close()


class FrameWriter:
    """Writes frames to a pipe. Owns a duplicate of the descriptor."""

    def __init__(self, writer: asyncio.StreamWriter) -> None:
        self._writer = writer

    @classmethod
    async def open(cls, fd: int) -> FrameWriter:
        """Write to `fd`."""
        loop = asyncio.get_running_loop()
        transport, protocol = await loop.connect_write_pipe(
            lambda: asyncio.streams.FlowControlMixin(loop), os.fdopen(os.dup(fd), "wb", buffering=0)
        )
        return cls(asyncio.StreamWriter(transport, protocol, None, loop))

    async def write(self, message: dict[str, Any]) -> None:
        """Send a frame; a reader that is gone is noticed by the answer that does not come."""
        self._writer.write(wire.pack(message))
        with suppress(ConnectionError):
            await self._writer.drain()

    def close(self) -> None:
        """Stop writing, without waiting for what is buffered."""
        self._writer.transport.abort()


async def close_after(running: Running, pipe: Pipe) -> None:
    """Once the program is gone, our own copy of its end must not keep the channel open."""
    try:
        await running.wait()
    except SandboxUnavailableError:  # told by whoever asks for the result
        return
    finally:
        pipe.close_write()
