"""`rune-tui device [--json] [--watch]`."""

from __future__ import annotations

import json
from contextlib import aclosing
from datetime import UTC, datetime

import click
from pydantic import ValidationError

from engine.api_device import DeviceStatus
from engine.api_models import Event
from rune_tui.client import EngineClient
from rune_tui.commands.ask import JSON_OPTION, ask_device
from rune_tui.commands.output import echo_json
from rune_tui.device_state import Workshop
from rune_tui.settings import Settings
from rune_tui.terminal_text import clean_line, visible_line
from rune_tui.widgets.device_rows import device_details, free_memory, state_words

SUBJECT = "device/"
"""Beginning of the subject of the device's events."""


@click.command("device")
@JSON_OPTION
@click.option("--watch", is_flag=True, help="Go on, one line a change, until interrupted; with --json, JSON Lines.")
@click.pass_obj
def command(settings: Settings, as_json: bool, watch: bool) -> None:
    """Say who has the GPU (or the machine's CPUs and memory), why, and until when."""
    if watch:
        ask_device(settings, lambda client: _watch(client, as_json=as_json))
        return
    status = ask_device(settings, lambda client: client.device())
    if as_json:
        echo_json(status.model_dump(mode="json"))
        return
    now = datetime.now(UTC)
    for row in device_details(Workshop(device=status, device_heard=now), now):
        click.echo(clean_line("".join(span.text for span in row.spans)).rstrip())


async def _watch(client: EngineClient, *, as_json: bool) -> None:
    since = (await client.health()).last_sequence
    _say(await client.device(), as_json=as_json)
    async with aclosing(client.events(since, chunks=False)) as events:
        async for event in events:
            if isinstance(event, Event) and (status := _status_of(event)) is not None:
                _say(status, as_json=as_json)


def _status_of(event: Event) -> DeviceStatus | None:
    """None for events of other things, and for what a newer engine says otherwise."""
    if not event.subject.startswith(SUBJECT):
        return None
    try:
        return DeviceStatus.model_validate(event.payload)
    except ValidationError:
        return None


def _say(status: DeviceStatus, *, as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps(status.model_dump(mode="json"), ensure_ascii=True))
        return
    facts = [status.since[:19], state_words(status.state), str(status.backend)]
    facts += [] if status.eta_seconds is None else [f"ready in {status.eta_seconds:.0f} s"]
    facts += [] if status.free_mib is None else [free_memory(status)]
    click.echo(visible_line(f"{'  '.join(facts)}  {status.reason}", 1000))
