"""`rune-tui evidence`: measure what promoting an adapter would rest on, without promoting it."""

from __future__ import annotations

from typing import cast

import click
from pydantic import JsonValue, ValidationError

from engine.api_evolution import AnchorResult, Contamination, Evidence, EvidenceRequest, PartContamination
from engine.api_learning import RateRecord
from engine.errors import InputError
from rune_tui.commands.ask import JSON_OPTION
from rune_tui.commands.follow import EXIT_CODES, run_operation, wait_option
from rune_tui.commands.naming import ADAPTER
from rune_tui.settings import Settings
from rune_tui.terminal_text import visible_line

MAX_LINE = 400
"""Characters of one reason."""


@click.command("evidence", epilog=EXIT_CODES)
@click.argument("adapter", metavar="ADAPTER", type=ADAPTER)
@click.option("--suite", required=True, metavar="NAME", help="Whose gate split decides.")
@click.option("--to", "to_tier", type=click.Choice(["task", "domain", "project"]), help="Default: one tier up.")
@click.option("--anchor", "anchors", multiple=True, metavar="NAME", help="Suite that must not fall; may be repeated.")
@click.option("--candidates", type=int, default=1, show_default=True, help="How many share the error budget.")
@click.option("--limit", type=int, help="Only the first so many tasks of the gate.")
@click.option("--seed", type=int, default=0, show_default=True, help="Of the hidden inputs; another is another look.")
@click.option("--noise-floor", is_flag=True, help="Measure the incumbent under three more seeds, against itself.")
@wait_option()
@JSON_OPTION
@click.pass_context
def command(ctx: click.Context, wait: bool, as_json: bool, **options: object) -> None:
    """Measure ADAPTER against the champion on the gate split, with anchors and a contamination report."""
    settings = cast("Settings", ctx.obj)
    request = read_request(options)
    code = run_operation(settings, lambda client: client.evidence(request), show_evidence, wait=wait, as_json=as_json)
    ctx.exit(code)


def read_request(options: dict[str, object]) -> EvidenceRequest:
    """The request that the options make.

    Raises:
        InputError: one of them is not valid.
    """
    try:
        return EvidenceRequest.model_validate(options)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        named = {"adapter": "ADAPTER", "anchors": "--anchor"}.get(str(first["loc"][0]), f"--{first['loc'][0]}")
        raise InputError(f"{named} {first['input']!r}: {first['msg']}.") from error


def show_evidence(result: dict[str, JsonValue]) -> None:
    """Print evidence for a person."""
    for line in evidence_lines(Evidence.model_validate(result)):
        click.echo(visible_line(line, MAX_LINE))


def evidence_lines(evidence: Evidence) -> list[str]:
    """What speaks for a promotion and against it; the verdict first."""
    found = evidence
    interval = f"[{found.difference_low:+.3f}, {found.difference_high:+.3f}]"
    lines = [
        f"{found.verdict.value}: {found.adapter} to {found.to_tier}, against {found.incumbent}",
        f"{found.suite}, seed {found.seed}: {_rate(found.adapter_rate)} against {_rate(found.incumbent_rate)}",
        f"{found.wins} wins, {found.losses} losses, {found.ties} ties of {found.tasks} tasks; "
        f"e-value {found.e_value:.3g} of {found.threshold:g}{_looks(found)}",
        f"difference {found.difference:+.3f} {interval}{_noise(found)}",
        _ood(found),
        *map(_anchor, found.anchors),
        _text(found),
        _contamination(found.contamination),
        *map(_of_part, found.contaminations),
    ]
    return [*lines, *(f"- {reason}" for reason in found.reasons)]


def _rate(rate: RateRecord) -> str:
    return f"{rate.passed}/{rate.total} [{rate.low:.3f}, {rate.high:.3f}]"


def _looks(evidence: Evidence) -> str:
    return f" (look {evidence.earlier_looks + 1})" if evidence.earlier_looks else ""


def _noise(evidence: Evidence) -> str:
    if (noise := evidence.noise) is None:
        return ""
    return f"; {evidence.incumbent} differs from itself by {noise.rate:.3f} [{noise.low:.3f}, {noise.high:.3f}]"


def _text(evidence: Evidence) -> str:
    if (text := evidence.text) is None:
        return f"general text: not measured{': ' if evidence.text_unmeasured else ''}{evidence.text_unmeasured}"
    return (
        f"general text: perplexity {text.adapter_perplexity:.4g} against {text.base_perplexity:.4g} ({text.change})"
        f", KL drift {text.kl:.3g} nats per token"
    )


def _ood(evidence: Evidence) -> str:
    if evidence.ood_delta is None:
        return "out of distribution: the suite has no such tasks"
    low = "" if evidence.ood_low is None else f", at least {evidence.ood_low:+.3f}"
    return f"out of distribution {evidence.ood_delta:+.3f}{low}{'; a memoriser' if evidence.memoriser else ''}"


def _anchor(anchor: AnchorResult) -> str:
    kept = "kept" if anchor.kept else "not kept" if anchor.usable else "not usable, it learned from its tasks"
    return (
        f"anchor {anchor.name}: {_rate(anchor.adapter)} against {_rate(anchor.reference)}, "
        f"difference at least {anchor.difference_low:+.3f}: {kept}"
    )


def _contamination(found: Contamination) -> str:
    if not found.checked:
        return "contamination: not known what it learned from"
    return f"contamination: {found.exact} exact and {found.near} near, of {found.rows} rows learned from"


def _of_part(found: PartContamination) -> str:
    shared = f"{found.exact} exact and {found.near} near" if found.checked else "not known"
    return f"contamination of {found.part}: {shared}{', left out' if found.exact + found.near else ''}"
