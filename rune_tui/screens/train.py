"""The form of a training job, and what the job would take, before anything is queued."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import ClassVar

from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical
from textual.screen import ModalScreen
from textual.widgets import Button, Input, RadioSet

from engine.api_training import TrainPreview, TrainRequest
from engine.errors import InputError
from rune_tui.attach import plain_reason
from rune_tui.plain_text import PlainInput, PlainStatic, plain_label
from rune_tui.train_form import TrainForm, read_train_form
from rune_tui.widgets.choice import Choice
from rune_tui.widgets.job_rows import preview_rows
from rune_tui.widgets.row import Tone
from rune_tui.widgets.rows import Rows, notice

Preview = Callable[[TrainRequest], Awaitable[TrainPreview]]


class TrainPreviewScreen(ModalScreen[bool]):
    """What a job would take. Back has the focus, so that an Enter held down too long queues nothing."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "answer(False)", "Back"),
        Binding("left,right", "app.focus_next", "Other answer", show=False),
    ]
    AUTO_FOCUS = "#no"

    def __init__(self, request: TrainRequest, preview: Preview) -> None:
        super().__init__()
        self._request = request
        self._preview = preview
        self._rows = Rows(id="preview", text=True, follow=False)
        self._rows.can_focus = False

    def compose(self) -> ComposeResult:
        """The facts over the two answers; there is no yes before the facts are there."""
        with Vertical(classes="dialog"):
            yield PlainStatic("This is what it would take", classes="label")
            yield self._rows
            with Horizontal(classes="buttons"):
                yield Button("Back", id="no", compact=True)
                yield Button("Train", id="yes", variant="primary", compact=True, disabled=True)

    def on_mount(self) -> None:
        """Ask the engine."""
        self._rows.show(notice("The engine reads the examples ..."))
        self.run_worker(self._fill(), group="load", exclusive=True, exit_on_error=False)

    async def _fill(self) -> None:
        try:
            preview = await self._preview(self._request)
        except Exception as error:  # the end of this task: the dialog says why nothing can be trained
            self._rows.show(notice(plain_reason(error), Tone.BAD))
            return
        self._rows.show(preview_rows(preview))
        yes = self.query_one("#yes", Button)
        yes.label = plain_label("Train" if preview.fits else "Queue it anyway")
        yes.disabled = False

    @on(Button.Pressed, "#yes")
    def _on_yes(self) -> None:
        self.dismiss(True)

    @on(Button.Pressed, "#no")
    def _on_no(self) -> None:
        self.dismiss(False)

    def action_answer(self, answer: bool) -> None:
        """Close with that answer."""
        self.dismiss(answer)


class TrainScreen(ModalScreen[TrainRequest | None]):
    """Examples, name, recipe; closes with a request whose preview was seen and agreed to, or with None."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "leave", "Back"),
        Binding("ctrl+s", "preview", "Preview", priority=True),
    ]
    AUTO_FOCUS = "#source"

    def __init__(self, preview: Preview) -> None:
        super().__init__()
        self._preview = preview

    def compose(self) -> ComposeResult:
        """Everything fits on 80x24."""
        with Vertical(classes="dialog"):
            yield PlainStatic("Train an adapter on", classes="label")
            with RadioSet(id="source"):
                yield Choice("verified attempts", value=True, id="trajectories", compact=True)
                yield Choice("a file of examples", id="file", compact=True)
            yield PlainStatic("File (JSON Lines of prompt and completion)", classes="label")
            yield PlainInput(id="dataset", disabled=True)
            yield PlainStatic("Name of the new adapter; empty: one is made up", classes="label")
            yield PlainInput(id="adapter")
            yield PlainStatic("Preset of config.toml: standard, quick, thorough, or your own", classes="label")
            yield PlainInput("standard", id="preset")
            yield PlainStatic("Steps; empty: as many as the epochs take", classes="label")
            yield PlainInput(id="steps")
            yield PlainStatic("Adapter to begin with; empty: none", classes="label")
            yield PlainInput(id="warm-start")
            yield PlainStatic("", id="error", classes="error")
            with Horizontal(classes="buttons"):
                yield Button("Back", id="back", compact=True)
                yield Button("Preview  ^s", id="show", variant="primary", compact=True)

    @property
    def form(self) -> TrainForm:
        """What is typed in now."""
        return TrainForm(
            from_trajectories=self.query_one("#trajectories", Choice).value,
            dataset=self._text("dataset"),
            adapter_id=self._text("adapter"),
            preset=self._text("preset"),
            max_steps=self._text("steps"),
            warm_start=self._text("warm-start"),
        )

    def _text(self, name: str) -> str:
        return self.query_one(f"#{name}", PlainInput).value

    @on(RadioSet.Changed)
    def _on_source(self) -> None:
        self.query_one("#dataset", PlainInput).disabled = self.query_one("#trajectories", Choice).value

    @on(Button.Pressed, "#show")
    @on(Input.Submitted)
    def action_preview(self) -> None:
        """Check what was typed; show what it would take."""
        self.run_worker(self._check(), group="check", exclusive=True, exit_on_error=False)

    async def _check(self) -> None:
        error_line = self.query_one("#error", PlainStatic)
        try:
            request = await asyncio.to_thread(read_train_form, self.form)
        except InputError as error:
            error_line.show(str(error))
            return
        error_line.show("")

        def decide(yes: bool | None) -> None:
            if yes:
                self.dismiss(request)

        self.app.push_screen(TrainPreviewScreen(request, self._preview), decide)

    @on(Button.Pressed, "#back")
    def action_leave(self) -> None:
        """Close without a request."""
        self.dismiss(None)
