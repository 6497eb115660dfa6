"""Where an export goes: a file that appears whole, or stdout."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path

import click

from engine.errors import EnvironmentUnfitError
from rune_tui.atomic_file import atomic_writer
from rune_tui.batch_output import check_file_destination
from rune_tui.terminal_text import visible

Write = Callable[[str], object]


@contextmanager
def open_sink(path: Path | None, option: str = "--output") -> Generator[Write]:
    """A function that takes the text piece by piece.

    A terminal gets no control character of foreign text; files and pipes get every byte.

    Args:
        option: that named the file; errors begin with it.

    Raises:
        InputError: the file cannot be written there.
        EnvironmentUnfitError: the disk is full, or the directory has gone.
    """
    if path is None:
        terminal = sys.stdout.isatty()
        yield lambda text: click.echo(visible(text) if terminal else text.encode("utf-8", "replace"), nl=False)
        return
    check_file_destination(option, path)
    try:
        with atomic_writer(path) as write:
            yield write
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else str(error)
        raise EnvironmentUnfitError(f"{option} {path}: not written: {reason.lower()}.") from error
