"""`rune-tui` without a command: the terminal app, on an engine that outlives it."""

from __future__ import annotations

import sys

from engine.errors import EnvironmentUnfitError
from engine.home import socket_path
from rune_tui.commands.engine import ensure_engine
from rune_tui.settings import Settings


def open_terminal(settings: Settings) -> int:
    """Start an engine in the background when none answers, then show the app until the user quits.

    Raises:
        EnvironmentUnfitError: this is no terminal, or no engine can be started.
        InputError: see `ensure_engine`.
    """
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise EnvironmentUnfitError(
            "The terminal app needs a terminal; use `rune-tui --batch FILE` without one, or `rune-tui --help`."
        )
    ensure_engine(settings)
    from rune_tui.app import run

    return run(settings.home, socket_path(settings.home), settings.overrides)
