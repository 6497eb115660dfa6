"""`rune-tui rehearse`: write down what the base model says on other suites, as rows for an adapter to learn along."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import cast

import click
from pydantic import JsonValue, ValidationError

from engine.api_learning import RehearsalReport, RehearseRequest
from engine.errors import ExitCode, InputError
from rune_tui.batch_output import check_file_destination
from rune_tui.commands.ask import JSON_OPTION
from rune_tui.commands.follow import EXIT_CODES, run_operation
from rune_tui.commands.sink import open_sink
from rune_tui.settings import Settings
from rune_tui.terminal_text import visible_line

TO = "--to"
OPTIONS = {"suites": "suite", "max_tokens": "tokens"}
"""Options that are not called what the field is."""
MAX_LINE = 500

EPILOG = EXIT_CODES.replace("done; without --wait: queued", "done; the rows are written") + (
    """
\b
An adapter that learns its own rows along with these leaves the other domains alone:
  rune-tui rehearse --suite inkwell --to elsewhere.jsonl
  cat mine.jsonl elsewhere.jsonl > both.jsonl
  rune-tui train --dataset both.jsonl
"""
)


@click.command("rehearse", epilog=EPILOG)
@click.option("--suite", "suites", multiple=True, required=True, metavar="NAME", help="Asked; may be repeated.")
@click.option("--count", type=int, default=60, show_default=True, help="Prompts of each suite's train split.")
@click.option("--tokens", "max_tokens", type=int, default=24, show_default=True, help="Of one answer; its beginning.")
@click.option("--seed", type=int, default=0, show_default=True, help="Says which prompts.")
@click.option(TO, type=click.Path(path_type=Path), metavar="FILE", help="File to write or replace; default stdout.")
@JSON_OPTION
@click.pass_context
def command(ctx: click.Context, to: Path | None, as_json: bool, **options: object) -> None:
    """Ask the base model the prompts of other suites, and write its answers as JSON Lines to train with.

    --json prints the operation, with the rows in its result. Starts an engine where none runs.
    """
    settings = cast("Settings", ctx.obj)
    request = read_request(options)
    if to is not None:
        check_file_destination(TO, to)
    show = print_rows if to is None else _nothing
    keep = partial(keep_rows, to=to)
    ctx.exit(
        run_operation(settings, lambda client: client.rehearse(request), show, wait=True, as_json=as_json, code_of=keep)
    )


def read_request(options: dict[str, object]) -> RehearseRequest:
    """The request that the options make.

    Raises:
        InputError: one of them is not valid.
    """
    try:
        return RehearseRequest.model_validate(options)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        if not first["loc"]:
            raise InputError(f"--suite: {first['msg'].removeprefix('Value error, ')}.") from error
        name = str(first["loc"][0])
        raise InputError(f"--{OPTIONS.get(name, name)} {first['input']!r}: {first['msg']}.") from error


def print_rows(result: dict[str, JsonValue]) -> None:
    """The rows on stdout."""
    _write(RehearsalReport.model_validate(result), None)


def keep_rows(result: dict[str, JsonValue], to: Path | None) -> int:
    """The rows into their file, and what was asked on stderr.

    Raises:
        EnvironmentUnfitError: the disk is full, or the directory has gone.
    """
    report = RehearsalReport.model_validate(result)
    if to is not None:
        _write(report, to)
    click.echo(visible_line(summary(report), MAX_LINE), err=True)
    return ExitCode.OK


def summary(report: RehearsalReport) -> str:
    """One line for a person."""
    cut = sum(row.cut for row in report.rows)
    proof = "proven by the server" if report.base_proven else "not proven by the server"
    left_out = {"empty": report.empty, "too long": report.too_long, "unanswered": report.unanswered}
    without = "".join(f", {count} {what}" for what, count in left_out.items() if count)
    return (
        f"{len(report.rows)} rows ({cut} cut) of {report.asked} prompts of {', '.join(report.suites)}{without}; "
        f"{report.base_model} without an adapter, {proof}"
    )


def _write(report: RehearsalReport, to: Path | None) -> None:
    with open_sink(to, TO) as write:
        for row in report.rows:
            write(row.model_dump_json() + "\n")


def _nothing(_: dict[str, JsonValue]) -> None:
    """The rows go to a file."""
