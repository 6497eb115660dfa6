"""`rune-tui improve`: run a suite, learn from what was verified, prove the gain, put it to use, and again."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import click
from pydantic import JsonValue, ValidationError

from engine.api_evolution import ImproveReport, ImproveRequest
from engine.errors import InputError
from rune_tui.commands.ask import JSON_OPTION
from rune_tui.commands.follow import EXIT_CODES, run_operation, wait_option
from rune_tui.improve_text import improve_lines
from rune_tui.settings import Settings
from rune_tui.terminal_text import visible_line

MAX_LINE = 400
"""Characters of one reason."""


@click.command("improve", epilog=EXIT_CODES)
@click.option("--suite", metavar="NAME", required=True, help="Learn from its train split; its gate decides.")
@click.option("--rounds", type=int, default=1, show_default=True, help="Each begins with what the last put to use.")
@click.option("--limit", type=int, metavar="N", help="Tasks of one round; the next round takes the next ones.")
@click.option(
    "--explore/--no-explore", default=True, show_default=True, help="Search for solutions where the model has none."
)
@click.option(
    "--demonstrations",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help='JSON Lines of {"prompt", "completion"} to learn from besides.',
)
@click.option(
    "--rehearse",
    multiple=True,
    metavar="SUITE",
    help="Suite whose requests are answered as before; may repeat. Default: general, inkwell, runekit, never SUITE.",
)
@click.option("--no-rehearse", is_flag=True, help="Keep no answers: what is learned may change all of them.")
@click.option("--preset", default="standard", show_default=True, metavar="NAME", help="Training recipe.")
@click.option("--seed", type=int, default=0, show_default=True, help="Of tasks, training and hidden inputs.")
@wait_option()
@JSON_OPTION
@click.pass_context
def command(ctx: click.Context, demonstrations: Path | None, wait: bool, as_json: bool, **options: object) -> None:
    """Run a suite's tasks, train on what was verified, measure, promote what is proven, and again.

    Stopped or killed, it goes on with `rune-tui operations resume`; nothing that was done is done twice. A round that
    promotes nothing is a result: it says why.
    """
    settings = cast("Settings", ctx.obj)
    shown = None if demonstrations is None else str(demonstrations.expanduser().absolute())
    request = read_request({**options, "demonstrations": shown})
    code = run_operation(settings, lambda client: client.improve(request), show_report, wait=wait, as_json=as_json)
    ctx.exit(code)


def read_request(options: dict[str, object]) -> ImproveRequest:
    """The request that the options make.

    Raises:
        InputError: one of them is not valid, or they contradict each other.
    """
    values = dict(options)
    rehearse, none = values.pop("rehearse"), values.pop("no_rehearse")
    if rehearse and none:
        raise InputError("Give either --rehearse or --no-rehearse.")
    if rehearse or none:
        values["rehearse"] = rehearse
    try:
        return ImproveRequest.model_validate(values)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        said = first["msg"].removeprefix("Value error, ")
        raise InputError(f"--{first['loc'][0]} {first['input']!r}: {said}.") from error


def show_report(result: dict[str, JsonValue]) -> None:
    """Print what the rounds came to, for a person."""
    for line, _ in improve_lines(ImproveReport.model_validate(result)):
        click.echo(visible_line(line, MAX_LINE))
