"""How far something is, on stderr: a bar on a terminal, now and then a line elsewhere."""

from __future__ import annotations

import time
from types import TracebackType
from typing import Self

import click
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn

from engine.api_models import RunState
from engine.api_training import TrainJob, TrainProgress

LINE_EVERY_S = 10.0
"""Where nobody watches: often enough to show in a log that it gets on, seldom enough to keep the log short."""


class Bar:
    """Use it as a context; it leaves the last state of the bar on the screen."""

    def __init__(self, name: str) -> None:
        console = Console(stderr=True)
        self._plain = not console.is_terminal
        self._said_at = -LINE_EVERY_S
        self._said = ""
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[facts]}"),
        )
        self._progress = Progress(*columns, console=console, disable=self._plain)
        self._task: TaskID = self._progress.add_task(name, total=None, facts="queued")

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def show(self, done: int, total: int, facts: str, line: str) -> None:
        """`facts` beside the bar; `line` where there is none, if it says something new and the last one is old."""
        self._progress.update(self._task, total=total, completed=done, facts=escape(facts))
        due = done == total or time.monotonic() - self._said_at >= LINE_EVERY_S
        if self._plain and due and line != self._said:
            self._said_at, self._said = time.monotonic(), line
            click.echo(line, err=True)

    def word(self, facts: str) -> None:
        """Beside the bar alone."""
        self._progress.update(self._task, facts=facts)


class ProgressBar(Bar):
    """Of a training job."""

    def step(self, progress: TrainProgress) -> None:
        """One more step was done."""
        held_out = "" if progress.held_out_loss is None else f", held out {progress.held_out_loss:.4f}"
        facts = f"loss {progress.loss:.4f}{held_out}, {progress.tokens_per_second:.0f} tokens/s, "
        facts += f"{duration(progress.eta_seconds)} left"
        self.show(progress.step, progress.steps, facts, f"step {progress.step}/{progress.steps}: {facts}")

    def state(self, job: TrainJob) -> None:
        """The job is elsewhere in its life."""
        self.word(f"place {job.position} in the queue" if job.state is RunState.QUEUED else job.state.value)


def duration(seconds: float) -> str:
    """`5 s`, `3:20`, `1:02:03`."""
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
