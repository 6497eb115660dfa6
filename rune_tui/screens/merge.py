"""The form of a merge: which adapters, and by which rule."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical
from textual.screen import ModalScreen
from textual.widgets import Button, Input

from engine.api_evolution import MergeMethod, MergeRequest
from engine.api_models import AdapterRecord
from engine.errors import InputError
from rune_tui.merge_form import METHODS, MergeForm, read_merge_form
from rune_tui.plain_text import PlainInput, PlainStatic
from rune_tui.widgets.row import Row, Span, Tone
from rune_tui.widgets.rows import Rows

MAX_CANDIDATES = 500
"""Adapters offered; `rune-tui merge` takes any."""


def candidates(selected: AdapterRecord, adapters: Sequence[AdapterRecord]) -> list[AdapterRecord]:
    """The selected one, then what it can be merged with: of the same base, those of its task type and fittest first."""
    others = [
        other
        for other in adapters
        if other.base_model_id == selected.base_model_id
        and other.id != selected.id
        and not (other.is_archived or other.is_quarantined)
    ]
    others.sort(key=lambda one: (one.task_type != selected.task_type, -(one.fitness_score or 0.0), one.id))
    return [selected, *others][:MAX_CANDIDATES]


def candidate_rows(adapters: Sequence[AdapterRecord], chosen: Sequence[str]) -> list[Row]:
    """A row for each; those that are chosen carry their place in the merge."""
    rows: list[Row] = []
    for adapter in adapters:
        place = f"{chosen.index(adapter.id) + 1}." if adapter.id in chosen else "  "
        fitness = "not measured" if adapter.fitness_score is None else f"fitness {adapter.fitness_score:.3f}"
        tone = Tone.STRONG if adapter.id in chosen else Tone.PLAIN
        about = Span(f"  {adapter.task_type}, rank {adapter.rank}, {fitness}", Tone.DIM)
        rows.append(Row((Span(f" {place} {adapter.id}", tone), about), adapter.id))
    return rows


class MergeScreen(ModalScreen[MergeRequest | None]):
    """Marks adapters and takes the rule; closes with a request, or with None."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "leave", "Back"),
        Binding("ctrl+s", "merge", "Merge", priority=True),
    ]
    AUTO_FOCUS = "#candidates"

    def __init__(self, selected: AdapterRecord, adapters: Sequence[AdapterRecord]) -> None:
        super().__init__()
        self._adapters = candidates(selected, adapters)
        self._chosen = [selected.id]
        self._rows = Rows(id="candidates")

    def compose(self) -> ComposeResult:
        """Everything fits on 80x24."""
        with Vertical(classes="dialog"):
            yield PlainStatic("Merge which adapters?   Enter marks and unmarks   Tab goes on", classes="label")
            yield self._rows
            yield PlainStatic(f"Method: {METHODS}", classes="label")
            yield PlainInput(MergeMethod.TIES.value, id="method")
            yield PlainStatic("Density: share kept by ties and dare; empty: 0.5", classes="label")
            yield PlainInput(id="density")
            yield PlainStatic("Weights, one for each; empty: equal", classes="label")
            yield PlainInput(id="weights")
            yield PlainStatic("Rank; empty: the highest of them", classes="label")
            yield PlainInput(id="rank")
            yield PlainStatic("Suite: cat-learned learns on its train split", classes="label")
            yield PlainInput(id="suite")
            yield PlainStatic("Name of the new adapter; empty: one is made up", classes="label")
            yield PlainInput(id="name")
            yield PlainStatic("", id="error", classes="error")
            with Horizontal(classes="buttons"):
                yield Button("Back", id="back", compact=True)
                yield Button("Merge  ^s", id="merge", variant="primary", compact=True)

    def on_mount(self) -> None:
        """The list."""
        self._rows.show(candidate_rows(self._adapters, self._chosen))

    @on(Rows.Chosen)
    def _on_marked(self, message: Rows.Chosen) -> None:
        if message.key in self._chosen:
            self._chosen.remove(message.key)
        else:
            self._chosen.append(message.key)
        self._rows.show(candidate_rows(self._adapters, self._chosen))

    @property
    def form(self) -> MergeForm:
        """What is marked and typed in now."""
        return MergeForm(
            adapters=tuple(self._chosen),
            method=self._text("method"),
            density=self._text("density"),
            weights=self._text("weights"),
            rank=self._text("rank"),
            adapter_id=self._text("name"),
            suite=self._text("suite"),
        )

    def _text(self, name: str) -> str:
        return self.query_one(f"#{name}", PlainInput).value

    @on(Button.Pressed, "#merge")
    @on(Input.Submitted)
    def action_merge(self) -> None:
        """Check what was typed; close with it."""
        try:
            request = read_merge_form(self.form)
        except InputError as error:
            self.query_one("#error", PlainStatic).show(str(error))
            return
        self.dismiss(request)

    @on(Button.Pressed, "#back")
    def action_leave(self) -> None:
        """Close without a request."""
        self.dismiss(None)
