"""The child's standard output: only words of the protocol, and a heartbeat for as long as it gets on.

The heartbeat is no sign of life of a thread: it beats only while the training advances. A trainer that hangs in a
driver falls silent, and the engine ends it after three missed beats.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager

from engine.training.protocol import Heartbeat, Word, encode
from registry.clock import Clock

LOADING_PATIENCE_S = 900.0
"""Until the first step is done: reading 100 GB of weights from a slow disk, quantizing them, compiling kernels."""
PATIENCE = 20
"""How many times the longest pause between two advances may be exceeded before the heart stops."""


def take_stdout() -> int:
    """Move standard output to a descriptor of its own; whatever else writes to it lands in standard error.

    Returns:
        The new descriptor. Children do not inherit it.
    """
    sys.stdout.flush()
    words = os.dup(1)
    os.dup2(2, 1)
    return words


class Voice:
    """Says words, one line each, from any thread.

    Args:
        descriptor: where to; stays open.
        heartbeat_s: what the engine expects; a third of it is the longest silence.
        on_closed: called, once or more, when nobody reads any more.
    """

    def __init__(self, descriptor: int, heartbeat_s: float, clock: Clock, on_closed: Callable[[], None]) -> None:
        self._descriptor = descriptor
        self._heartbeat_s = heartbeat_s
        self._clock = clock
        self._on_closed = on_closed
        self._lock = threading.Lock()
        self._silent = threading.Event()
        self._advanced = clock.monotonic()
        self._longest = 0.0
        self._loading = True

    def say(self, word: Word) -> None:
        """Write one word. A reader that is gone is reported to `on_closed` and is no error."""
        line = encode(word)
        try:
            with self._lock:
                while line:
                    line = line[os.write(self._descriptor, line) :]
        except BrokenPipeError:
            self._on_closed()

    def advance(self) -> None:
        """Something was finished: a stage of loading, a micro-batch, a checkpoint."""
        now = self._clock.monotonic()
        self._longest = max(self._longest, now - self._advanced)
        self._advanced = now

    def waited(self) -> None:
        """Somebody else has answered: the pause was theirs, and says nothing of how long one of ours may be."""
        self._advanced = self._clock.monotonic()

    def loaded(self, step_seconds: float) -> None:
        """A step is done, in that time; after the first, pauses are compared with that and with later ones."""
        if self._loading:
            self._loading, self._longest = False, step_seconds
            self._advanced = self._clock.monotonic()

    @property
    def patience_s(self) -> float:
        """How long the heart beats without an advance."""
        return LOADING_PATIENCE_S if self._loading else max(self._heartbeat_s, PATIENCE * self._longest)

    @property
    def gets_on(self) -> bool:
        """Whether the last advance is recent enough."""
        return self._clock.monotonic() - self._advanced <= self.patience_s

    @contextmanager
    def heartbeat(self) -> Generator[None]:
        """Beat in a thread while the body runs."""
        thread = threading.Thread(target=self._beat, name="heartbeat", daemon=True)
        thread.start()
        try:
            yield
        finally:
            self._silent.set()
            thread.join()

    def _beat(self) -> None:
        while not self._silent.wait(self._heartbeat_s / 3):
            if self.gets_on:
                self.say(Heartbeat())
