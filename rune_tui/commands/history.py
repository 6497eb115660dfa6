"""`rune-tui history`: every change of the registry, newest first; and how undo and redo print theirs."""

from __future__ import annotations

import click

from engine.api_evolution import Change
from rune_tui.client_registry import RegistryClient
from rune_tui.commands.ask import JSON_OPTION, ask
from rune_tui.commands.naming import ADAPTER
from rune_tui.commands.output import echo_json
from rune_tui.commands.record import echo_records
from rune_tui.promotion_text import change_marks, change_text
from rune_tui.settings import Settings
from rune_tui.terminal_text import visible_line

MAX_LINE = 400

COLUMNS = ("NUMBER", "WHEN", "CHANGE", "")

EXPECTED = click.option(
    "--expected", type=click.IntRange(min=1), metavar="NUMBER", help="Only if it is this change of the history."
)


@click.command("history")
@click.option("--adapter", metavar="ID", type=ADAPTER, help="Only changes of this adapter.")
@click.option("--before", type=click.IntRange(min=1), metavar="NUMBER", help="Only changes older than this one.")
@click.option("--limit", type=click.IntRange(1, 500), default=50, show_default=True)
@JSON_OPTION
@click.pass_obj
def command(settings: Settings, adapter: str | None, before: int | None, limit: int, as_json: bool) -> None:
    """Show what was changed in the registry, by whom ever, newest first; `rune-tui undo` takes back the newest."""
    found = ask(settings, lambda client: RegistryClient(client).history(limit=limit, before=before, adapter_id=adapter))
    rows = [(str(one.sequence), one.timestamp[:19], change_text(one), change_marks(one)) for one in found]
    echo_records(found, COLUMNS, rows, none="nothing was changed yet", as_json=as_json)


def echo_step(change: Change, done: str, *, as_json: bool) -> None:
    """What undo or redo did."""
    if as_json:
        echo_json(change.model_dump(mode="json"))
    else:
        click.echo(visible_line(f"{done} change {change.sequence}: {change_text(change)}", MAX_LINE))
