"""A full-screen text to read: the details of a session or an adapter, the help."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.screen import ModalScreen

from rune_tui.attach import plain_reason
from rune_tui.widgets.line import Line
from rune_tui.widgets.row import Row, Span, Tone
from rune_tui.widgets.rows import Rows, notice

Load = Callable[[], Awaitable[Sequence[Row]]]


class ReaderScreen(ModalScreen[None]):
    """Rows that are loaded when it opens: says that it loads, and why it cannot."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,q", "leave", "Back"),
        Binding("right_square_bracket", "section(1)", "Next section", key_display="]"),
        Binding("left_square_bracket", "section(-1)", "Previous section", key_display="["),
    ]

    def __init__(self, title: str, load: Load) -> None:
        super().__init__()
        self._title = title
        self._load = load
        self._rows = Rows(id="reader", text=True, follow=False)

    def compose(self) -> ComposeResult:
        """A title, the text, the keys."""
        with Vertical(classes="reader"):
            yield Line(Span(f" {self._title}", Tone.STRONG), classes="pane-title")
            yield self._rows
            yield Line(Span(" Esc back   ↑↓ PgUp PgDn Home End scroll   [ ] section", Tone.DIM))

    def on_mount(self) -> None:
        """Start loading."""
        self._rows.show(notice("Loading ..."))
        self._rows.focus()
        self.run_worker(self._fill(), group="load", exclusive=True, exit_on_error=False)

    async def _fill(self) -> None:
        try:
            rows = await self._load()
        except Exception as error:  # the end of this task: the screen says why there is nothing to read
            self._rows.show(notice(plain_reason(error), Tone.BAD))
            return
        self._rows.show(rows)

    def action_section(self, step: int) -> None:
        """Go to the next or the previous row that begins a section."""
        self._rows.move_section(step)

    def action_leave(self) -> None:
        """Back to the panes."""
        self.dismiss(None)
