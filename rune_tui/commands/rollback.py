"""`rune-tui rollback`: put the champion before this one back in its place."""

from __future__ import annotations

import click

from rune_tui.client_registry import RegistryClient
from rune_tui.commands.ask import JSON_OPTION, ask
from rune_tui.commands.output import echo_json
from rune_tui.settings import Settings


@click.command("rollback")
@click.argument("task_type", metavar="TASK_TYPE")
@JSON_OPTION
@click.pass_obj
def command(settings: Settings, task_type: str, as_json: bool) -> None:
    """Put the champion before this one back; without one before, the base model serves. Again takes it back."""
    now = ask(settings, lambda client: RegistryClient(client).rollback(task_type))
    if as_json:
        echo_json(now.model_dump(mode="json"))
    else:
        click.echo(
            f"{now.task_type}: champion {now.champion or 'none, the base model serves'}, "
            f"previous {now.previous or 'none'}"
        )
