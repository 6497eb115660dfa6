"""`rune-tui train`: queue a training job, after saying what it will take; with --wait, follow it to its end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from pathlib import Path
from typing import cast

import click
from pydantic import ValidationError

from engine.api_models import FINAL_STATES, Event, RunState
from engine.api_training import TrainJob, TrainPreview, TrainProgress, TrainRequest
from engine.errors import ExitCode, InputError
from engine.home import socket_path
from rune_tui.client import EngineClient
from rune_tui.commands.ask import JSON_OPTION, ask
from rune_tui.commands.engine import ensure_engine
from rune_tui.commands.jobs import print_job
from rune_tui.commands.naming import ADAPTER
from rune_tui.commands.output import echo_json
from rune_tui.progress_bar import ProgressBar
from rune_tui.settings import Settings
from rune_tui.terminal_text import visible_line

OFF = "off"
"""Of --warm-start: begin with no adapter's weights."""
MAX_REASON = 500

EPILOG = """\b
Exit codes:
  0    queued; with --wait: the adapter is published; with --preview: said what it would take
  1    with --wait: the job ended without an adapter; the reason is on stderr
  2    bad usage or input: nothing was queued
  3    this machine cannot run it as it is, or no engine can be started; the message says what to do
  130  interrupted: the job goes on in the engine
"""


@click.command("train", epilog=EPILOG)
@click.option(
    "--dataset",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help='JSON Lines of {"prompt", "completion", "system"?, "task"?, "cut"?}; of several files: cat them into one.',
)
@click.option("--from-trajectories", is_flag=True, help="Learn from this home's verified sessions.")
@click.option("--session", "sessions", multiple=True, metavar="ID", help="With --from-trajectories: only this one.")
@click.option("--rehearsal", metavar="OPERATION", help="Keep what the base model said in this `rune-tui rehearse`.")
@click.option("--preset", default="standard", show_default=True, help="Recipe of config.toml to begin with.")
@click.option("--method", type=click.Choice(["qlora", "lora"]), help="Instead of the preset's.")
@click.option("--rank", type=int, help="Instead of the preset's.")
@click.option("--epochs", type=int, help="Instead of the preset's.")
@click.option("--max-steps", type=int, help="Optimizer steps at most.")
@click.option("--learning-rate", type=float, help="Instead of the preset's.")
@click.option("--batch-size", type=int, help="Sequences of one optimizer step.")
@click.option("--max-tokens", type=int, help="Of one example; longer ones are left out.")
@click.option("--adapter-id", metavar="ID", help="Of the adapter to make; default: one is made up.")
@click.option("--task-type", default="code-gen", show_default=True, help="Of the adapter to make.")
@click.option(
    "--warm-start",
    metavar="ID|off",
    type=ADAPTER,
    default=OFF,
    show_default=True,
    help="Start from an adapter's weights.",
)
@click.option("--seed", type=int, default=0, show_default=True)
@click.option("--preview", is_flag=True, help="Only say what it would take.")
@click.option("--wait", is_flag=True, help="Wait for its end, with a progress bar on stderr.")
@JSON_OPTION
@click.pass_context
def command(ctx: click.Context, preview: bool, wait: bool, as_json: bool, **options: object) -> None:
    """Make a LoRA adapter from verified work or from a file of examples. Starts an engine where none runs."""
    settings = cast("Settings", ctx.obj)
    request = read_request(options)
    ensure_engine(settings)
    expected = ask(settings, lambda client: client.preview_training(request))
    if preview and as_json:
        echo_json(expected.model_dump(mode="json"))
        return
    for line in preview_lines(expected):
        click.echo(visible_line(line, MAX_REASON), err=not preview)
    if not preview:
        ctx.exit(_queue(settings, request, wait=wait, as_json=as_json))


def read_request(options: dict[str, object]) -> TrainRequest:
    """The request that the options make.

    Raises:
        InputError: one of them is not valid, or they contradict each other.
    """
    values = dict(options)
    if values["sessions"] and not values["from_trajectories"]:
        raise InputError("--session needs --from-trajectories.")
    if (path := values["dataset"]) is not None:
        values["dataset"] = str(cast("Path", path).expanduser().absolute())
    if values["warm_start"] == OFF:
        values["warm_start"] = None
    try:
        return TrainRequest.model_validate(values)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        if not first["loc"]:
            raise InputError("Give either --dataset FILE or --from-trajectories.") from error
        option = str(first["loc"][0]).removesuffix("s" if first["loc"][0] == "sessions" else "").replace("_", "-")
        raise InputError(f"--{option} {first['input']!r}: {first['msg']}.") from error


def preview_lines(preview: TrainPreview) -> list[str]:
    """What the job would take, for a person."""
    rows = f"{preview.examples} examples ({preview.held_out} held out, {preview.left_out} left out)"
    rows += f" and {preview.kept} kept" if preview.kept else ""
    time = "nothing like it was run here yet" if preview.seconds is None else f"about {preview.seconds:.0f} s"
    asleep = ", ".join(preview.asleep) or "nobody"
    return [
        f"{rows}, {preview.steps} steps, {preview.tokens} tokens an epoch, {preview.method}",
        f"memory: {preview.peak_mib} of {preview.free_mib} MiB{'' if preview.fits else ' - it does not fit'}",
        f"asleep meanwhile: {asleep}; time: {time}",
        *([preview.note] if preview.note else []),
    ]


def _queue(settings: Settings, request: TrainRequest, *, wait: bool, as_json: bool) -> int:
    job, ended = asyncio.run(_run(settings, request, wait=wait))
    print_job(job, as_json=as_json)
    if not wait or job.state is RunState.SUCCEEDED:
        return ExitCode.OK
    assert ended, "a job that was waited for has ended"
    click.echo(visible_line(f"rune-tui: {job.id} is {job.state.value}: {job.reason}", MAX_REASON), err=True)
    return ExitCode.NOT_VERIFIED


async def _run(settings: Settings, request: TrainRequest, *, wait: bool) -> tuple[TrainJob, bool]:
    async with EngineClient(socket_path(settings.home)) as client:
        since = (await client.health()).last_sequence
        job = await client.train(request)
        if not wait:
            return job, False
        click.echo(f"{job.id} makes {job.adapter_id}", err=True)
        try:
            with ProgressBar(job.id) as bar:
                return await follow(client, job, since, bar), True
        except asyncio.CancelledError:
            click.echo(f"{job.id} goes on; `rune-tui jobs show {job.id}` says how far it is.", err=True)
            raise


async def follow(client: EngineClient, job: TrainJob, since: int, bar: ProgressBar) -> TrainJob:
    """Show the job's steps as they come; gives the job when it has ended.

    Args:
        since: a sequence from before the job was queued, so that nothing of it is missed.

    Raises:
        EngineUnreachableError: the engine went away and stayed away.
    """
    events = cast("AsyncGenerator[Event]", client.events(since, chunks=False))
    async with aclosing(events):
        async for event in events:
            # The queue tells of a job's state by itself too: when an engine that died is followed by another.
            if event.subject not in (f"training/{job.id}", f"job/{job.id}"):
                continue
            if "step" in event.payload:
                bar.step(TrainProgress.model_validate(event.payload))
                continue
            job = await client.job(job.id)
            bar.state(job)
            if job.state in FINAL_STATES:
                return job
    raise AssertionError("the stream of events ends only with an error")
