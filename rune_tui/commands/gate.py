"""`rune-tui gate`: a fixed rule about what was measured; the exit code is its verdict."""

from __future__ import annotations

import click
from pydantic import ValidationError

from engine.api_learning import BASE, GateName, GateReport, GateRequest, RateRecord, Split
from engine.errors import ExitCode, InputError
from rune_tui.client_learning import LearningClient
from rune_tui.commands.ask import JSON_OPTION, ask
from rune_tui.commands.output import echo_json, echo_table
from rune_tui.settings import Settings

EPILOG = """\b
Gates:
  hypothesis    at least 5 % of the other's rate better; 0 against 0 fails
  oracle        at least 3 points better
  oracle-round  of six suites four at least 2 points better and none more than 1 point worse

\b
Exit codes:
  0    the gate is passed
  1    it is not
  2    bad usage, or something that it needs was not measured
"""


@click.command("gate", epilog=EPILOG)
@click.argument("gate", type=click.Choice([name.value for name in GateName]))
@click.option("--adapter", required=True, metavar="ID", help="Whose gain it is about.")
@click.option("--suite", "suites", required=True, multiple=True, metavar="NAME", help="Six of them for oracle-round.")
@click.option("--against", default=BASE, show_default=True, metavar="ID|base", help="What it is compared with.")
@click.option("--split", type=click.Choice([split.value for split in Split]), default="gate", show_default=True)
@JSON_OPTION
@click.pass_context
def command(ctx: click.Context, as_json: bool, **options: object) -> None:
    """Ask a fixed rule about the newest measurements of an adapter and of what it is compared with."""
    settings = ctx.obj
    assert isinstance(settings, Settings), "the group makes them"
    try:
        request = GateRequest.model_validate(options)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        option = "suite" if first["loc"][0] == "suites" else first["loc"][0]
        raise InputError(f"--{option}: {first['msg']}.") from error
    report = ask(settings, lambda client: LearningClient(client).gate(request))
    if as_json:
        echo_json(report.model_dump(mode="json"))
    else:
        show(report)
    ctx.exit(ExitCode.OK if report.passed else ExitCode.NOT_VERIFIED)


def show(report: GateReport) -> None:
    """Print what a gate says, for a person."""
    suspicion = "; look for leakage first" if report.leakage_suspected else ""
    click.echo(f"{report.gate.value}: {'passed' if report.passed else 'not passed'}{suspicion}")
    rows = [("SUITE", report.adapter, report.against, "DELTA")]
    for suite, rate in report.adapter_rates.items():
        rows.append((suite, _text(rate), _text(report.against_rates[suite]), f"{report.deltas[suite]:+.3f}"))
    echo_table(rows)
    for reason in report.reasons:
        click.echo(reason)
    if report.generalisation_delta is not None:
        click.echo(f"generalisation delta {report.generalisation_delta:+.3f}, quality {report.quality:.3f}")


def _text(rate: RateRecord) -> str:
    return f"{rate.passed}/{rate.total} [{rate.low:.2f}, {rate.high:.2f}]"
