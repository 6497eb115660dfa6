"""The screen of four panes. It draws the state it is given and says which action or row the user wants."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from operator import is_
from typing import ClassVar

from textual import events, on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical
from textual.message import Message
from textual.screen import Screen
from textual.widgets import Footer

from rune_tui.actions import ACTIONS, ADAPTERS_PANE, BY_ID, TRAINING_PANE, Action
from rune_tui.compositor import ThriftyCompositor
from rune_tui.state import LinkState, State, only_output_differs
from rune_tui.widgets.adapter_rows import TIER_KEY, adapter_rows, adapter_summary
from rune_tui.widgets.device_rows import device_spans
from rune_tui.widgets.job_rows import job_activity, job_heading, job_rows, job_summary
from rune_tui.widgets.line import Line
from rune_tui.widgets.lineage import lineage_rows
from rune_tui.widgets.pane import Pane
from rune_tui.widgets.row import Row, Tone
from rune_tui.widgets.rows import Rows, notice
from rune_tui.widgets.session_rows import activity_spans, heading_row, output_rows, session_rows, summary
from rune_tui.widgets.status import status_spans, title_spans

SIDE_BY_SIDE_COLUMNS = 100
"""Narrower than this, one pane is open and the others are title lines."""

SIDE_BY_SIDE_LINES = 20
"""Lower than this, likewise: three panes above each other would have two rows each."""

NO_SESSIONS = "No task yet. Press n to give the model one."
NO_ADAPTERS = "No adapter yet. `rune-tui adapters import` takes one into the registry."
NO_TRAINING = "No training job. Press t to queue one; it shows what that would take before it asks."
CANNOT_TRAIN = "This engine has no training queue: it is older than this terminal. Stop it with `rune-tui engine stop`."
NO_LINEAGE = "No lineage yet: it grows as adapters are made from one another."
LOADING = "Loading ..."


def bindings_of(pane: str) -> list[BindingType]:
    """The keys of the registry that hold in that pane; of no pane: everywhere."""
    return [_binding(action, show=action.in_footer) for action in ACTIONS if action.keys and action.pane == pane]


def _binding(action: Action, *, show: bool) -> Binding:
    title = action.short or action.title
    return Binding(",".join(action.keys), f"screen.do('{action.id}')", title, show=show, id=action.id)


class TrainingPane(Pane):
    """The pane whose keys act on a training job; the footer has no room for those of sessions beside them."""

    BINDINGS: ClassVar[list[BindingType]] = [
        *bindings_of(TRAINING_PANE),
        *(_binding(BY_ID[name], show=False) for name in ("new-task", "export")),
    ]


class AdaptersPane(Pane):
    """The pane whose keys act on an adapter; likewise."""

    BINDINGS: ClassVar[list[BindingType]] = [
        *bindings_of(ADAPTERS_PANE),
        _binding(BY_ID["undo"], show=True),
        *(
            _binding(BY_ID[name], show=False)
            for name in ("new-task", "cancel", "resume", "details", "export", "train", "backend")
        ),
    ]


class MainScreen(Screen[None]):
    """Task pipeline, adapter tree, training queue, evolution lineage."""

    BINDINGS: ClassVar[list[BindingType]] = bindings_of("")
    AUTO_FOCUS = "#session-list"

    @dataclass
    class ActionWanted(Message):
        """A key of the registry was pressed."""

        action_id: str

    @dataclass
    class SessionSelected(Message):
        """The cursor came to another session."""

        session_id: str

    @dataclass
    class JobSelected(Message):
        """The cursor came to another training job."""

        job_id: str

    @dataclass
    class AdapterSelected(Message):
        """The cursor came to another row of the adapter tree: an adapter's id, or the key of a tier."""

        key: str

    @dataclass
    class AdapterChosen(Message):
        """Enter on an adapter."""

        adapter_id: str

    def __init__(self, state: State, now: Callable[[], datetime]) -> None:
        super().__init__()
        self._compositor = ThriftyCompositor()
        self._state = state
        self._now = now
        self._closed_tiers: frozenset[str] = frozenset()
        self._drawn_selection = ""
        self._drawn: State | None = None
        self._seen_adapters: tuple[object, ...] | None = None
        self._title = Line(id="title")
        self._device = Line(id="device")
        self._status = Line(id="status")
        self._headings = Line(id="session-headings")
        self._activity = Line(id="activity")
        self._sessions = Rows(id="session-list")
        self._output = Rows(id="output", text=True)
        self._adapters = Rows(id="adapter-list")
        self._job_headings = Line(id="job-headings")
        self._training = Rows(id="training-list")
        self._job_activity = Line(id="job-activity")
        self._lineage = Rows(id="lineage-list")
        self._panes = (
            Pane("1", "Tasks", self._headings, self._sessions, self._activity, self._output, id="tasks"),
            AdaptersPane("2", "Adapters", self._adapters, id=ADAPTERS_PANE),
            TrainingPane("3", "Training", self._job_headings, self._training, self._job_activity, id=TRAINING_PANE),
            Pane("4", "Lineage", self._lineage, id="lineage"),
        )
        self._lists = (self._sessions, self._adapters, self._training, self._lineage)
        self._active = 0

    def compose(self) -> ComposeResult:
        """The panes between title and status."""
        yield self._title
        yield self._device
        with Horizontal(id="panes"):
            with Vertical(id="left"):
                yield self._panes[0]
            with Vertical(id="right"):
                yield from self._panes[1:]
        yield self._status
        yield Footer(compact=True, show_command_palette=False)

    def on_mount(self) -> None:
        """First picture: still loading."""
        self._fold()
        self.show(self._state)

    # --- content ---

    def show_change(self, state: State) -> None:
        """Draw what differs from the state before; clocks go on with the next `show`.

        A model that writes brings ten batches a second in which only its output is new.
        """
        before, self._state = self._state, state
        if self.is_mounted and self._drawn is before and only_output_differs(before, state):
            self._drawn = state
            self._show_output(state)
        else:
            self.show(state)

    def show(self, state: State) -> None:
        """Draw that state; panes whose part of it did not change are left alone."""
        self._state = state
        if not self.is_mounted:
            return
        now = self._now()
        self._drawn = state
        self._title.show(title_spans(state))
        self._device.show(device_spans(state, now))
        self._status.show(status_spans(state))
        self._show_tasks(state, now)
        self._show_training(state, now)
        self._show_adapters(state)

    def _show_adapters(self, state: State) -> None:
        width = _width(self._adapters)
        seen = (
            *(
                state.adapters,
                state.registry.aliases,
                state.registry.operations,
                state.workshop.backend,
                state.loaded,
                state.link,
            ),
            *(self._closed_tiers, width),
        )
        if self._seen_adapters is not None and all(map(is_, seen, self._seen_adapters)):
            return
        self._seen_adapters = seen
        self._panes[1].summarise(adapter_summary(state))
        self._panes[3].summarise(f"{len(state.adapters)} adapters" if state.loaded else "")
        self._adapters.show(
            self._or_notice(adapter_rows(state.adapters, self._closed_tiers, width, state.registry), NO_ADAPTERS)
        )
        self._lineage.show(self._or_notice(lineage_rows(state.adapters), NO_LINEAGE))

    def _show_tasks(self, state: State, now: datetime) -> None:
        width = _width(self._sessions)
        self._panes[0].summarise(summary(state))
        self._headings.show(heading_row(width).spans)
        self._sessions.show(self._or_notice(session_rows(state, width, now), NO_SESSIONS))
        if state.selected:
            self._sessions.select(state.selected)
        self._activity.show(activity_spans(state, now))
        self._show_output(state)

    def _show_output(self, state: State) -> None:
        if state.selected != self._drawn_selection:
            self._drawn_selection = state.selected
            self._output.rewind()
        self._output.show(output_rows(state))

    def _show_training(self, state: State, now: datetime) -> None:
        workshop, width = state.workshop, _width(self._training)
        self._panes[2].summarise(job_summary(workshop, loaded=state.loaded) if workshop.jobs_served else "")
        self._job_headings.show(job_heading(width).spans if workshop.jobs else ())
        empty = NO_TRAINING if workshop.jobs_served else CANNOT_TRAIN
        self._training.show(self._or_notice(job_rows(workshop, width, now), empty))
        if workshop.selected_job:
            self._training.select(workshop.selected_job)
        self._job_activity.show(job_activity(workshop, now))

    def _or_notice(self, rows: list[Row], empty: str) -> list[Row]:
        if rows:
            return rows
        if self._state.loaded:
            return notice(empty)
        if self._state.link.state is LinkState.RETRYING:
            return notice(self._state.link.reason, Tone.BAD)
        return notice(LOADING)

    # --- panes ---

    def on_resize(self, event: events.Resize) -> None:
        """Another size may fold or unfold the panes; columns follow the width."""
        del event
        self._fold()
        self.call_after_refresh(lambda: self.show(self._state))

    def _fold(self) -> None:
        size = self.app.size
        folded = size.width < SIDE_BY_SIDE_COLUMNS or size.height < SIDE_BY_SIDE_LINES
        self.set_class(folded, "-folded").set_class(folded and self._active > 0, "-right-open")
        for index, pane in enumerate(self._panes):
            pane.mark(active=index == self._active, collapsed=folded and index != self._active)

    def open_pane(self, index: int) -> None:
        """Give that pane the keys; where there is no room for four, open it and fold the others."""
        self._active = index % len(self._panes)
        self._fold()
        self.set_focus(self._lists[self._active])  # now, so that the next key already goes there
        self.call_after_refresh(lambda: self.show(self._state))

    def step_pane(self, step: int) -> None:
        """The next or previous pane."""
        self.open_pane(self._active + step)

    def toggle_output(self) -> None:
        """Between the list of sessions and the streamed output."""
        if self._output.has_focus:
            self.open_pane(0)
            return
        self._active = 0
        self._fold()
        self.set_focus(self._output)

    def on_descendant_focus(self, event: events.DescendantFocus) -> None:
        """A click can move the keys to another pane."""
        owner = next((node for node in event.widget.ancestors_with_self if isinstance(node, Pane)), None)
        if owner is not None and self._panes.index(owner) != self._active:
            self._active = self._panes.index(owner)
            self._fold()

    @on(Pane.Wanted)
    def _on_pane_wanted(self, message: Pane.Wanted) -> None:
        self.open_pane(self._panes.index(message.pane))

    # --- what the user wants ---

    def action_do(self, action_id: str) -> None:
        """A key of the registry."""
        self.post_message(self.ActionWanted(action_id))

    @on(Rows.Highlighted, "#session-list")
    def _on_session_highlighted(self, message: Rows.Highlighted) -> None:
        self.post_message(self.SessionSelected(message.key))

    @on(Rows.Chosen, "#session-list")
    def _on_session_chosen(self) -> None:
        self.post_message(self.ActionWanted("details"))

    @on(Rows.Highlighted, "#training-list")
    def _on_job_highlighted(self, message: Rows.Highlighted) -> None:
        self.post_message(self.JobSelected(message.key))

    @on(Rows.Chosen, "#training-list")
    def _on_job_chosen(self) -> None:
        self.post_message(self.ActionWanted("job-details"))

    @on(Rows.Highlighted, "#adapter-list")
    def _on_adapter_highlighted(self, message: Rows.Highlighted) -> None:
        self.post_message(self.AdapterSelected(message.key))

    @on(Rows.Chosen, "#adapter-list")
    def _on_adapter_chosen(self, message: Rows.Chosen) -> None:
        if message.key.startswith(TIER_KEY):
            self._closed_tiers ^= {message.key.removeprefix(TIER_KEY)}
            self.show(self._state)
        else:
            self.post_message(self.AdapterChosen(message.key))

    @on(Rows.Chosen, "#lineage-list")
    def _on_node_chosen(self, message: Rows.Chosen) -> None:
        self.post_message(self.AdapterChosen(message.key))


def _width(rows: Rows) -> int:
    return rows.scrollable_content_region.width
