"""Reads the terminal app's screen as lines of text, and waits for what a test expects of it."""

from __future__ import annotations

import asyncio
import unicodedata
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from support.fake_registry import FakeRegistry
from textual.app import App
from textual.pilot import Pilot

from rune_tui.app import RuneApp
from rune_tui.attach import EnginePort

SIZES = ((80, 24), (120, 40), (200, 60))
DEADLINE_S = 90.0
"""Generous: a loaded machine is no failure."""


def lines(app: App[Any]) -> list[str]:
    """What is on the screen, right-trimmed."""
    strips = app.screen._compositor.render_strips()  # pyright: ignore[reportPrivateUsage]
    return ["".join(segment.text for segment in strip).rstrip() for strip in strips]


def picture(app: App[Any]) -> str:
    return "\n".join(lines(app))


def raw_controls(app: App[Any]) -> list[str]:
    """Characters on the screen that could drive a terminal or hide something."""
    hidden = {"Cc", "Cf", "Cs", "Zl", "Zp"}
    return [char for char in set("".join(lines(app))) if unicodedata.category(char) in hidden]


async def until(pilot: Pilot[Any], condition: Callable[[], object]) -> None:
    """Let the app run until the condition holds.

    Raises:
        AssertionError: it did not within the deadline; shows the screen.
    """
    try:
        async with asyncio.timeout(DEADLINE_S):
            while not condition():
                await pilot.pause(0.02)
    except TimeoutError:
        raise AssertionError(f"never came true on this screen:\n{picture(pilot.app)}") from None


async def shows(pilot: Pilot[Any], text: str) -> None:
    """Wait until the text is on the screen."""
    await until(pilot, lambda: text in picture(pilot.app))


@asynccontextmanager
async def attached(
    engine: EnginePort, size: tuple[int, int] = (80, 24), **options: Any
) -> AsyncGenerator[tuple[RuneApp, Pilot[None]], None]:
    """The app on that engine, attached and drawn."""
    options.setdefault("export_directory", Path("/nonexistent"))
    if isinstance(engine, FakeRegistry):
        options.setdefault("registry", engine)
    app = RuneApp(engine, refresh_hz=100, **options)
    async with app.run_test(size=size, notifications=True) as pilot:
        await until(pilot, lambda: app.state.loaded or app.state.link.reason)
        await pilot.pause()
        yield app, pilot
