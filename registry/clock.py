"""Time, randomness and ids come from one injectable place, so that a seed replays a run."""

from __future__ import annotations

import random
import time
import uuid
from datetime import UTC, datetime, timedelta
from typing import Protocol


class Clock(Protocol):
    """What the rest of the program asks for time, ids and randomness."""

    def now(self) -> datetime:
        """Wall clock, UTC, timezone-aware."""
        ...

    def monotonic(self) -> float:
        """Seconds on a clock that never goes back; only differences mean anything."""
        ...

    def uuid(self) -> str:
        """A fresh uuid4 in its 36-character form."""
        ...

    def hex_id(self, digits: int) -> str:
        """A fresh random id of that many hexadecimal digits."""
        ...


class SystemClock:
    """The real clock and the system's randomness."""

    def now(self) -> datetime:
        return datetime.now(UTC)

    def monotonic(self) -> float:
        return time.monotonic()

    def uuid(self) -> str:
        return str(uuid.uuid4())

    def hex_id(self, digits: int) -> str:
        return uuid.uuid4().hex[:digits]


class SeededClock:
    """A clock for tests and replays: each reading moves one millisecond, ids follow from the seed."""

    def __init__(self, seed: int = 0) -> None:
        self._random = random.Random(seed)
        self._ticks = 0

    def now(self) -> datetime:
        self._ticks += 1
        return datetime(2026, 1, 1, tzinfo=UTC) + timedelta(milliseconds=self._ticks)

    def monotonic(self) -> float:
        self._ticks += 1
        return self._ticks / 1000

    def uuid(self) -> str:
        return str(uuid.UUID(int=self._random.getrandbits(128), version=4))

    def hex_id(self, digits: int) -> str:
        return f"{self._random.getrandbits(4 * digits):0{digits}x}"


def timestamp(moment: datetime) -> str:
    """ISO 8601 in UTC with microseconds: sorts as text, which SQL relies on."""
    return moment.astimezone(UTC).isoformat(timespec="microseconds")
