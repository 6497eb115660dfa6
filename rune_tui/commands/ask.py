"""One question to the running engine, from a command that prints the answer."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

import click

from engine.errors import EnvironmentUnfitError, NotFoundError
from engine.home import socket_path
from rune_tui.client import EngineClient
from rune_tui.settings import Settings

T = TypeVar("T")

JSON_OPTION = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


def ask(settings: Settings, question: Callable[[EngineClient], Awaitable[T]]) -> T:
    """Put the question and wait for the answer.

    Raises:
        RuneError: what the engine answered, or that none answers.
    """

    async def asking() -> T:
        async with EngineClient(socket_path(settings.home)) as client:
            return await question(client)

    return asyncio.run(asking())


def ask_device(settings: Settings, question: Callable[[EngineClient], Awaitable[T]]) -> T:
    """A question about the device.

    Raises:
        EnvironmentUnfitError: the engine is older than this program and has no such route.
        RuneError: see `ask`.
    """
    try:
        return ask(settings, question)
    except NotFoundError as error:
        raise EnvironmentUnfitError(
            "This engine says nothing of its device: it is older than this program. "
            "Stop it with `rune-tui engine stop`, then start it again."
        ) from error
