"""Chooses what serves the model: each backend with what it cannot do, or why it cannot be used, before it is tried."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import ClassVar

from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.screen import ModalScreen

from engine.api_device import BackendInfo, BackendName
from rune_tui.attach import plain_reason
from rune_tui.device_state import Workshop, switched_to
from rune_tui.plain_text import PlainStatic
from rune_tui.screens.confirm import ConfirmScreen
from rune_tui.widgets.device_rows import backend_rows, switch_question
from rune_tui.widgets.line import Line
from rune_tui.widgets.row import Span, Tone
from rune_tui.widgets.rows import Rows, notice

Load = Callable[[], Awaitable[tuple[BackendInfo, ...]]]


class BackendScreen(ModalScreen[BackendName | None]):
    """A list; closes with the backend that the user confirmed, or with None."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape,q", "leave", "Back")]

    def __init__(self, workshop: Workshop, load: Load) -> None:
        super().__init__()
        self._workshop = workshop
        self._load = load
        self._found: dict[str, BackendInfo] = {}
        self._rows = Rows(id="backend-list")

    def compose(self) -> ComposeResult:
        """The list over its keys."""
        with Vertical(classes="dialog"):
            yield PlainStatic("What shall serve the model?", classes="label")
            yield self._rows
            yield PlainStatic("", id="error", classes="error")
            yield Line(Span(" Enter choose   ↑↓ move   Esc back", Tone.DIM))

    def on_mount(self) -> None:
        """Ask the engine what there is."""
        self._rows.show(notice("Loading ..."))
        self._rows.focus()
        self.run_worker(self._fill(), group="load", exclusive=True, exit_on_error=False)

    async def _fill(self) -> None:
        try:
            backends = await self._load()
        except Exception as error:  # the end of this task: the dialog says why there is nothing to choose
            self._rows.show(notice(plain_reason(error), Tone.BAD))
            return
        self._found = {str(info.name): info for info in backends}
        self._rows.show(backend_rows(self._workshop, backends))

    @on(Rows.Highlighted)
    def _on_highlighted(self, message: Rows.Highlighted) -> None:
        info = self._found.get(message.key)
        self.query_one("#error", PlainStatic).show(self._refusal(info) if info is not None else "")

    def _refusal(self, info: BackendInfo) -> str:
        if switched_to(self._workshop, info.name):
            return ""
        return "" if info.available else f"{info.name}: {info.reason}"

    @on(Rows.Chosen)
    def _on_chosen(self, message: Rows.Chosen) -> None:
        info = self._found[message.key]
        if switched_to(self._workshop, info.name):
            self.dismiss(None)
            return
        if not info.available:
            self.query_one("#error", PlainStatic).show(f"{info.name} cannot be used: {info.reason}")
            return

        def switch(yes: bool | None) -> None:
            if yes:
                self.dismiss(info.name)

        question = switch_question(self._workshop, info)
        self.app.push_screen(ConfirmScreen(question, f"Use {info.name}", "Stay"), switch)

    def action_leave(self) -> None:
        """Close without a choice."""
        self.dismiss(None)
