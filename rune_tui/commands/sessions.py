"""`rune-tui sessions list|show|cancel|resume|export`."""

from __future__ import annotations

from pathlib import Path

import click

from engine.api_models import RunState, SessionRecord
from rune_tui.commands.ask import JSON_OPTION, ask
from rune_tui.commands.record import echo_record, echo_records
from rune_tui.commands.sink import open_sink
from rune_tui.export import ATTEMPT_COLUMNS, Format, attempt_rows, csv_header, csv_rows, jsonl, run_card
from rune_tui.settings import Settings
from rune_tui.terminal_text import visible

COLUMNS = ("ID", "TASK", "STATE", "OUTCOME", "ATTEMPTS", "SECONDS", "CREATED")


@click.group("sessions")
def command() -> None:
    """List, show, cancel, resume and export sessions."""


@command.command("list")
@click.option("--state", type=click.Choice([state.value for state in RunState]), help="Only those in this state.")
@click.option("--run", "run_id", help="Only those of this batch.")
@click.option("--limit", type=click.IntRange(1, 1000), default=50, show_default=True)
@JSON_OPTION
@click.pass_obj
def list_(settings: Settings, state: str | None, run_id: str | None, limit: int, as_json: bool) -> None:
    """List sessions, newest first."""
    found = ask(settings, lambda client: client.sessions(state=state, run_id=run_id, limit=limit))
    echo_records(found, COLUMNS, [_cells(session) for session in found], none="no sessions", as_json=as_json)


def _cells(session: SessionRecord) -> tuple[str, ...]:
    outcome = session.outcome.value if session.outcome else "-"
    effort = (str(session.attempts), f"{session.seconds:.1f}")
    return session.id, session.task.id, session.state.value, outcome, *effort, session.created_at[:19]


@command.command("show")
@click.argument("session_id", metavar="ID")
@JSON_OPTION
@click.pass_obj
def show(settings: Settings, session_id: str, as_json: bool) -> None:
    """Show one session with its final code."""
    _print(ask(settings, lambda client: client.session(session_id)), as_json=as_json)


@command.command("cancel")
@click.argument("session_id", metavar="ID")
@JSON_OPTION
@click.pass_obj
def cancel(settings: Settings, session_id: str, as_json: bool) -> None:
    """Stop a session; it can be resumed."""
    _print(ask(settings, lambda client: client.cancel_session(session_id)), as_json=as_json)


@command.command("resume")
@click.argument("session_id", metavar="ID")
@JSON_OPTION
@click.pass_obj
def resume(settings: Settings, session_id: str, as_json: bool) -> None:
    """Go on with a stopped session after its last finished step."""
    _print(ask(settings, lambda client: client.resume_session(session_id)), as_json=as_json)


@command.command("export")
@click.argument("session_id", metavar="ID")
@click.option("--format", "form", type=click.Choice(["json", "jsonl", "csv", "md"]), default="json", show_default=True)
@click.option("--output", type=click.Path(path_type=Path), help="File to write; default stdout.")
@click.pass_obj
def export(settings: Settings, session_id: str, form: str, output: Path | None) -> None:
    """Write out a session with all its attempts, complete."""
    trajectory = ask(settings, lambda client: client.trajectory(session_id))
    with open_sink(output) as write:
        match form:
            case Format.JSONL:
                write("".join(jsonl(attempt_rows(trajectory))))
            case Format.CSV:
                write(csv_header(ATTEMPT_COLUMNS))
                write("".join(csv_rows(attempt_rows(trajectory), ATTEMPT_COLUMNS)))
            case Format.MARKDOWN:
                write(run_card(trajectory))
            case _:
                write(trajectory.model_dump_json(indent=2) + "\n")


def _print(session: SessionRecord, *, as_json: bool) -> None:
    fields = session.model_dump(mode="json", exclude={"task", "code", "phases", "summary"})
    echo_record(session, {"task": session.task.id, **fields}, as_json=as_json)
    if as_json:
        return
    for phase in session.phases:
        click.echo(
            visible(f"  {phase.phase.value}: {phase.state}, {phase.iterations} iterations {phase.detail}").rstrip()
        )
    if session.code is not None:
        click.echo("\n" + visible(session.code))
