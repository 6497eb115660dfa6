"""The only place where foreign text becomes something that the terminal app draws.

Model output, prompts, paths, adapter names and error messages come from strangers. Handed to a widget as they are
they crash it: `[/foo]` is bad markup. So: `terminal_text.clean` takes away everything that is not plain visible text,
`PlainStatic` and `plain_notify` show the rest without markup, and a lint test keeps every other module from handing
text to a widget by itself.
"""

from __future__ import annotations

from typing import Literal

from rich.text import Text
from textual import events
from textual.app import App
from textual.content import Content
from textual.widgets import Input, Static, TextArea

from rune_tui.terminal_text import MAX_TEXT_CHARS, clean, clean_line

MAX_NOTICE_CHARS = 300
"""A notification is cut here: more would cover the screen."""

MAX_LABEL_CHARS = 60
"""A button's label is cut here."""


def plain(text: str, style: str = "") -> Text:
    """Foreign text as a renderable, without markup."""
    return Text(clean(text), style=style, no_wrap=False)


def plain_label(text: str) -> Content:
    """Foreign text for a button: one line, without markup."""
    return Content(clean_line(text, max_line=MAX_LABEL_CHARS))


class PlainStatic(Static):
    """A block of foreign text: cleaned, never markup."""

    def __init__(self, text: str = "", *, id: str | None = None, classes: str | None = None) -> None:
        super().__init__(plain(text), markup=False, id=id, classes=classes)

    def show(self, text: str) -> None:
        """Replace the text."""
        self.update(plain(text))


class PlainInput(Input):
    """A line to type in; what is pasted is cleaned first."""

    def _on_paste(self, event: events.Paste) -> None:
        event.text = clean(event.text)  # Textual calls the base class's handler after this one


class PlainTextArea(TextArea):
    """A text to type in; what is pasted is cleaned first."""

    async def _on_paste(self, event: events.Paste) -> None:
        event.text = clean(event.text, max_line=MAX_TEXT_CHARS)  # the base class's handler follows


def plain_notify(
    app: App[None], text: str, severity: Literal["information", "warning", "error"] = "information"
) -> None:
    """A notification of foreign text: one short line, never markup."""
    app.notify(clean_line(text, max_line=MAX_NOTICE_CHARS), severity=severity, markup=False)
