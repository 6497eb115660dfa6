"""`rune-tui jobs list|show|cancel|pause|resume|retry|move`: the training queue."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

import click

from engine.api_models import RunState
from engine.api_training import TrainJob
from rune_tui.client import EngineClient
from rune_tui.commands.ask import JSON_OPTION, ask
from rune_tui.commands.output import echo_json, echo_table
from rune_tui.settings import Settings


@click.group("jobs")
def command() -> None:
    """List, show, cancel, pause, resume, retry and move training jobs."""


@command.command("list")
@click.option("--state", type=click.Choice([state.value for state in RunState]), help="Only those in this state.")
@click.option("--limit", type=click.IntRange(1, 1000), default=50, show_default=True)
@JSON_OPTION
@click.pass_obj
def list_(settings: Settings, state: str | None, limit: int, as_json: bool) -> None:
    """List jobs: the running one, the queue in its order, then the others, newest first."""
    found = ask(settings, lambda client: client.jobs(state=state, limit=limit))
    if as_json:
        echo_json([job.model_dump(mode="json") for job in found])
    elif found:
        echo_table(_table(found))
    else:
        click.echo("no jobs", err=True)


def _table(jobs: Sequence[TrainJob]) -> list[tuple[str, ...]]:
    rows = [("PLACE", "ID", "STATE", "ADAPTER", "STEP", "LOSS", "ETA", "CREATED", "REASON")]
    for job in jobs:
        place = "-" if job.position is None else str(job.position)
        created = job.created_at[:19]
        rows.append((place, job.id, job.state.value, job.adapter_id, *_progress(job), created, job.reason))
    return rows


def _progress(job: TrainJob) -> tuple[str, str, str]:
    progress = job.progress
    if progress is None:
        return "-", "-", "-"
    eta = f"{progress.eta_seconds:.0f} s" if job.state is RunState.RUNNING else "-"
    return f"{progress.step}/{progress.steps}", f"{progress.loss:.4f}", eta


@command.command("show")
@click.argument("job_id", metavar="ID")
@JSON_OPTION
@click.pass_obj
def show(settings: Settings, job_id: str, as_json: bool) -> None:
    """Show one job with its recipe, its newest step and its metrics."""
    print_job(ask(settings, lambda client: client.job(job_id)), as_json=as_json)


@command.command("move")
@click.argument("job_id", metavar="ID")
@click.argument("position", type=click.IntRange(min=1))
@JSON_OPTION
@click.pass_obj
def move(settings: Settings, job_id: str, position: int, as_json: bool) -> None:
    """Put a queued job at this 1-based place of the queue."""
    print_job(ask(settings, lambda client: client.move_job(job_id, position)), as_json=as_json)


def _change(name: str, what: str, change: Callable[[EngineClient, str], Awaitable[TrainJob]]) -> None:
    @command.command(name, help=what)
    @click.argument("job_id", metavar="ID")
    @JSON_OPTION
    @click.pass_obj
    def changing(settings: Settings, job_id: str, as_json: bool) -> None:
        print_job(ask(settings, lambda client: change(client, job_id)), as_json=as_json)


_change("cancel", "Stop a job: at once when queued, after a checkpoint when running.", EngineClient.cancel_job)
_change("pause", "Take a job out of the queue until it is resumed.", EngineClient.pause_job)
_change("resume", "Queue a stopped job again; it goes on from its last checkpoint.", EngineClient.resume_job)
_change("retry", "Queue a stopped job again; it starts over.", EngineClient.retry_job)


def print_job(job: TrainJob, *, as_json: bool) -> None:
    """One job, as JSON or as a table."""
    if as_json:
        echo_json(job.model_dump(mode="json"))
        return
    plain = job.model_dump(mode="json", exclude={"request", "recipe", "progress", "metrics", "kind"})
    rows = [(name.replace("_", " "), "-" if value in (None, "") else str(value)) for name, value in plain.items()]
    rows.append(("learns from", job.request.dataset or _sessions(job)))
    for title, values in (("recipe", job.recipe), ("metrics", job.metrics)):
        rows += [(f"{title} {name}".replace("_", " "), str(value)) for name, value in values.items()]
    if job.progress is not None:
        rows += [(name.replace("_", " "), str(value)) for name, value in job.progress.model_dump().items()][1:]
    echo_table(rows)


def _sessions(job: TrainJob) -> str:
    return ", ".join(job.request.sessions) or "every verified session"
