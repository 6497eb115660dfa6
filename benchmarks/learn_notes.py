"""What a home's proof keeps for itself (`learn.json`): the seed, how long things took, drifts. One owner: `Notes`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any, Protocol

from engine.api_evolution import TextDrift


class Timed(Protocol):
    """A training job or an operation: when it began and ended."""

    @property
    def started_at(self) -> str | None: ...
    @property
    def finished_at(self) -> str | None: ...


class Notes:
    """Reads and writes the file; every change is on disk when the call returns."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._known: dict[str, Any] = json.loads(file.read_text()) if file.exists() else {}

    def reveal(self, drawn: int) -> int:
        """Fix the seed of the hidden inputs, the first time; what was fixed stays."""
        seed = int(self._known.setdefault("seed", drawn))
        self._keep()
        return seed

    def took(self, what: str, seconds: float) -> None:
        """How long something took when it was really done; looking it up later changes nothing."""
        times = self._known.setdefault("seconds", {})
        if what not in times:
            times[what] = round(seconds, 1)
            self._keep()

    def knows(self, what: str) -> bool:
        """Whether it is known how long that took."""
        return what in self.seconds

    @property
    def seconds(self) -> Mapping[str, float]:
        """By what was done, in the order of doing."""
        return self._known.get("seconds", {})

    def drift(self, digest: str) -> TextDrift | None:
        """What was measured of an adapter."""
        found = self._known.get("drift", {}).get(digest)
        return None if found is None else TextDrift.model_validate(found)

    def keep_drift(self, digest: str, found: TextDrift) -> None:
        """Of an adapter, by its digest."""
        self._known.setdefault("drift", {})[digest] = found.model_dump(mode="json")
        self._keep()

    def _keep(self) -> None:
        new = self._file.with_suffix(".new")
        new.write_text(json.dumps(self._known, indent=1))
        new.replace(self._file)


def duration(ended: Timed) -> float | None:
    """Seconds from beginning to end of the attempt that completed it."""
    if ended.started_at is None or ended.finished_at is None:
        return None
    return (datetime.fromisoformat(ended.finished_at) - datetime.fromisoformat(ended.started_at)).total_seconds()
