"""`rune-tui config show|path`."""

from __future__ import annotations

import click

from engine.config import defaults_path, load_config
from rune_tui.commands.output import echo_json
from rune_tui.settings import Settings


@click.group("config")
def command() -> None:
    """Show the configuration, or where it is read from."""


@command.command("show")
@click.pass_obj
def show(settings: Settings) -> None:
    """Print the configuration in force, as JSON: defaults, config.toml and -c together."""
    echo_json(load_config(settings.home / "config.toml", settings.overrides).model_dump(mode="json"))


@command.command("path")
@click.pass_obj
def path(settings: Settings) -> None:
    """Print the path of your config.toml; the commented defaults are beside the program."""
    own = settings.home / "config.toml"
    click.echo(str(own))
    click.echo(f"{'exists' if own.exists() else 'not there yet'}; every default: {defaults_path()}", err=True)
