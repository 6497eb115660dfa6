"""How far a training job is, on stderr: a bar on a terminal, now and then a line elsewhere."""

from __future__ import annotations

import time
from types import TracebackType
from typing import Self

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn

from engine.api_models import RunState
from engine.api_training import TrainJob, TrainProgress

LINE_EVERY_S = 10.0
"""Where nobody watches: often enough to show in a log that it gets on, seldom enough to keep the log short."""


class ProgressBar:
    """Use it as a context; it leaves the last state of the bar on the screen."""

    def __init__(self, job_id: str) -> None:
        console = Console(stderr=True)
        self._plain = not console.is_terminal
        self._said_at = -LINE_EVERY_S
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[facts]}"),
        )
        self._progress = Progress(*columns, console=console, disable=self._plain)
        self._task: TaskID = self._progress.add_task(job_id, total=None, facts="queued")

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def step(self, progress: TrainProgress) -> None:
        """One more step was done."""
        held_out = "" if progress.held_out_loss is None else f", held out {progress.held_out_loss:.4f}"
        facts = f"loss {progress.loss:.4f}{held_out}, {progress.tokens_per_second:.0f} tokens/s, "
        facts += f"{duration(progress.eta_seconds)} left"
        self._progress.update(self._task, total=progress.steps, completed=progress.step, facts=facts)
        if self._plain and (progress.step == progress.steps or time.monotonic() - self._said_at >= LINE_EVERY_S):
            self._said_at = time.monotonic()
            click.echo(f"step {progress.step}/{progress.steps}: {facts}", err=True)

    def state(self, job: TrainJob) -> None:
        """The job is elsewhere in its life."""
        facts = f"place {job.position} in the queue" if job.state is RunState.QUEUED else job.state.value
        self._progress.update(self._task, facts=facts)


def duration(seconds: float) -> str:
    """`5 s`, `3:20`, `1:02:03`."""
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
