"""Asks how and where a session's log is written."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical
from textual.screen import ModalScreen
from textual.widgets import Button, Input, RadioSet

from engine.api_models import Trajectory
from engine.errors import InputError
from rune_tui.atomic_file import write_atomically
from rune_tui.export import ATTEMPT_COLUMNS, Format, attempt_rows, csv_header, csv_rows, jsonl, run_card
from rune_tui.plain_text import PlainInput, PlainStatic
from rune_tui.widgets.choice import Choice


@dataclass(frozen=True)
class ExportChoice:
    """A format and a file."""

    format: Format
    path: Path


class ExportScreen(ModalScreen[ExportChoice | None]):
    """Format and file name; refuses to replace a file."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "leave", "Back"),
        Binding("ctrl+s", "write", "Write", priority=True),
    ]
    AUTO_FOCUS = "#path"

    def __init__(self, session_id: str, directory: Path) -> None:
        super().__init__()
        self._session_id = session_id
        self._directory = directory

    def compose(self) -> ComposeResult:
        """Format, file, answers."""
        with Vertical(classes="dialog"):
            yield PlainStatic(f"Export the log of {self._session_id}", classes="label")
            with RadioSet(id="format"):
                yield Choice("JSON Lines", value=True, id="jsonl", compact=True)
                yield Choice("CSV", id="csv", compact=True)
                yield Choice("Markdown", id="md", compact=True)
            yield PlainStatic("File", classes="label")
            yield PlainInput(value=str(self._path(Format.JSONL)), id="path")
            yield PlainStatic("", id="error", classes="error")
            with Horizontal(classes="buttons"):
                yield Button("Back", id="back", compact=True)
                yield Button("Write  ^s", id="write", variant="primary", compact=True)

    def _path(self, name: Format) -> Path:
        return self._directory / f"{self._session_id}.{name}"

    def _format(self) -> Format:
        return next(name for name in Format if self.query_one(f"#{name}", Choice).value)

    @on(RadioSet.Changed)
    def _on_format(self) -> None:
        field = self.query_one("#path", PlainInput)
        if field.value in {str(self._path(name)) for name in Format}:
            field.value = str(self._path(self._format()))

    @on(Button.Pressed, "#write")
    @on(Input.Submitted)
    def action_write(self) -> None:
        """Close with the choice when it can be written."""
        self.run_worker(self._check(), group="check", exclusive=True, exit_on_error=False)

    async def _check(self) -> None:
        text = self.query_one("#path", PlainInput).value.strip()
        try:
            path = await asyncio.to_thread(_checked, text)
        except InputError as error:
            self.query_one("#error", PlainStatic).show(str(error))
            return
        self.dismiss(ExportChoice(self._format(), path))

    @on(Button.Pressed, "#back")
    def action_leave(self) -> None:
        """Close without writing."""
        self.dismiss(None)


def _checked(text: str) -> Path:
    """The file to write.

    Raises:
        InputError: it cannot be, and why.
    """
    if not text:
        raise InputError("Give the name of a file.")
    path = Path(text).expanduser()
    try:
        if path.exists():
            raise InputError(f"{path} is already there; give another name.")
        if not path.parent.is_dir():
            raise InputError(f"The folder {path.parent} is not there.")
    except (OSError, ValueError) as error:
        raise InputError(f"{path} is not a name for a file.") from error
    return path


def write_log(trajectory: Trajectory, choice: ExportChoice) -> None:
    """Write the attempts of a session: the file is there whole or not at all. Blocks; call it off the event loop.

    Raises:
        OSError: the folder is not writable or full.
    """
    match choice.format:
        case Format.JSONL:
            text = "".join(jsonl(attempt_rows(trajectory)))
        case Format.CSV:
            text = csv_header(ATTEMPT_COLUMNS) + "".join(csv_rows(attempt_rows(trajectory), ATTEMPT_COLUMNS))
        case Format.MARKDOWN:
            text = run_card(trajectory)
    write_atomically(choice.path, text)
