"""The child's ear: rulings of the engine on a named pipe. The engine has it open before the child is started."""

from __future__ import annotations

import os
import select
from collections.abc import Callable
from pathlib import Path

from engine.errors import TrainingError
from engine.training.protocol import MAX_REASON, Ruling, parse_ruling

LOOK_AROUND_S = 0.2
"""Between two looks whether somebody asked for a stop: a signal does not end a wait for the pipe."""
READ_BYTES = 4096
MAX_LINE = 8 * MAX_REASON
"""Bytes of a ruling."""


class Ear:
    """Hears one ruling after the other.

    Args:
        on_closed: called when nobody will speak any more: the engine is gone.
        between: called while it waits; what it raises ends the wait.

    Raises:
        TrainingError: the pipe is not there.
    """

    def __init__(self, pipe: Path, on_closed: Callable[[], None], between: Callable[[], None]) -> None:
        try:
            self._descriptor = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError as error:
            raise TrainingError(f"The engine's rulings cannot be heard: {error}.") from error
        self._on_closed = on_closed
        self._between = between
        self._heard = b""

    def ruling(self, step: int) -> Ruling:
        """Wait for the ruling on that step.

        Raises:
            TrainingError: the engine said something else.
        """
        while b"\n" not in self._heard:
            self._between()
            if select.select([self._descriptor], [], [], LOOK_AROUND_S)[0]:
                self._read()
        line, _, self._heard = self._heard.partition(b"\n")
        ruling = parse_ruling(line)
        if ruling.step != step:
            raise TrainingError(f"The engine ruled on step {ruling.step}, and was asked about step {step}.")
        return ruling

    def _read(self) -> None:
        chunk = os.read(self._descriptor, READ_BYTES)
        if not chunk:
            self._on_closed()
        self._heard += chunk
        if len(self._heard) > MAX_LINE:
            raise TrainingError("The engine wrote a ruling without an end.")
