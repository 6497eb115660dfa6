"""One of the four panes: a title line and what is under it. Collapsed, only the title line is left."""

from __future__ import annotations

from textual import events
from textual.app import ComposeResult
from textual.containers import Vertical
from textual.message import Message
from textual.widget import Widget

from rune_tui.widgets.line import Line
from rune_tui.widgets.row import Span, Tone


class Pane(Vertical):
    """A titled part of the screen; `-collapsed` hides its body, `-active` marks the one with the keys."""

    class Wanted(Message):
        """Its title was clicked."""

        def __init__(self, pane: Pane) -> None:
            super().__init__()
            self.pane = pane

    def __init__(self, key: str, title: str, *body: Widget, id: str) -> None:
        super().__init__(id=id)
        self._key = key
        self._title = title
        self._summary = ""
        self._body = body
        for part in body:
            part.add_class("pane-part")
        self._line = Line(classes="pane-title")

    def compose(self) -> ComposeResult:
        """Title and body."""
        yield self._line
        yield from self._body  # in no box of their own: Textual draws each box beneath them at each change

    def on_mount(self) -> None:
        """Draw the title."""
        self._draw()

    def summarise(self, text: str) -> None:
        """What the title says of the content; all that a collapsed pane shows."""
        if text != self._summary:
            self._summary = text
            self._draw()

    def mark(self, *, active: bool, collapsed: bool) -> None:
        """Which pane has the keys, and whether only its title is shown."""
        if active is not self.has_class("-active") or collapsed is not self.has_class("-collapsed"):
            self.set_class(active, "-active").set_class(collapsed, "-collapsed")
            self._draw()

    def _draw(self) -> None:
        arrow = "▸" if self.has_class("-collapsed") else "▾"
        tone = Tone.ACCENT if self.has_class("-active") else Tone.STRONG
        self._line.show((Span(f"{arrow} {self._key} {self._title}", tone), Span(f"  {self._summary}", Tone.DIM)))

    def on_click(self, event: events.Click) -> None:
        """A click on the title goes to the pane."""
        if event.widget is self._line:
            self.post_message(self.Wanted(self))
