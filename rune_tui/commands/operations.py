"""`rune-tui operations list|show|follow|cancel|resume`: what takes long, and what came of it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

import click

from engine.api_learning import Operation, OperationKind
from engine.api_models import RunState
from rune_tui.client_learning import LearningClient
from rune_tui.commands.ask import JSON_OPTION, ask
from rune_tui.commands.follow import exit_code, follow_operation
from rune_tui.commands.output import echo_json, echo_table
from rune_tui.progress_bar import duration
from rune_tui.settings import Settings


@click.group("operations")
def command() -> None:
    """List, show, follow, cancel and resume what takes long: evaluations, merges, sweeps and their like."""


@command.command("list")
@click.option("--kind", type=click.Choice([kind.value for kind in OperationKind]), help="Only those of this kind.")
@click.option("--state", type=click.Choice([state.value for state in RunState]), help="Only those in this state.")
@click.option("--limit", type=click.IntRange(1, 1000), default=50, show_default=True)
@JSON_OPTION
@click.pass_obj
def list_(settings: Settings, kind: str | None, state: str | None, limit: int, as_json: bool) -> None:
    """List operations, newest first."""
    wanted = OperationKind(kind) if kind else None
    found = ask(settings, lambda client: LearningClient(client).operations(kind=wanted, state=state, limit=limit))
    if as_json:
        echo_json([operation.model_dump(mode="json", exclude={"result"}) for operation in found])
    elif found:
        echo_table(_table(found))
    else:
        click.echo("no operations", err=True)


def _table(operations: Sequence[Operation]) -> list[tuple[str, ...]]:
    rows = [("ID", "STATE", "DONE", "LEFT", "NOTE", "CREATED", "REASON")]
    for operation in operations:
        created = operation.created_at[:19]
        rows.append((operation.id, operation.state.value, *_progress(operation), created, operation.reason))
    return rows


def _progress(operation: Operation) -> tuple[str, str, str]:
    progress = operation.progress
    if progress is None:
        return "-", "-", "-"
    runs = operation.state is RunState.RUNNING and progress.eta_seconds is not None
    left = duration(progress.eta_seconds or 0.0) if runs else "-"
    return f"{progress.done}/{progress.total}", left, progress.note or "-"


@command.command("show")
@click.argument("operation_id", metavar="ID")
@JSON_OPTION
@click.pass_obj
def show(settings: Settings, operation_id: str, as_json: bool) -> None:
    """Show one operation; --json has its result."""
    print_operation(ask(settings, lambda client: LearningClient(client).operation(operation_id)), as_json=as_json)


@command.command("follow")
@click.argument("operation_id", metavar="ID")
@JSON_OPTION
@click.pass_context
def follow(ctx: click.Context, operation_id: str, as_json: bool) -> None:
    """Show how far an operation is until it has ended; exit 1 where it ended without a result."""
    settings: Settings = ctx.obj
    operation = ask(settings, lambda client: LearningClient(client).operation(operation_id))
    operation = follow_operation(settings, operation)
    print_operation(operation, as_json=as_json)
    ctx.exit(exit_code(operation))


def _change(name: str, what: str, change: Callable[[LearningClient, str], Awaitable[Operation]]) -> None:
    @command.command(name, help=what)
    @click.argument("operation_id", metavar="ID")
    @JSON_OPTION
    @click.pass_obj
    def changing(settings: Settings, operation_id: str, as_json: bool) -> None:
        changed = ask(settings, lambda client: change(LearningClient(client), operation_id))
        print_operation(changed, as_json=as_json)


_change("cancel", "Stop an operation: at once when queued, soon when running.", LearningClient.cancel_operation)
_change(
    "resume", "Queue a stopped operation again; what it had done is not done twice.", LearningClient.resume_operation
)


def print_operation(operation: Operation, *, as_json: bool) -> None:
    """One operation, as JSON or as a table."""
    if as_json:
        echo_json(operation.model_dump(mode="json"))
        return
    plain = operation.model_dump(mode="json", exclude={"request", "progress", "result"})
    rows = [(name.replace("_", " "), "-" if value in (None, "") else str(value)) for name, value in plain.items()]
    rows += [(f"request {name}".replace("_", " "), str(value)) for name, value in operation.request.items()]
    done, left, note = _progress(operation)
    rows += [("done", done), ("left", left), ("note", note)]
    echo_table(rows)
