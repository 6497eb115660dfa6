"""`rune-tui redo`."""

from __future__ import annotations

import click

from rune_tui.client_registry import RegistryClient
from rune_tui.commands.ask import JSON_OPTION, ask
from rune_tui.commands.history import EXPECTED, echo_step
from rune_tui.settings import Settings


@click.command("redo")
@EXPECTED
@JSON_OPTION
@click.pass_obj
def command(settings: Settings, expected: int | None, as_json: bool) -> None:
    """Do the last undone change of the registry again; possible until something else is changed."""
    echo_step(ask(settings, lambda client: RegistryClient(client).redo(expected)), "redone", as_json=as_json)
