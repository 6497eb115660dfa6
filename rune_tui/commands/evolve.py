"""`rune-tui evolve`: one sweep, now: prune, merge, measure against controls, promote what is proven."""

from __future__ import annotations

from typing import cast

import click
from pydantic import JsonValue, ValidationError

from engine.api_evolution import ControlResult, EvolveRequest, SweepSummary, TypeSummary
from engine.errors import InputError
from rune_tui.commands.ask import JSON_OPTION
from rune_tui.commands.follow import EXIT_CODES, run_operation, wait_option
from rune_tui.settings import Settings
from rune_tui.terminal_text import visible_line

MAX_LINE = 400
"""Characters of one reason."""


@click.command("evolve", epilog=EXIT_CODES)
@click.argument("adapters", nargs=-1, metavar="[ADAPTER]...")
@click.option("--task-type", metavar="NAME", help="Only this population; default: every one.")
@click.option("--suite", metavar="NAME", help="What decides; default: the suite of the task type in config.toml.")
@click.option("--controls/--no-controls", default=True, show_default=True, help="Measure control groups as well.")
@click.option("--seed", type=int, default=0, show_default=True, help="Of the merge and of the hidden inputs.")
@wait_option()
@JSON_OPTION
@click.pass_context
def command(ctx: click.Context, adapters: tuple[str, ...], wait: bool, as_json: bool, **options: object) -> None:
    """Prune, merge and measure the adapters of a task type once. With ADAPTER ids, merge just those.

    A sweep that promotes nothing is a result: it says why.
    """
    settings = cast("Settings", ctx.obj)
    request = read_request(adapters, options)
    code = run_operation(settings, lambda client: client.evolve(request), show_summary, wait=wait, as_json=as_json)
    ctx.exit(code)


def read_request(adapters: tuple[str, ...], options: dict[str, object]) -> EvolveRequest:
    """The request that the options make.

    Raises:
        InputError: one of them is not valid.
    """
    try:
        return EvolveRequest.model_validate({**options, "adapter_ids": adapters})
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        named = "ADAPTER" if first["loc"][0] == "adapter_ids" else f"--{str(first['loc'][0]).replace('_', '-')}"
        raise InputError(f"{named} {first['input']!r}: {first['msg']}.") from error


def show_summary(result: dict[str, JsonValue]) -> None:
    """Print what a sweep did, for a person."""
    for line in summary_lines(SweepSummary.model_validate(result)):
        click.echo(visible_line(line, MAX_LINE))


def summary_lines(summary: SweepSummary) -> list[str]:
    """What a sweep did and did not do."""
    if not summary.task_types:
        return ["There is no adapter to evolve."]
    lines = [line for name, one in summary.task_types.items() for line in _type_lines(name, one)]
    return [*lines, f"generation {summary.generation}, {summary.seconds:.0f} s"]


def _type_lines(name: str, summary: TypeSummary) -> list[str]:
    promoted = "promoted" if summary.promoted else "nothing promoted"
    lines = [f"{name}: {summary.pruned} pruned, {summary.merged} merged, {summary.active} in use; {promoted}"]
    if summary.child is not None and summary.child_rate is not None:
        rate = summary.child_rate
        lines.append(f"  {summary.child}: {rate.passed}/{rate.total} [{rate.low:.3f}, {rate.high:.3f}]")
    lines += [f"  control {_control(control)}" for control in summary.controls]
    return [*lines, *(f"  {reason}" for reason in summary.reasons)]


def _control(control: ControlResult) -> str:
    note = f" ({control.note})" if control.note else ""
    return f"{control.name}: {control.rate.passed}/{control.rate.total}{note}"
