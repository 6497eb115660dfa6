"""Bounded capture of one output stream: the beginning and the end are kept, the middle is counted and dropped."""

from __future__ import annotations


class Capture:
    """Feed it a stream of any length; it never holds more than about its limit."""

    def __init__(self, limit: int) -> None:
        self._head_limit = limit // 2
        self._tail_limit = limit - self._head_limit  # the end matters most: that is where the traceback stands
        self._head = bytearray()
        self._tail = bytearray()
        self._dropped = 0

    @property
    def truncated(self) -> bool:
        return self._dropped > 0 or len(self._tail) > self._tail_limit

    def feed(self, data: bytes) -> None:
        room = self._head_limit - len(self._head)
        self._head += data[:room]
        self._tail += data[room:] if room > 0 else data
        if len(self._tail) > 2 * self._tail_limit:  # trimmed rarely, so that feeding stays cheap
            self._trim()

    def text(self) -> str:
        """What was kept, bad bytes replaced; where something is missing, a marker line says how much."""
        self._trim()
        kept = bytes(self._head), bytes(self._tail)
        if not self._dropped:
            return b"".join(kept).decode("utf-8", "replace")
        marker = f"\n[output truncated: {self._dropped} bytes left out]\n"
        return marker.join(part.decode("utf-8", "replace") for part in kept)

    def _trim(self) -> None:
        excess = len(self._tail) - self._tail_limit
        if excess > 0:
            self._dropped += excess
            del self._tail[:excess]
