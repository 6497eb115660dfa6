"""`rune-tui prune`: archive an adapter unless something still rests on it."""

from __future__ import annotations

import click

from engine.api_evolution import PruneRequest
from engine.errors import InputError
from rune_tui.client_registry import RegistryClient
from rune_tui.commands.ask import JSON_OPTION, ask
from rune_tui.commands.naming import ADAPTER
from rune_tui.commands.record import echo_record
from rune_tui.settings import Settings


@click.command("prune")
@click.argument("adapter_id", metavar="ADAPTER", type=ADAPTER)
@click.option("--force", is_flag=True, help="Also a champion, the last of its type, or a parent of an adapter in use.")
@JSON_OPTION
@click.pass_obj
def command(settings: Settings, adapter_id: str, force: bool, as_json: bool) -> None:
    """Archive an adapter, unless something still rests on it. Nothing is deleted; `rune-tui undo` takes it back."""
    try:
        body = PruneRequest(adapter_id=adapter_id, force=force)
    except ValueError as error:
        raise InputError(f"id {adapter_id!r} is not valid: letters, digits, '.', '_', '-', at most 100.") from error
    echo_record(ask(settings, lambda client: RegistryClient(client).prune(body)), as_json=as_json)
