"""`rune-tui promote`: shows what a promotion rests on, then does it; against the evidence only by force."""

from __future__ import annotations

import sys
from typing import cast

import click

from engine.api_evolution import PromoteRequest, PromotionCase, TierName
from engine.api_models import AdapterRecord
from engine.errors import InputError
from rune_tui.client_registry import RegistryClient
from rune_tui.commands.ask import JSON_OPTION, ask
from rune_tui.commands.naming import ADAPTER
from rune_tui.commands.output import echo_json
from rune_tui.promotion_text import case_lines
from rune_tui.settings import Settings
from rune_tui.terminal_text import visible_line

MAX_LINE = 400

QUESTION = "Promote it all the same? It is recorded as forced."


@click.command("promote")
@click.argument("adapter_id", metavar="ADAPTER", type=ADAPTER)
@click.option("--to", "to_tier", type=click.Choice(["task", "domain", "project"]), help="Tier; default: one up.")
@click.option("--evidence", metavar="OPERATION", help="Evidence that it rests on; default: the newest.")
@click.option("--force", is_flag=True, help="Also against the evidence, or without any; recorded as forced.")
@click.option("--dry-run", is_flag=True, help="Only say what it would rest on.")
@JSON_OPTION
@click.pass_obj
def command(
    settings: Settings,
    adapter_id: str,
    to_tier: str | None,
    evidence: str | None,
    force: bool,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Move an adapter up a tier and make it the champion of its task type. Undo with `rune-tui undo`."""
    tier = cast("TierName | None", to_tier)
    case = ask(
        settings, lambda client: RegistryClient(client).promotion_case(adapter_id, to_tier=tier, evidence=evidence)
    )
    if dry_run and as_json:
        echo_json(case.model_dump(mode="json"))
        return
    for text, _ in case_lines(case):
        click.echo(visible_line(text, MAX_LINE), err=not dry_run)
    if dry_run:
        return
    forced = force or (bool(case.objections) and _asked())
    _show(_promote(settings, case, forced=forced), as_json=as_json)


def _promote(settings: Settings, case: PromotionCase, *, forced: bool) -> AdapterRecord:
    try:
        # What was shown is what is asked for: the tier and the evidence that were found above.
        request = PromoteRequest(
            adapter_id=case.adapter_id, to_tier=case.to_tier, evidence=case.operation, force=forced
        )
    except ValueError as error:
        raise InputError(f"adapter {case.adapter_id!r} is not valid.") from error
    return ask(settings, lambda client: RegistryClient(client).promote(request))


def _asked() -> bool:
    """A person is asked; a script must say --force, and is told so by the engine's refusal."""
    return sys.stdin.isatty() and click.confirm(QUESTION, default=False, err=True)


def _show(adapter: AdapterRecord, *, as_json: bool) -> None:
    if as_json:
        echo_json(adapter.model_dump(mode="json"))
    else:
        click.echo(f"{adapter.id} is at {adapter.tier} and the champion of {adapter.task_type}")
