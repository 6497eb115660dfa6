"""What takes long, as a list to watch: how far each operation is, when it will be done, and what came of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Protocol

from textual import events, on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.screen import ModalScreen
from textual.signal import Signal

from engine.api_learning import Operation
from engine.api_models import RunState
from rune_tui.action_rules import RESUMABLE
from rune_tui.attach import plain_reason
from rune_tui.plain_text import plain_notify
from rune_tui.registry_state import OperationView
from rune_tui.state import State
from rune_tui.widgets.line import Line
from rune_tui.widgets.operation_rows import operation_rows, up_to_date
from rune_tui.widgets.row import Span, Tone
from rune_tui.widgets.rows import Rows, notice

NOTHING = "Nothing that takes long was asked for yet. I starts rounds of improvement."


class OperationDesk(Protocol):
    """What the screen asks for; `rune_tui.screens.learning` does it."""

    async def read(self) -> Mapping[str, Operation]:
        """The newest operations by id, newest first."""
        ...

    def show(self, operation: Operation) -> None:
        """Show all of it."""
        ...

    def cancel(self, operation: Operation) -> None:
        """Stop it, after asking."""
        ...

    def resume(self, operation: Operation) -> None:
        """Let it go on."""
        ...


class OperationsScreen(ModalScreen[None]):
    """A list that follows the events of the engine; an operation that is new is read with all the others."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,q", "leave", "Back"),
        Binding("c", "cancel", "Cancel"),
        Binding("r", "resume", "Resume"),
    ]
    AUTO_FOCUS = "#operation-list"

    def __init__(self, desk: OperationDesk, state: State, changed: Signal[State], selected: str = "") -> None:
        super().__init__()
        self._desk = desk
        self._changed = changed
        self._heard: Mapping[str, OperationView] = state.registry.operations
        self._known: Mapping[str, Operation] = {}
        self._loaded = False
        self._wanted = selected
        self._rows = Rows(id="operation-list")

    def compose(self) -> ComposeResult:
        """A title, the list, the keys."""
        with Vertical(classes="reader"):
            yield Line(Span(" Operations", Tone.STRONG), classes="pane-title")
            yield self._rows
            yield Line(Span(" Enter what came of it   c cancel   r resume   ↑↓ move   Esc back", Tone.DIM))

    def on_mount(self) -> None:
        """Read the list, and hear what happens from now on."""
        self._rows.show(notice("Loading ..."))
        self._changed.subscribe(self, self._hear)
        self._read()

    def _read(self) -> None:
        self.run_worker(self._fill(), group="load", exclusive=True, exit_on_error=False)

    async def _fill(self) -> None:
        try:
            self._known = await self._desk.read()
        except Exception as error:  # the end of this task: the screen says why there is nothing to watch
            self._rows.show(notice(plain_reason(error), Tone.BAD))
            return
        self._loaded = True
        self._draw()
        if self._wanted in self._known:
            self._rows.select(self._wanted)
            self._wanted = ""

    def _hear(self, state: State) -> None:
        heard = state.registry.operations
        if heard is self._heard:
            return
        new = heard.keys() - self._heard.keys() - self._known.keys()
        self._heard = heard
        if new:
            self._read()
        self._draw()

    def _draw(self) -> None:
        if not self._loaded:
            return
        shown = operation_rows(up_to_date(self._known, self._heard), self._rows.scrollable_content_region.width)
        self._rows.show(shown or notice(NOTHING))

    def on_resize(self, event: events.Resize) -> None:
        """Columns follow the width."""
        del event
        self.call_after_refresh(self._draw)

    @property
    def _selected(self) -> Operation | None:
        key = self._rows.cursor_key
        return next((one for one in up_to_date(self._known, self._heard) if one.id == key), None)

    @on(Rows.Chosen)
    def _on_chosen(self) -> None:
        if operation := self._selected:
            self._desk.show(operation)

    def action_cancel(self) -> None:
        """Stop the one under the cursor, if it can be."""
        operation = self._selected
        if operation is None:
            return
        if operation.state in (RunState.QUEUED, RunState.RUNNING):
            self._desk.cancel(operation)
        else:
            plain_notify(self.app, f"{operation.id} has already ended ({operation.state.value}).", "warning")

    def action_resume(self) -> None:
        """Let the one under the cursor go on, if it stopped before its end."""
        operation = self._selected
        if operation is None:
            return
        if operation.state in RESUMABLE:
            self._desk.resume(operation)
        else:
            said = f"{operation.id} is {operation.state.value}; only one that stopped before its end can be resumed."
            plain_notify(self.app, said, "warning")

    def action_leave(self) -> None:
        """Back to the panes; the operations go on."""
        self.dismiss(None)
