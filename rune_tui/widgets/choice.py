"""A radio button whose state is a shape, not only a colour."""

from __future__ import annotations

from textual.widgets import RadioButton

CHOSEN, OTHER = "●", " "


class Choice(RadioButton):
    """One of several; empty unless chosen."""

    def on_mount(self) -> None:
        """The initial value is not watched."""
        self._draw_mark()

    def watch_value(self) -> None:
        """Tell the RadioSet as Textual's own button does, and change the mark."""
        self._draw_mark()
        super().watch_value()

    def _draw_mark(self) -> None:
        setattr(self, "BUTTON_INNER", CHOSEN if self.value else OTHER)  # noqa: B010 - Textual reads it as a constant
        self.refresh()
