"""What a person reads on stderr while a batch runs: a progress bar on a terminal, plain short lines elsewhere.

The time left is learned from the tasks that ran to their end in this run; before the first there is no estimate.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from types import TracebackType
from typing import TYPE_CHECKING, Protocol, Self, TextIO

from engine.api_models import PASSING, Outcome
from rune_tui.batch_records import TaskResult
from rune_tui.terminal_text import visible_line

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

_REASON_LENGTH = 160


class Narrator(AbstractContextManager["Narrator"], Protocol):
    """Tells a person how the batch goes."""

    def say(self, text: str) -> None:
        """A line of its own."""
        ...

    def step(self, task_id: str, what: str) -> None:
        """What a task is doing now."""
        ...

    def ended(self, result: TaskResult) -> None:
        """A task has ended."""
        ...


class Eta:
    """Seconds left, from the pace of this run.

    Args:
        tasks: tasks of the batch.
        now: monotonic seconds.
    """

    def __init__(self, tasks: int, now: Callable[[], float] = time.monotonic) -> None:
        self._left = tasks
        self._ran = 0
        self._now = now
        self._started = now()

    def ended(self, *, resumed: bool) -> None:
        """A task is done; one of an earlier run says nothing of the pace."""
        self._left -= 1
        self._ran += not resumed

    def seconds(self) -> float | None:
        """None until a task ran to its end."""
        if self._ran == 0:
            return None
        return (self._now() - self._started) / self._ran * self._left


def duration(seconds: float) -> str:
    """`42 s`, `3 min 05 s`, `2 h 10 min`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


class PlainNarrator:
    """One short line when a task ends: for logs."""

    def __init__(self, tasks: int, stream: TextIO) -> None:
        self._tasks = tasks
        self._done = 0
        self._stream = stream
        self._eta = Eta(tasks)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None

    def say(self, text: str) -> None:
        try:
            print(visible_line(text), file=self._stream, flush=True)
        except OSError:
            return  # nobody listens any more; the batch itself goes on

    def step(self, task_id: str, what: str) -> None:
        return None

    def ended(self, result: TaskResult) -> None:
        self._done += 1
        self._eta.ended(resumed=result.resumed)
        left = self._eta.seconds()
        about = f"; about {duration(left)} left" if left and self._done < self._tasks else ""
        self.say(f"[{self._done}/{self._tasks}] {summary(result)}{about}")


def summary(result: TaskResult) -> str:
    """One line on how a task ended."""
    effort = f"{result.attempts} attempt{'' if result.attempts == 1 else 's'}, {duration(result.seconds)}"
    earlier = ", from an earlier run" if result.resumed else ""
    reason = (
        "" if result.outcome in PASSING or not result.reason else f": {visible_line(result.reason, _REASON_LENGTH)}"
    )
    adapter = f"; {visible_line(result.adapter_reason, _REASON_LENGTH)}" if result.adapter_reason else ""
    return f"{result.id}: {result.outcome.value} ({effort}{earlier}){reason}{adapter}"


_STYLES = {
    Outcome.VERIFIED: "green",
    Outcome.VERIFIED_IN_PROCESS: "green",
    Outcome.SELF_CHECKED: "yellow",
    Outcome.FAILED: "red",
    Outcome.ERROR: "bold red",
    Outcome.CANCELLED: "yellow",
}


class BarNarrator:
    """A progress bar with the time left: for people. Imports rich only when it is made."""

    def __init__(self, tasks: int, stream: TextIO) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

        self._console = Console(file=stream, markup=False, highlight=False, emoji=False)
        self._eta = Eta(tasks)
        self._bar: Progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[left]}", markup=False),
            console=self._console,
            transient=True,
            redirect_stdout=False,
            redirect_stderr=False,
        )
        self._task: TaskID = self._bar.add_task("starting", total=tasks, left="")

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def say(self, text: str) -> None:
        self._console.print(visible_line(text))

    def step(self, task_id: str, what: str) -> None:
        self._bar.update(self._task, description=visible_line(f"{task_id}: {what}", 60))

    def ended(self, result: TaskResult) -> None:
        self._eta.ended(resumed=result.resumed)
        left = self._eta.seconds()
        self._console.print(summary(result), style=_STYLES[result.outcome])
        self._bar.update(self._task, advance=1, left="" if left is None else f"about {duration(left)} left")


def narrator(tasks: int) -> Narrator:
    """The bar where stderr is a terminal, plain lines otherwise."""
    stream = sys.stderr
    return BarNarrator(tasks, stream) if stream.isatty() else PlainNarrator(tasks, stream)
