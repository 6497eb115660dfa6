"""`rune-tui suite list|show|check|add`."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import cast

import click
from pydantic import JsonValue, ValidationError

from engine.api_learning import CheckSuiteRequest, Split, SuiteAdd, SuiteCheck, SuiteInfo, SuiteTask
from engine.errors import ExitCode, InputError, NotFoundError
from rune_tui.client_learning import LearningClient
from rune_tui.commands.ask import JSON_OPTION, ask
from rune_tui.commands.follow import EXIT_CODES, run_operation, wait_option
from rune_tui.commands.output import echo_json
from rune_tui.commands.record import echo_record, echo_records
from rune_tui.settings import Settings
from rune_tui.terminal_text import clean, visible_line

COLUMNS = ("NAME", "TYPE", "ORIGIN", "SEEDED", "TASKS", "TEMPLATES", "TITLE")
TASK_COLUMNS = ("ID", "SPLIT", "GROUP", "TEMPLATE", "PROMPT")
MAX_PROBLEM = 300
"""Characters of a problem; --json has the whole."""

SEED_OPTION = click.option(
    "--seed", type=click.IntRange(0, 2**31 - 1), default=0, show_default=True, help="Of the hidden inputs."
)

CHECK_EPILOG = EXIT_CODES.replace(
    "1    the operation ended without a result; the reason is on stderr",
    "1    the suite has problems, or the operation ended without a result; the reason is on stderr",
)


@click.group("suite")
def command() -> None:
    """List, show, check and add suites: the tasks that adapters are measured on."""


@command.command("list")
@JSON_OPTION
@click.pass_obj
def list_(settings: Settings, as_json: bool) -> None:
    """List suites: those that come with rune-tui, then your own."""
    found = ask(settings, lambda client: LearningClient(client).suites())
    echo_records(found, COLUMNS, [_cells(suite) for suite in found], none="no suites", as_json=as_json)


def _cells(suite: SuiteInfo) -> tuple[str, ...]:
    counts = " ".join(f"{split.value}:{count}" for split, count in suite.counts.items())
    seeded = "yes" if suite.seeded else "no"
    return suite.name, suite.task_type, suite.origin, seeded, counts, str(suite.templates), suite.title


@command.command("show")
@click.argument("name")
@click.option("--tasks", "with_tasks", is_flag=True, help="List its tasks.")
@click.option("--split", type=click.Choice([split.value for split in Split]), help="With --tasks: only this split's.")
@click.option("--task", "task_id", metavar="ID", help="Show one task whole, with its reference and its checks.")
@SEED_OPTION
@JSON_OPTION
@click.pass_obj
def show(
    settings: Settings,
    name: str,
    with_tasks: bool,
    split: str | None,
    task_id: str | None,
    seed: int,
    as_json: bool,
) -> None:
    """Show the suite NAME, its tasks, or one of them."""
    if not with_tasks and task_id is None:
        suite = ask(settings, lambda client: LearningClient(client).suite(name))
        echo_record(suite, {**suite.model_dump(mode="json"), "counts": _cells(suite)[4]}, as_json=as_json)
        return
    wanted = None if split is None else Split(split)
    tasks = ask(settings, lambda client: LearningClient(client).suite_tasks(name, seed=seed, split=wanted))
    if task_id is None:
        rows = [(task.id, task.split.value, task.group, task.template, task.prompt) for task in tasks]
        echo_records(tasks, TASK_COLUMNS, rows, none="no tasks", as_json=as_json)
        return
    _show_task(name, tasks, task_id, as_json=as_json)


def _show_task(name: str, tasks: Sequence[SuiteTask], task_id: str, *, as_json: bool) -> None:
    task = next((task for task in tasks if task.id == task_id), None)
    if task is None:
        raise NotFoundError(f"The suite {name} has no task {task_id}.")
    if as_json:
        echo_json(task.model_dump(mode="json"))
        return
    items = task.cases.items if task.cases else ()
    parts = {
        "prompt": task.prompt,
        "visible tests": task.visible_tests or "",
        "reference": task.prelude + (task.reference or ""),
        "hidden tests": task.tests or "",
        "hidden cases": "\n".join(case.model_dump_json(exclude_defaults=True) for case in items),
    }
    click.echo(visible_line(f"{task.id}  {task.split.value}  {task.group}  {task.template}"))
    for title, text in parts.items():
        if text:
            click.echo(f"\n{title}")
            click.echo(textwrap.indent(clean(text), "  "))


@command.command("check", epilog=CHECK_EPILOG)
@click.argument("name")
@SEED_OPTION
@wait_option()
@JSON_OPTION
@click.pass_context
def check(ctx: click.Context, name: str, seed: int, wait: bool, as_json: bool) -> None:
    """Prove the suite NAME: references pass, changed references fail, nothing of train is in the other splits.

    Starts an engine where none runs.
    """
    try:
        body = CheckSuiteRequest(suite=name, seed=seed)
    except ValidationError as error:
        raise _no_name(name) from error
    ctx.exit(
        run_operation(
            cast("Settings", ctx.obj),
            lambda client: client.check_suite(body),
            print_check,
            wait=wait,
            as_json=as_json,
            code_of=lambda result: ExitCode.NOT_VERIFIED if result.get("problems") else ExitCode.OK,
        )
    )


def print_check(result: dict[str, JsonValue]) -> None:
    """Print what a check found, for a person."""
    for line in check_lines(SuiteCheck.model_validate(result)):
        click.echo(visible_line(line, MAX_PROBLEM))


def check_lines(check: SuiteCheck) -> list[str]:
    """What a check found, for a person."""
    return [
        f"{check.name}: {check.references_passed} of {check.tasks} references pass, "
        f"{check.mutants_killed} of {check.mutants} changed references fail (seed {check.seed})",
        *(f"problem: {problem}" for problem in check.problems),
        "no problems" if not check.problems else f"{len(check.problems)} problems",
    ]


@command.command("add")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--name", help="Of the suite; default: the file's name without its ending.")
@JSON_OPTION
@click.pass_obj
def add(settings: Settings, file: Path, name: str | None, as_json: bool) -> None:
    """Copy the suite FILE, JSON Lines of tasks, into the home. Check it then with `rune-tui suite check`."""
    name = name or file.stem.lower().replace("_", "-")
    try:
        body = SuiteAdd(file=str(file.expanduser().absolute()), name=name)
    except ValidationError as error:
        raise _no_name(name) from error
    echo_record(ask(settings, lambda client: LearningClient(client).add_suite(body)), as_json=as_json)


def _no_name(name: str) -> InputError:
    return InputError(f"{name!r} is no name of a suite: small letters, digits and '-', at most 50.")
