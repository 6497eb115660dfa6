"""Deterministic simulation in plain asyncio: a clock that is a number, a ready queue that a seed shuffles.

When nothing is ready, time jumps to the next timer; when no timer is set either, nobody can ever go on: Deadlock.
A seed replays a run exactly. It leans on private attributes of asyncio's loop: `test_simulated_loop` watches them.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import random
from collections.abc import Awaitable
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

T = TypeVar("T")


class Deadlock(Exception):  # what it is, in the field's word
    """Somebody waits, and nobody can ever wake him."""


class _Numbered:
    """Sets of tasks and futures are then walked in the order of their numbers, not of their addresses."""

    number = 0

    def __hash__(self) -> int:
        return self.number


class NumberedTask(_Numbered, asyncio.Task[Any]):
    """A task of the simulation."""


class NumberedFuture(_Numbered, asyncio.Future[Any]):
    """A future of the simulation."""


class SimulatedLoop(asyncio.SelectorEventLoop):
    """An event loop in virtual time."""

    _ready: Any
    _scheduled: Any

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.dice = random.Random(seed)
        self.now = 0.0
        self._numbers = itertools.count()
        self.set_task_factory(self._new_task)

    def _new_task(self, loop: asyncio.AbstractEventLoop, work: Any, **options: Any) -> NumberedTask:
        task = NumberedTask(work, loop=loop, **options)
        task.number = next(self._numbers)
        return task

    def create_future(self) -> NumberedFuture:
        future = NumberedFuture(loop=self)
        future.number = next(self._numbers)
        return future

    def time(self) -> float:
        return self.now

    def _run_once(self) -> None:
        if self._ready:
            ready = list(self._ready)
            self.dice.shuffle(ready)
            self._ready.clear()
            self._ready.extend(ready)
        else:
            while self._scheduled and self._scheduled[0].cancelled():
                self._drop_first()
            if not self._scheduled:
                raise Deadlock
            self.now = max(self.now, self._scheduled[0].when())
        super()._run_once()  # type: ignore[misc]  # private, and the point of this class

    def _drop_first(self) -> None:
        handle = heapq.heappop(self._scheduled)
        handle._scheduled = False
        self._timer_cancelled_count = max(0, self._timer_cancelled_count - 1)


class SimulatedClock:
    """The product's clock on the simulated loop."""

    def __init__(self, loop: SimulatedLoop) -> None:
        self._loop = loop

    def now(self) -> datetime:
        return datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=self._loop.now)

    def monotonic(self) -> float:
        return self._loop.now

    def uuid(self) -> str:
        return f"{self._loop.dice.getrandbits(128):032x}"

    def hex_id(self, digits: int) -> str:
        return f"{self._loop.dice.getrandbits(4 * digits):0{digits}x}"


def simulate(loop: SimulatedLoop, main: Awaitable[T]) -> T:
    """Run to the end of `main`; whatever else is still there is then dropped.

    Raises:
        Deadlock, and whatever `main` raises.
    """
    asyncio.set_event_loop(loop)
    # Errors of tasks that a simulated crash left behind are nobody's business.
    loop.set_exception_handler(lambda _loop, _context: None)
    try:
        return loop.run_until_complete(main)  # type: ignore[arg-type]  # a coroutine
    finally:
        drop_all(loop)
        asyncio.set_event_loop(None)
        loop.close()


def drop_all(loop: SimulatedLoop) -> None:
    """Cancel every task that is left, as often as it takes."""
    for _ in range(100):
        left = [task for task in asyncio.all_tasks(loop) if not task.done()]
        if not left:
            return
        for task in left:
            task.cancel()
        try:
            loop.run_until_complete(asyncio.wait(left, timeout=1))
        except Deadlock:
            continue
    raise AssertionError(f"these tasks cannot be cancelled: {left}")
