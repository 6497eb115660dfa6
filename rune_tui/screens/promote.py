"""A promotion: what it rests on is shown before anything can be said to it.

case is read ──► no objection ── Promote ──────────────────► closes with the request
            └──► objections ──── Promote anyway ── asked ──► closes with the request, forced
                            └─── Measure ──────────────────► closes with the wish for evidence
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import ClassVar

from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical
from textual.screen import ModalScreen
from textual.widgets import Button

from engine.api_evolution import PromoteRequest, PromotionCase
from rune_tui.attach import plain_reason
from rune_tui.plain_text import PlainStatic, plain_label
from rune_tui.promotion_text import Weight, case_lines
from rune_tui.screens.confirm import ConfirmScreen
from rune_tui.widgets.row import Row, Tone, row
from rune_tui.widgets.rows import Rows, notice

Load = Callable[[], Awaitable[PromotionCase]]

_TONES = {
    Weight.PLAIN: Tone.PLAIN,
    Weight.HEADING: Tone.STRONG,
    Weight.GOOD: Tone.GOOD,
    Weight.WARN: Tone.WARN,
    Weight.BAD: Tone.BAD,
}


@dataclass(frozen=True)
class Measure:
    """The wish for evidence about a promotion, instead of the promotion."""

    case: PromotionCase


def case_rows(case: PromotionCase) -> list[Row]:
    """The case as rows."""
    return [row(text, _TONES[weight]) for text, weight in case_lines(case)]


class PromoteScreen(ModalScreen[PromoteRequest | Measure | None]):
    """Evidence over three answers. Back has the focus, so that an Enter held down too long promotes nothing."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "leave", "Back"),
        Binding("left,right", "app.focus_next", "Other answer", show=False),
        Binding("up,k", "scroll(-1)", "Up", show=False),
        Binding("down,j", "scroll(1)", "Down", show=False),
    ]
    AUTO_FOCUS = "#no"

    def __init__(self, adapter_id: str, load: Load) -> None:
        super().__init__()
        self._adapter_id = adapter_id
        self._load = load
        self._case: PromotionCase | None = None
        self._rows = Rows(id="case", text=True, follow=False)
        self._rows.can_focus = False

    def compose(self) -> ComposeResult:
        """The case over its answers; there is no yes before the case is there."""
        with Vertical(classes="dialog"):
            yield PlainStatic(f"Promote {self._adapter_id}: what it rests on   ↑↓ scroll", classes="label")
            yield self._rows
            with Horizontal(classes="buttons"):
                yield Button("Back", id="no", compact=True)
                yield Button("Measure", id="measure", compact=True, disabled=True)
                yield Button("Promote", id="yes", variant="primary", compact=True, disabled=True)

    def on_mount(self) -> None:
        """Ask the engine."""
        self._rows.show(notice("The engine looks for evidence ..."))
        self.run_worker(self._fill(), group="load", exclusive=True, exit_on_error=False)

    async def _fill(self) -> None:
        try:
            case = await self._load()
        except Exception as error:  # the end of this task: the dialog says why nothing can be promoted
            self._rows.show(notice(plain_reason(error), Tone.BAD))
            return
        self._case = case
        self._rows.show(case_rows(case))
        yes = self.query_one("#yes", Button)
        if case.objections:
            yes.label, yes.variant = plain_label("Promote anyway"), "error"
        yes.disabled = False
        self.query_one("#measure", Button).disabled = False

    def action_scroll(self, step: int) -> None:
        """Scroll the case; the answers keep the focus."""
        self._rows.action_move(step)

    @on(Button.Pressed, "#yes")
    def _on_yes(self) -> None:
        case = self._case
        assert case is not None, "the button is disabled until the case is there"
        if not case.objections:
            self.dismiss(_request(case, force=False))
            return

        def force(yes: bool | None) -> None:
            if yes:
                self.dismiss(_request(case, force=True))

        question = (
            f"Promote {case.adapter_id} to {case.to_tier} against this? {case.objections[0]} It is recorded as forced."
        )
        self.app.push_screen(ConfirmScreen(question, "Force it", "Leave it"), force)

    @on(Button.Pressed, "#measure")
    def _on_measure(self) -> None:
        assert self._case is not None, "the button is disabled until the case is there"
        self.dismiss(Measure(self._case))

    @on(Button.Pressed, "#no")
    def action_leave(self) -> None:
        """Close without a promotion."""
        self.dismiss(None)


def _request(case: PromotionCase, *, force: bool) -> PromoteRequest:
    # What was shown is what is asked for: the engine refuses if the evidence no longer fits when it decides.
    return PromoteRequest(adapter_id=case.adapter_id, to_tier=case.to_tier, evidence=case.operation, force=force)
