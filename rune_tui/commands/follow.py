"""Follows an operation to its end, with a bar on stderr: for every command that starts one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from typing import cast

import click
from pydantic import JsonValue

from engine.api_learning import Operation, OperationProgress
from engine.api_models import FINAL_STATES, Event, RunState
from engine.errors import ExitCode
from engine.home import socket_path
from rune_tui.client import EngineClient
from rune_tui.client_learning import LearningClient
from rune_tui.commands.engine import ensure_engine
from rune_tui.commands.output import echo_json
from rune_tui.progress_bar import Bar, duration
from rune_tui.settings import Settings
from rune_tui.terminal_text import visible_line

MAX_REASON = 500
MAX_NOTE = 60

EXIT_CODES = """\b
Exit codes:
  0    done; without --wait: queued
  1    the operation ended without a result; the reason is on stderr
  2    bad usage or input: nothing was queued
  3    this machine cannot run it as it is, or no engine can be started; the message says what to do
  130  interrupted: the operation goes on in the engine
"""
"""Epilog of a command that starts an operation."""

Start = Callable[[LearningClient], Awaitable[Operation]]
Show = Callable[[dict[str, JsonValue]], None]


def wait_option(default: bool = True) -> Callable[[Callable[..., object]], Callable[..., object]]:
    """`--wait/--no-wait`, as the parameter `wait`."""
    what = "Follow the operation to its end, with a progress bar on stderr."
    return click.option("--wait/--no-wait", default=default, show_default=True, help=what)


def run_operation(
    settings: Settings,
    start: Start,
    show: Show,
    *,
    wait: bool,
    as_json: bool,
    code_of: Callable[[dict[str, JsonValue]], int] = lambda _: ExitCode.OK,
) -> int:
    """Start an engine where none runs, start an operation, follow it, show its result; gives the exit code.

    Args:
        start: asks for the operation.
        show: prints the result for a person; with `as_json` the operation is printed whole instead.
        code_of: the exit code that a result means.

    Raises:
        RuneError: it was not taken, or the engine went away and stayed away.
    """
    ensure_engine(settings)
    operation = asyncio.run(_started(settings, start))
    if wait:
        operation = follow_operation(settings, operation)
    if as_json:
        echo_json(operation.model_dump(mode="json"))
    elif operation.state is RunState.SUCCEEDED and operation.result is not None:
        show(operation.result)
    elif not wait:
        click.echo(operation.id)
    return exit_code(operation) or code_of(operation.result or {})


def exit_code(operation: Operation) -> int:
    """0 unless the operation ended without a result; then its reason goes to stderr."""
    if operation.state not in FINAL_STATES or operation.state is RunState.SUCCEEDED:
        return ExitCode.OK
    said = f"rune-tui: {operation.id} is {operation.state.value}: {operation.reason}"
    click.echo(visible_line(said, MAX_REASON), err=True)
    return ExitCode.NOT_VERIFIED


def follow_operation(settings: Settings, operation: Operation) -> Operation:
    """Show how far it is until it has ended; gives it as it is then, whole.

    Raises:
        EngineUnreachableError: the engine went away and stayed away.
    """
    return asyncio.run(_followed(settings, operation.id))


async def _started(settings: Settings, start: Start) -> Operation:
    async with EngineClient(socket_path(settings.home)) as client:
        return await start(LearningClient(client))


async def _followed(settings: Settings, operation_id: str) -> Operation:
    async with EngineClient(socket_path(settings.home)) as client:
        click.echo(operation_id, err=True)
        try:
            with OperationBar(operation_id) as bar:
                return await watch(client, operation_id, bar)
        except asyncio.CancelledError:
            hint = f"{operation_id} goes on; `rune-tui operations follow {operation_id}` shows how far it is."
            click.echo(hint, err=True)
            raise


async def watch(client: EngineClient, operation_id: str, bar: OperationBar) -> Operation:
    """Tell the bar what becomes of the operation; gives it when it has ended."""
    learning = LearningClient(client)
    since = (await client.health()).last_sequence  # before the look: what changes during it comes as an event
    operation = await learning.operation(operation_id)
    bar.state(operation)
    if operation.state in FINAL_STATES:
        return operation
    events = cast("AsyncGenerator[Event]", client.events(since, chunks=False))
    async with aclosing(events):
        async for event in events:
            if event.subject != f"operation/{operation_id}":
                continue
            if "done" in event.payload:
                bar.step(OperationProgress.model_validate(event.payload))
                continue
            operation = await learning.operation(operation_id)
            bar.state(operation)
            if operation.state in FINAL_STATES:
                return operation
    raise AssertionError("the stream of events ends only with an error")


class OperationBar(Bar):
    """Of an operation."""

    def step(self, progress: OperationProgress) -> None:
        """It got on."""
        left = "" if progress.eta_seconds is None else f"{duration(progress.eta_seconds)} left"
        facts = ", ".join(part for part in (visible_line(progress.note, MAX_NOTE), left) if part)
        line = f"{progress.done}/{progress.total}{': ' if facts else ''}{facts}"
        self.show(progress.done, progress.total, facts, line)

    def state(self, operation: Operation) -> None:
        """It is elsewhere in its life."""
        self.word(operation.state.value)
        if operation.progress is not None:
            self.step(operation.progress)
