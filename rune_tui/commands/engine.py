"""`rune-tui engine start|stop|status`."""

from __future__ import annotations

import asyncio

import click

from engine.config import load_config
from engine.errors import EngineUnreachableError, InputError
from rune_tui import host
from rune_tui.commands.ask import ask
from rune_tui.commands.output import echo_json, echo_table
from rune_tui.settings import Settings


@click.group("engine")
def command() -> None:
    """Start, stop and inspect the engine."""


@command.command("start")
@click.pass_obj
def start(settings: Settings) -> None:
    """Start an engine in the background, and wait until it is ready."""
    ensure_engine(settings)
    status = ask(settings, host.sandbox_known)
    click.echo(f"engine ready (pid {status.pid}, backend {status.backend}, sandbox {status.sandbox_level})")


def ensure_engine(settings: Settings) -> None:
    """Start an engine in the background if none runs.

    Raises:
        InputError: the configuration is not valid, or a running engine would not take it up.
        EnvironmentUnfitError: no engine can be started.
    """
    load_config(settings.home / "config.toml", settings.overrides)  # say what is wrong here, not in a log
    running = asyncio.run(host.running_engine(settings.home))
    if running is None:
        click.echo("starting the engine...", err=True)
        asyncio.run(host.start_background(settings.home, settings.overrides))
    elif settings.overrides:
        raise InputError(
            f"-c {settings.overrides[0]}: an engine with its own configuration runs already (pid {running.pid}); "
            "stop it with `rune-tui engine stop`, or leave the option out."
        )


@command.command("stop")
@click.pass_obj
def stop(settings: Settings) -> None:
    """Stop the engine; running sessions can be resumed."""
    stopped = asyncio.run(host.stop(settings.home))
    click.echo("engine stopped" if stopped else "no engine was running")


@command.command("status")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_obj
def status(settings: Settings, as_json: bool) -> None:
    """Say what the engine is doing; exit 3 when none runs."""
    show_status(settings, as_json=as_json)


def show_status(settings: Settings, *, as_json: bool) -> None:
    """Print the running engine's status.

    Raises:
        EngineUnreachableError: none runs.
    """
    found = asyncio.run(host.running_engine(settings.home))
    if found is None:
        raise EngineUnreachableError(f"No engine answers for {settings.home}; start one with `rune-tui engine start`.")
    if as_json:
        echo_json(found.model_dump(mode="json"))
        return
    echo_table([(name.replace("_", " "), str(value)) for name, value in found.model_dump().items()])
