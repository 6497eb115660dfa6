"""The form of a new task."""

from __future__ import annotations

import asyncio
from typing import ClassVar

from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical
from textual.screen import ModalScreen
from textual.widgets import Button, RadioSet

from engine.api_models import TaskMode, TaskSpec
from engine.errors import InputError
from rune_tui.plain_text import PlainInput, PlainStatic, PlainTextArea
from rune_tui.task_form import TaskForm, read_form
from rune_tui.widgets.choice import Choice


class NewTaskScreen(ModalScreen[TaskSpec | None]):
    """Prompt, tests, mode; closes with a task that is valid, or with None."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "leave", "Back"),
        Binding("ctrl+s", "start", "Start", priority=True),
    ]
    AUTO_FOCUS = "#prompt"

    def compose(self) -> ComposeResult:
        """Everything fits on 80x24."""
        with Vertical(classes="dialog"):
            yield PlainStatic("New task: what shall the code do?", classes="label")
            yield PlainTextArea("", id="prompt", tab_behavior="focus")
            yield PlainStatic("Tests as Python text, if there are any", classes="label")
            yield PlainTextArea("", id="tests", tab_behavior="focus")
            yield PlainStatic("or the path of a file with tests", classes="label")
            yield PlainInput(id="tests-file")
            with RadioSet(id="mode"):
                yield Choice("Project: four phases", value=True, id="project", compact=True)
                yield Choice("Attempt: only the loop", id="attempt", compact=True)
            yield PlainStatic("", id="error", classes="error")
            with Horizontal(classes="buttons"):
                yield Button("Back", id="back", compact=True)
                yield Button("Start  ^s", id="start", variant="primary", compact=True)

    @property
    def form(self) -> TaskForm:
        """What is typed in now."""
        attempt = self.query_one("#attempt", Choice).value
        return TaskForm(
            prompt=self.query_one("#prompt", PlainTextArea).text,
            tests=self.query_one("#tests", PlainTextArea).text,
            tests_file=self.query_one("#tests-file", PlainInput).value,
            mode=TaskMode.ATTEMPT if attempt else TaskMode.PROJECT,
        )

    @on(Button.Pressed, "#start")
    def action_start(self) -> None:
        """Check what was typed; close when it is a task."""
        self.run_worker(self._start(), group="start", exclusive=True, exit_on_error=False)

    async def _start(self) -> None:
        try:
            task = await asyncio.to_thread(read_form, self.form)
        except InputError as error:
            self.query_one("#error", PlainStatic).show(str(error))
            return
        self.dismiss(task)

    @on(Button.Pressed, "#back")
    def action_leave(self) -> None:
        """Close without a task."""
        self.dismiss(None)
