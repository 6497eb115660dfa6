"""`rune-tui demo`: the shipped tasks on the scripted backend, by the same way as any batch."""

from __future__ import annotations

import click

from rune_tui.commands.batch import run_guarded, shipped_tasks
from rune_tui.settings import Settings


@click.command("demo")
@click.pass_context
def command(ctx: click.Context) -> None:
    """Run the tasks that ship with rune-tui on the scripted backend: no model, a few seconds.

    Its answers come from rules and not from a model, so some tasks fail; what it shows is the way of a task through
    the engine, the pipeline, the sandbox and the judge.
    """
    settings: Settings = ctx.obj
    ctx.exit(run_guarded(settings, source=shipped_tasks(), backend="scripted"))
