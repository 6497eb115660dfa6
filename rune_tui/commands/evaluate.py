"""`rune-tui evaluate`: measure an adapter, or the base model, on a suite."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import cast

import click
from pydantic import JsonValue, ValidationError

from engine.api_learning import BASE, EvaluateRequest, EvaluationReport, RateRecord, Split
from engine.errors import InputError
from rune_tui.commands.ask import JSON_OPTION
from rune_tui.commands.follow import EXIT_CODES, run_operation, wait_option
from rune_tui.commands.naming import ADAPTER
from rune_tui.commands.output import echo_table
from rune_tui.settings import Settings


@click.command("evaluate", epilog=EXIT_CODES)
@click.option("--suite", required=True, metavar="NAME", help="`rune-tui suite list` shows what there is.")
@click.option(
    "--adapter",
    default=BASE,
    show_default=True,
    metavar="ID|TYPE@champion|base",
    type=ADAPTER,
    help="What is measured.",
)
@click.option("--split", type=click.Choice([split.value for split in Split]), default="gate", show_default=True)
@click.option("--group", "groups", multiple=True, metavar="NAME", help="Only tasks of this group; may be repeated.")
@click.option("--limit", type=int, help="Only the first so many tasks.")
@click.option("--k", type=int, default=1, show_default=True, help="Of pass@k.")
@click.option("--samples", type=int, help="Answers to each task; default: K.")
@click.option("--temperature", type=float, help="Default: 0 with one sample of each task, 0.8 with more.")
@click.option("--max-tokens", type=int, help="Of one answer.")
@click.option("--open-book", is_flag=True, help="Show the model the modules that the tasks' preludes import.")
@click.option("--seed", type=int, default=0, show_default=True, help="Of the hidden inputs and of the sampling.")
@click.option("--clusters", is_flag=True, help="Also print the rate of each template: tasks that were made alike.")
@wait_option()
@JSON_OPTION
@click.pass_context
def command(ctx: click.Context, clusters: bool, wait: bool, as_json: bool, **options: object) -> None:
    """Measure pass@1 and pass@k on held-out tasks by running the answers. Nothing is measured twice."""
    settings = cast("Settings", ctx.obj)
    request = read_request(options)
    show = partial(show_report, clusters=clusters)
    ctx.exit(run_operation(settings, lambda client: client.evaluate(request), show, wait=wait, as_json=as_json))


def read_request(options: dict[str, object]) -> EvaluateRequest:
    """The request that the options make.

    Raises:
        InputError: one of them is not valid.
    """
    values = dict(options)
    values["samples"] = values["k"] if values["samples"] is None else values["samples"]
    try:
        return EvaluateRequest.model_validate(values)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        if not first["loc"]:
            raise InputError(f"--samples {values['samples']}: {first['msg'].removeprefix('Value error, ')}.") from error
        option = "group" if first["loc"][0] == "groups" else str(first["loc"][0]).replace("_", "-")
        raise InputError(f"--{option} {first['input']!r}: {first['msg']}.") from error


def show_report(result: dict[str, JsonValue], *, clusters: bool = False) -> None:
    """Print a report for a person."""
    report = EvaluationReport.model_validate(result)
    for line in report_lines(report):
        click.echo(line)
    _show_rates("GROUP", report.by_group)
    if clusters:
        _show_rates("TEMPLATE", report.by_template)


def _show_rates(title: str, rates: Mapping[str, RateRecord]) -> None:
    echo_table([(title, "PASSED", "RATE", "95 %"), *(_row(name, rate) for name, rate in rates.items())])


def report_lines(report: EvaluationReport) -> list[str]:
    """What a report says, without its tables."""
    proof = "proven by the server" if report.digest_proven else "not proven by the server"
    digest = f"{report.adapter_digest[:12]}, {proof}" if report.adapter_digest else f"no adapter, {proof}"
    rate = report.pass_at_1
    lines = [
        f"{report.adapter} ({digest}) on {report.suite} {report.split.value}, seed {report.seed}",
        f"{report.base_model} on {report.backend}; {report.tasks} tasks ({report.suite_digest[:12]}), "
        f"{report.samples_per_task} of each, {_sampling(report)}",
        f"pass@1 {_text(rate)}",
    ]
    if report.k > 1:
        lines.append(f"pass@{report.k} {report.pass_at_k:.3f}")
    if report.infrastructure:
        lines.append(f"{report.infrastructure} samples say nothing: the model server or the judge failed")
    if report.no_data:
        lines.append("no data: nothing was judged")
    lines.append(f"{report.tokens} tokens, {report.seconds:.0f} s")
    return lines


def _sampling(report: EvaluationReport) -> str:
    said = {"temperature": "temperature", "max_tokens": "at most tokens", "top_p": "top_p"}
    return ", ".join(f"{words} {report.sampling[name]}" for name, words in said.items() if name in report.sampling)


def _text(rate: RateRecord) -> str:
    return f"{rate.passed}/{rate.total} = {rate.value:.3f} [{rate.low:.3f}, {rate.high:.3f}]"


def _row(name: str, rate: RateRecord) -> tuple[str, ...]:
    return name, f"{rate.passed}/{rate.total}", f"{rate.value:.3f}", f"{rate.low:.3f} - {rate.high:.3f}"
