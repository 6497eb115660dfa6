"""Turning tokens into text as they come: half a character or half a stop string is never shown."""

from __future__ import annotations

import codecs
from collections.abc import Sequence


class StopScanner:
    """Cuts a growing text at the first stop string, which may span pieces.

    What could be the beginning of a stop string is held back until it is known not to be one.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = tuple(stop for stop in stops if stop)
        self._held = ""
        self.hit = False

    def push(self, text: str) -> str:
        """The part of the text so far, not yet given out, that is certain to belong to the answer."""
        if self.hit or not self._stops:
            return "" if self.hit else text
        pending = self._held + text
        found = [at for stop in self._stops if (at := pending.find(stop)) >= 0]
        if found:
            self.hit, self._held = True, ""
            return pending[: min(found)]
        keep = max(_overlap(pending, stop) for stop in self._stops)
        self._held = pending[len(pending) - keep :]
        return pending[: len(pending) - keep]

    def flush(self) -> str:
        """What was held back, now that no more text comes."""
        held, self._held = self._held, ""
        return held


def _overlap(text: str, stop: str) -> int:
    """Length of the longest end of `text` that begins `stop`."""
    for length in range(min(len(stop) - 1, len(text)), 0, -1):
        if text.endswith(stop[:length]):
            return length
    return 0


class Utf8Stream:
    """Bytes in, whole characters out; a token may end in the middle of a character."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def push(self, data: bytes) -> str:
        return self._decoder.decode(data)

    def flush(self) -> str:
        """A replacement character, if the bytes ended inside a character."""
        return self._decoder.decode(b"", final=True)
