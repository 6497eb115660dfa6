"""Chooses the suite that something is measured on."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import ClassVar

from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.screen import ModalScreen

from engine.api_learning import SuiteInfo
from rune_tui.attach import plain_reason
from rune_tui.plain_text import PlainStatic
from rune_tui.widgets.line import Line
from rune_tui.widgets.row import Row, Span, Tone
from rune_tui.widgets.rows import Rows, notice

Load = Callable[[], Awaitable[Sequence[SuiteInfo]]]


def suite_rows(suites: Sequence[SuiteInfo]) -> list[Row]:
    """A row for each: name, tasks of the deciding split, title."""
    return [
        Row(
            (
                Span(f" {suite.name:<16}", Tone.STRONG),
                Span(f"{suite.task_type:<12} {sum(suite.counts.values()):>5} tasks  "),
                Span(suite.title, Tone.DIM),
            ),
            suite.name,
        )
        for suite in suites
    ]


class SuiteScreen(ModalScreen[str | None]):
    """A list; closes with the name of a suite, or with None."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape,q", "leave", "Back")]

    def __init__(self, question: str, load: Load) -> None:
        super().__init__()
        self._question = question
        self._load = load
        self._rows = Rows(id="suite-list")

    def compose(self) -> ComposeResult:
        """The list over its keys."""
        with Vertical(classes="dialog"):
            yield PlainStatic(self._question, classes="label")
            yield self._rows
            yield Line(Span(" Enter choose   ↑↓ move   Esc back", Tone.DIM))

    def on_mount(self) -> None:
        """Ask the engine what there is."""
        self._rows.show(notice("Loading ..."))
        self._rows.focus()
        self.run_worker(self._fill(), group="load", exclusive=True, exit_on_error=False)

    async def _fill(self) -> None:
        try:
            suites = await self._load()
        except Exception as error:  # the end of this task: the dialog says why there is nothing to choose
            self._rows.show(notice(plain_reason(error), Tone.BAD))
            return
        self._rows.show(suite_rows(suites) or notice("No suite. `rune-tui suite add` takes one into the home."))

    @on(Rows.Chosen)
    def _on_chosen(self, message: Rows.Chosen) -> None:
        self.dismiss(message.key)

    def action_leave(self) -> None:
        """Close without a choice."""
        self.dismiss(None)
