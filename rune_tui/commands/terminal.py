"""`rune-tui` without a command: the terminal app, on an engine that outlives it."""

from __future__ import annotations

import asyncio
import sys

import click

from engine.config import load_config
from engine.errors import EnvironmentUnfitError, InputError
from rune_tui import host
from rune_tui.cli import Settings


def open_terminal(settings: Settings) -> int:
    """Start an engine in the background when none answers, then show the app until the user quits.

    Raises:
        EnvironmentUnfitError: this is no terminal, or no engine can be started.
    """
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise EnvironmentUnfitError(
            "The terminal app needs a terminal; use `rune-tui --batch FILE` without one, or `rune-tui --help`."
        )
    load_config(settings.home / "config.toml", settings.overrides)
    asyncio.run(_ensure_engine(settings))
    from rune_tui.app import run

    return run(settings.home, host.socket_path(settings.home))


async def _ensure_engine(settings: Settings) -> None:
    running = await host.running_engine(settings.home)
    if running is None:
        click.echo("starting the engine...", err=True)
        await host.start_background(settings.home, settings.overrides)
    elif settings.overrides:
        raise InputError(
            f"-c {settings.overrides[0]}: an engine with its own configuration runs already (pid {running.pid}); "
            "stop it with `rune-tui engine stop`, or leave the option out."
        )
