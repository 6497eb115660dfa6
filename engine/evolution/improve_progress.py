"""How far the rounds of `improve` are: every step has its share of the whole, and an ETA of its own in the note.

The whole's ETA is made from its pace (`engine.operations`) and errs where a step is slower than those before it, as
training is after tasks; that of the step under way knows only this step.
"""

from __future__ import annotations

from collections.abc import Callable

from engine.operation_rows import eta_seconds
from engine.operations import Progress

STEPS = 100
"""Of the progress of one round."""
PROBED, TRIED, SOLVED, REHEARSED, TRAINED = 4, 17, 34, 38, 67
"""Where in a round the probe is done, the model, the explorer, the rehearsal where there is one, the training: a third
each for running, training and measuring."""

Seconds = Callable[[], float]
"""Reading of a clock that only runs forward."""


class Rounds:
    """The progress of all rounds, of which each step is a part."""

    def __init__(self, progress: Progress, rounds: int, now: Seconds) -> None:
        self._progress = progress
        self._rounds = rounds
        self._now = now

    def step(self, number: int, start: int, end: int, what: str) -> Step:
        """The progress of one step of the round `number`, from `start` to `end` of its `STEPS`."""
        first = STEPS * (number - 1)
        place = f"round {number} of {self._rounds}, {what}" if self._rounds > 1 else what
        return Step(self._progress, (first + start, first + end, STEPS * self._rounds), place, self._now)

    async def done(self) -> None:
        """Nothing is left."""
        whole = STEPS * self._rounds
        await self._progress(whole, whole, "done")


class Step:
    """One step's progress. Implements `engine.operations.Progress`."""

    def __init__(self, whole: Progress, share: tuple[int, int, int], what: str, now: Seconds) -> None:
        self._whole = whole
        self._start, self._end, self._total = share
        self._what = what
        self._now = now
        self._first: tuple[int, float] | None = None
        """What was done, and when, at the first word of anything done: what an earlier run did, and the wait for a
        turn at the device, say nothing about the pace."""

    async def __call__(self, done: int, total: int, note: str = "") -> None:
        """See `Progress`; `done` of the step's own `total`."""
        if self._first is None and done > 0:
            self._first = done, self._now()
        found, begun = self._first or (done, self._now())
        left = eta_seconds(done - found, total - done, self._now() - begun)
        said = [self._what, *([note] if note else [])]
        timed = "" if not left else f", {in_minutes(left)} left of this step"
        size = self._end - self._start
        await self._whole(self._start + size * done // max(1, total), self._total, ": ".join(said) + timed)


def in_minutes(seconds: float) -> str:
    """`0:41`, `12:05`, `184:05`. Pure."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}:{rest:02}"
