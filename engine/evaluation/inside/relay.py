"""Standard output of the code under test: written through, and kept for the process that asked for the call."""

from __future__ import annotations

import io
import os
import sys

MAX_RELAYED = 64 << 10
"""Bytes of output that one answer carries to the tests; all of it is on the real stream anyway."""


class _Tee(io.RawIOBase):
    """Writes to the real descriptor and keeps a bounded copy."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._kept = bytearray()

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._fd

    def write(self, data: object, /) -> int:
        block = bytes(memoryview(data))  # type: ignore[arg-type]  # any buffer, as io.RawIOBase promises
        self._kept += block[: MAX_RELAYED - len(self._kept)]
        view = memoryview(block)
        while view:
            view = view[os.write(self._fd, view) :]
        return len(block)

    def take(self) -> str:
        text = self._kept.decode(errors="replace")
        self._kept.clear()
        return text


class Relay:
    """Replaces `sys.stdout` and `sys.stderr` of a process."""

    def __init__(self) -> None:
        self._tees = (_Tee(1), _Tee(2))
        self._streams = [
            io.TextIOWrapper(io.BufferedWriter(tee, 1), encoding="utf-8", errors="backslashreplace")
            for tee in self._tees
        ]

    def install(self) -> None:
        """Make them the process's streams."""
        sys.stdout, sys.stderr = self._streams

    def take(self) -> dict[str, str]:
        """What was written since the last call: `out` and `err`, absent when empty."""
        texts: dict[str, str] = {}
        for name, stream, tee in zip(("out", "err"), self._streams, self._tees, strict=True):
            if not stream.closed:
                stream.flush()
            if text := tee.take():
                texts[name] = text
        return texts
