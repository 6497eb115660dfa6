"""The form of `improve`: from which suite, in how many rounds, by which recipe."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import ClassVar

from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical
from textual.screen import ModalScreen
from textual.widgets import Button, Input, RadioSet

from engine.api_evolution import ImproveRequest
from engine.api_learning import SuiteInfo
from engine.errors import InputError
from rune_tui.attach import plain_reason
from rune_tui.improve_form import REHEARSED, ImproveForm, read_improve_form, teaching
from rune_tui.plain_text import PlainInput, PlainStatic
from rune_tui.screens.suite import suite_rows
from rune_tui.widgets.choice import Choice
from rune_tui.widgets.row import Tone
from rune_tui.widgets.rows import Rows, notice

Load = Callable[[], Awaitable[Sequence[SuiteInfo]]]


class ImproveScreen(ModalScreen[ImproveRequest | None]):
    """Takes the suite under the cursor and the fields; closes with a request, or with None.

    Enter on a suite goes on to the fields, so that one held down too long starts nothing.
    """

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "leave", "Back"),
        Binding("ctrl+s", "improve", "Improve", priority=True),
    ]
    AUTO_FOCUS = "#teaching"

    def __init__(self, load: Load) -> None:
        super().__init__()
        self._load = load
        self._rows = Rows(id="teaching")

    def compose(self) -> ComposeResult:
        """Everything fits on 80x24."""
        with Vertical(classes="dialog"):
            yield PlainStatic("Run, learn, prove, promote: from which suite?   ↑↓   Tab goes on", classes="label")
            yield self._rows
            yield PlainStatic("Rounds; each begins with what the last one put to use", classes="label")
            yield PlainInput("1", id="rounds")
            yield PlainStatic("Preset of config.toml: standard, quick, small, thorough, or your own", classes="label")
            yield PlainInput("standard", id="preset")
            yield PlainStatic("Tasks of one round; empty: all that the suite teaches", classes="label")
            yield PlainInput(id="limit")
            yield PlainStatic("Suites whose requests are answered as before; empty: none", classes="label")
            yield PlainInput(REHEARSED, id="rehearse")
            yield PlainStatic("What the model cannot solve", classes="label")
            with RadioSet(id="explore"):
                yield Choice("the explorer searches for", value=True, id="search", compact=True)
                yield Choice("is left out", id="leave", compact=True)
            yield PlainStatic("", id="error", classes="error")
            with Horizontal(classes="buttons"):
                yield Button("Back", id="back", compact=True)
                yield Button("Improve  ^s", id="improve", variant="primary", compact=True)

    def on_mount(self) -> None:
        """Ask the engine what there is to learn from."""
        self._rows.show(notice("Loading ..."))
        self.run_worker(self._fill(), group="load", exclusive=True, exit_on_error=False)

    async def _fill(self) -> None:
        try:
            suites = await self._load()
        except Exception as error:  # the end of this task: the dialog says why there is nothing to learn from
            self._rows.show(notice(plain_reason(error), Tone.BAD))
            return
        self._rows.show(suite_rows(teaching(suites)) or notice("No suite has both a train and a gate split."))

    @on(Rows.Chosen)
    def _on_chosen(self) -> None:
        self.set_focus(self.query_one("#rounds", PlainInput))

    @property
    def form(self) -> ImproveForm:
        """What is under the cursor and typed in now."""
        return ImproveForm(
            suite=self._rows.cursor_key,
            rounds=self._text("rounds"),
            preset=self._text("preset"),
            limit=self._text("limit"),
            rehearse=self._text("rehearse"),
            explore=self.query_one("#search", Choice).value,
        )

    def _text(self, name: str) -> str:
        return self.query_one(f"#{name}", PlainInput).value

    @on(Button.Pressed, "#improve")
    @on(Input.Submitted)
    def action_improve(self) -> None:
        """Check what was typed; close with it."""
        try:
            request = read_improve_form(self.form)
        except InputError as error:
            self.query_one("#error", PlainStatic).show(str(error))
            return
        self.dismiss(request)

    @on(Button.Pressed, "#back")
    def action_leave(self) -> None:
        """Close without a request."""
        self.dismiss(None)
