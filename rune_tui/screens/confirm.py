"""Asks before something is stopped. Cancel has the focus, so that an Enter held down a moment too long does nothing."""

from __future__ import annotations

from typing import ClassVar

from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical
from textual.screen import ModalScreen
from textual.widgets import Button

from rune_tui.plain_text import PlainStatic, plain_label


class ConfirmScreen(ModalScreen[bool]):
    """One question, two answers."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "answer(False)", "Back"),
        Binding("left,right", "app.focus_next", "Other answer", show=False),
    ]
    AUTO_FOCUS = "#no"

    def __init__(self, question: str, yes: str, no: str = "Back") -> None:
        super().__init__()
        self._question = question
        self._yes = yes
        self._no = no

    def compose(self) -> ComposeResult:
        """The question over its two answers."""
        with Vertical(classes="dialog"):
            yield PlainStatic(self._question)
            with Horizontal(classes="buttons"):
                yield Button(plain_label(self._no), id="no", compact=True)
                yield Button(plain_label(self._yes), id="yes", variant="error", compact=True)

    @on(Button.Pressed, "#yes")
    def _on_yes(self) -> None:
        self.dismiss(True)

    @on(Button.Pressed, "#no")
    def _on_no(self) -> None:
        self.dismiss(False)

    def action_answer(self, answer: bool) -> None:
        """Close with that answer."""
        self.dismiss(answer)
