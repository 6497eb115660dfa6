"""`rune-tui doctor [--json]`."""

from __future__ import annotations

import os

import click

from rune_tui.commands.output import echo_json
from rune_tui.doctor import Check, Status, diagnose
from rune_tui.settings import Settings
from rune_tui.terminal_text import visible_line

_COLOURS = {Status.OK: "green", Status.WARN: "yellow", Status.FAIL: "red"}


@click.command("doctor")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_context
def command(ctx: click.Context, as_json: bool) -> None:
    """Say what this machine can run, and how to mend what it cannot. Exit 0, or 3 when something is missing."""
    settings: Settings = ctx.obj
    diagnosis = diagnose(settings.home, settings.overrides, os.environ)
    if as_json:
        echo_json(diagnosis.to_json())
    else:
        for check in diagnosis.checks:
            _print(check)
    ctx.exit(diagnosis.exit_code)


def _print(check: Check) -> None:
    mark = click.style(f"{check.status.value:<4}", fg=_COLOURS[check.status])
    click.echo(f"{mark}  {check.name:<9} {visible_line(check.detail)}")
    if check.fix:
        click.echo(f"{'':<16}fix: {visible_line(check.fix)}")
