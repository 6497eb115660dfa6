"""`rune-tui status`: short for `rune-tui engine status`."""

from __future__ import annotations

import click

from rune_tui.commands.engine import show_status
from rune_tui.settings import Settings


@click.command("status")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_obj
def command(settings: Settings, as_json: bool) -> None:
    """Say what the engine is doing; exit 3 when none runs."""
    show_status(settings, as_json=as_json)
