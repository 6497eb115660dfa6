"""`rune-tui merge`: make one adapter of several."""

from __future__ import annotations

from typing import cast

import click
from pydantic import JsonValue, ValidationError

from engine.api_evolution import MAX_MERGED, MergeMethod, MergeReport, MergeRequest, MergeSpace, SignRule
from engine.errors import InputError
from rune_tui.commands.ask import JSON_OPTION
from rune_tui.commands.follow import EXIT_CODES, run_operation, wait_option
from rune_tui.commands.naming import ADAPTER
from rune_tui.commands.output import echo_table
from rune_tui.settings import Settings


def _choice(values: list[str]) -> click.Choice[str]:
    return click.Choice(values)


@click.command("merge", epilog=EXIT_CODES)
@click.argument("adapters", nargs=-1, required=True, metavar="A B ...", type=ADAPTER)
@click.option("--method", type=_choice([method.value for method in MergeMethod]), default="ties", show_default=True)
@click.option("--adapter-id", metavar="ID", help="Of the result; default: one is made up.")
@click.option("--task-type", metavar="TYPE", help="Of the result; default: the first adapter's.")
@click.option("--weights", metavar="W,..", help="One for each adapter; default: equal shares.")
@click.option("--density", type=float, default=0.5, show_default=True, help="Share that TIES and DARE keep.")
@click.option("--rank", type=int, help="Of the result; default: the highest of the adapters', of cat their sum.")
@click.option("--space", type=_choice([space.value for space in MergeSpace]), default="core", show_default=True)
@click.option("--sign", type=_choice([sign.value for sign in SignRule]), default="count", show_default=True)
@click.option("--suite", metavar="NAME", help="Of cat-learned: where its scalars are learned.")
@click.option("--seed", type=int, default=0, show_default=True, help="Of DARE's random numbers.")
@wait_option()
@JSON_OPTION
@click.pass_context
def command(ctx: click.Context, wait: bool, as_json: bool, **options: object) -> None:
    """Make one LoRA adapter of several of the same base model. It is published, and proves nothing yet: evaluate it."""
    settings = cast("Settings", ctx.obj)
    request = read_request(options)
    ctx.exit(run_operation(settings, lambda client: client.merge(request), show_report, wait=wait, as_json=as_json))


def read_request(options: dict[str, object]) -> MergeRequest:
    """The request that the options make.

    Raises:
        InputError: one of them is not valid.
    """
    weights = cast("str | None", options["weights"])
    values = {**options, "weights": [part.strip() for part in weights.split(",")] if weights else ()}
    try:
        request = MergeRequest.model_validate(values)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        if first["type"] == "too_long":
            raise InputError(f"At most {MAX_MERGED} adapters are merged at once: merge some of them first.") from error
        option = "adapter" if first["loc"][0] == "adapters" else f"--{first['loc'][0]}".replace("_", "-")
        raise InputError(f"{option} {first['input']!r}: {first['msg']}.") from error
    if request.weights and len(request.weights) != len(request.adapters):
        raise InputError(f"--weights has {len(request.weights)} values for {len(request.adapters)} adapters.")
    return request


def show_report(result: dict[str, JsonValue]) -> None:
    """Print a report for a person."""
    report = MergeReport.model_validate(result)
    click.echo(
        f"{report.adapter_id} ({report.digest[:12]}): {report.method.value} in {report.space.value} space, "
        f"rank {report.rank} keeps {report.retained_energy:.1%} of {report.modules} modules' merged delta"
    )
    rows = [("ADAPTER", "WEIGHT", "COSINE")]
    for (name, cosine), weight in zip(report.parent_cosines.items(), report.weights, strict=True):
        rows.append((name, f"{weight:.3f}", f"{cosine:+.3f}"))
    echo_table(rows)
    click.echo(f"{report.seconds:.1f} s, {report.peak_mib} MiB at most")
