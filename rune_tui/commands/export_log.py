"""`rune-tui export-log`: attempts or events, over time and sessions."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from contextlib import aclosing
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import click

from engine.api_models import Event, SessionRecord
from rune_tui import export
from rune_tui.client import EngineClient
from rune_tui.commands.ask import ask
from rune_tui.commands.sink import Write, open_sink
from rune_tui.export import Format
from rune_tui.settings import Settings


@dataclass(frozen=True)
class _Wanted:
    form: Format
    session: str | None
    since: datetime | None


@click.command("export-log")
@click.option(
    "--format", "form", type=click.Choice([form.value for form in Format]), default="jsonl", show_default=True
)
@click.option("--what", type=click.Choice(["attempts", "events"]), default="attempts", show_default=True)
@click.option("--since", metavar="TIME", help="A date, a time (UTC), or an age such as 2h or 7d.")
@click.option("--session", metavar="ID", help="Only this session.")
@click.option("--output", type=click.Path(path_type=Path), metavar="FILE", help="File to write; default stdout.")
@click.pass_obj
def command(
    settings: Settings, form: str, what: str, since: str | None, session: str | None, output: Path | None
) -> None:
    """Write attempts (prompt, code, verdict, output, timings) or events out, complete, oldest first."""
    moment = export.parse_since(since, datetime.now(UTC)) if since else None
    wanted = _Wanted(Format(form), session, moment)
    writer = _write_events if what == "events" else _write_attempts
    with open_sink(output) as write:
        ask(settings, lambda client: writer(client, wanted, write))


async def _write_attempts(client: EngineClient, wanted: _Wanted, write: Write) -> None:
    if wanted.form is Format.CSV:
        await asyncio.to_thread(write, export.csv_header(export.ATTEMPT_COLUMNS))
    for session in await _sessions(client, wanted):
        trajectory = await client.trajectory(session.id)
        rows = list(export.attempt_rows(trajectory, wanted.since))
        if wanted.form is not Format.MARKDOWN:
            text = _lines(rows, export.ATTEMPT_COLUMNS, wanted.form)
        else:
            text = export.run_card(trajectory, wanted.since) + "\n" if rows or wanted.since is None else ""
        await asyncio.to_thread(write, text)


async def _sessions(client: EngineClient, wanted: _Wanted) -> list[SessionRecord]:
    """Oldest first, as the log was written."""
    if wanted.session is not None:
        return [await client.session(wanted.session)]
    return list(await client.all_sessions())[::-1]


def _lines(rows: Iterable[export.Row], columns: tuple[str, ...], form: Format) -> str:
    return "".join(export.jsonl(rows) if form is Format.JSONL else export.csv_rows(rows, columns))


async def _write_events(client: EngineClient, wanted: _Wanted, write: Write) -> None:
    if wanted.form is Format.CSV:
        await asyncio.to_thread(write, export.csv_header(export.EVENT_COLUMNS))
    async with aclosing(client.replay(0, session_id=wanted.session)) as events:
        async for event in events:
            if wanted.since is None or export.moment(event.timestamp) >= wanted.since:
                await asyncio.to_thread(write, _event_text(event, wanted.form))


def _event_text(event: Event, form: Format) -> str:
    if form is Format.MARKDOWN:
        return export.event_line(event)
    return _lines([export.event_row(event)], export.EVENT_COLUMNS, form)
