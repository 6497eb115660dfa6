"""`rune-tui undo`."""

from __future__ import annotations

import click

from rune_tui.client_registry import RegistryClient
from rune_tui.commands.ask import JSON_OPTION, ask
from rune_tui.commands.history import EXPECTED, echo_step
from rune_tui.settings import Settings


@click.command("undo")
@EXPECTED
@JSON_OPTION
@click.pass_obj
def command(settings: Settings, expected: int | None, as_json: bool) -> None:
    """Take back the newest change of the registry, whoever made it, also from before a restart."""
    echo_step(ask(settings, lambda client: RegistryClient(client).undo(expected)), "undone", as_json=as_json)
