"""The terminal app: folds what the engine says into a state, draws it, and sends what the user wants.

    Attachment --items--> RuneApp.take --batch, ui.refresh_hz at most--> State --> MainScreen.show
    keys --> MainScreen.ActionWanted --> RuneApp.do --> a worker that calls the engine --> a notification

Nothing ticks while nothing happens: a batch is drawn when its first item asks for it, and the clock of running
sessions stops with them. Every call to the engine runs in a worker whose failure is one plain sentence.
"""

from __future__ import annotations

import asyncio
import math
import signal
from collections.abc import Callable, Coroutine, Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from time import monotonic
from typing import Any, ClassVar

from textual import on
from textual.app import App
from textual.binding import Binding, BindingType
from textual.command import Provider
from textual.signal import Signal

from engine.api_models import RunState, SessionCreate, TaskSpec
from engine.config import load_config
from rune_tui.actions import BY_ID, key_names
from rune_tui.attach import Attachment, EnginePort, plain_reason
from rune_tui.client import EngineClient
from rune_tui.plain_text import plain_notify
from rune_tui.registry_port import RegistryPort, open_port
from rune_tui.registry_state import OperationView, ended_since
from rune_tui.screens.confirm import ConfirmScreen
from rune_tui.screens.export import ExportChoice, ExportScreen, write_log
from rune_tui.screens.help import help_rows
from rune_tui.screens.learning import LearningDesk
from rune_tui.screens.main import MainScreen
from rune_tui.screens.new_task import NewTaskScreen
from rune_tui.screens.palette import ActionProvider
from rune_tui.screens.reader import ReaderScreen
from rune_tui.screens.registry import RegistryDesk
from rune_tui.screens.workshop import Workshop
from rune_tui.state import Item, State, apply_all, reread, select, select_adapter, select_training, stale
from rune_tui.tails import DEFAULT_STREAM_LINES
from rune_tui.terminal_driver import TerminalDriver
from rune_tui.widgets.adapter_rows import adapter_details
from rune_tui.widgets.row import Row
from rune_tui.widgets.session_details import details_rows

DEFAULT_REFRESH_HZ = 10.0

TOGETHER_S = 0.005
"""Items that were read together come within this time, and are drawn together."""

TICK_S = 1.0
"""The clocks of running sessions; only while one runs."""


_STYLES = Path(__file__).with_name("styles.tcss").read_text(encoding="utf-8")
"""Read here, because a path would be resolved and read on the event loop."""


def _utc_now() -> datetime:
    return datetime.now(UTC)


class RuneApp(App[None]):
    """A client of one engine."""

    CSS = _STYLES
    TITLE = "rune-tui"
    COMMANDS: ClassVar[set[type[Provider] | Callable[[], type[Provider]]]] = {ActionProvider}
    BINDINGS: ClassVar[list[BindingType]] = [Binding("ctrl+q", "quit", "Quit", show=False, priority=True)]

    def __init__(
        self,
        client: EnginePort,
        *,
        refresh_hz: float = DEFAULT_REFRESH_HZ,
        stream_lines: int = DEFAULT_STREAM_LINES,
        export_directory: Path = Path(),
        now: Callable[[], datetime] = _utc_now,
        registry: RegistryPort | None = None,
    ) -> None:
        super().__init__(driver_class=TerminalDriver)
        self._client = client
        self._refresh_s = 1 / refresh_hz
        self._export_directory = export_directory
        self._now = now
        self._state = State(stream_lines=stream_lines)
        self._pending: list[Item] = []
        aliases = registry.aliases if registry is not None else None
        self._attachment = Attachment(client, self.take, gather_s=self._refresh_s, aliases=aliases)
        self._drawn_at = -math.inf
        self._main = MainScreen(self._state, now)
        self._workshop = Workshop(self, self, client, now)
        self._desk = RegistryDesk(self, self, registry) if registry is not None else None
        self._learning = LearningDesk(self, self, registry) if registry is not None else None
        self._changed: Signal[State] = Signal(self, "state")

    @property
    def state(self) -> State:
        """What is known of the engine now."""
        return self._state

    @property
    def changed(self) -> Signal[State]:
        """Tells whoever subscribes of every state that was drawn."""
        return self._changed

    def on_mount(self) -> None:
        """Show the panes and attach."""
        self.push_screen(self._main)
        self._ticker = self.set_interval(TICK_S, self._tick, pause=True)
        self.run_worker(self._attachment.run(), group="attachment", exit_on_error=False)

    # --- state ---

    def take(self, item: Item) -> None:
        """Queue an item; the first of a batch has the batch drawn, one refresh period after the last at the soonest."""
        self._pending.append(item)
        if len(self._pending) == 1:
            wait_s = self._drawn_at + self._refresh_s - monotonic()
            self.set_timer(max(TOGETHER_S, wait_s), self._draw_batch)

    def _draw_batch(self) -> None:
        self._drawn_at = monotonic()
        batch, self._pending = self._pending, []
        before = self._state.registry
        self._change(apply_all(self._state, batch, self._now()), self._main.show_change)
        for one in ended_since(before, self._state.registry):
            self._say_end(one)
        if found := stale(self._state):
            self._state = reread(self._state)
            self.call(self._attachment.read_again(found))

    def _change(self, state: State, show: Callable[[State], None] | None = None) -> None:
        if not state.selected and state.sessions:
            state = select(state, state.ordered_sessions()[0].id)
        self._state = state
        if state.count(RunState.RUNNING) or state.workshop.ticks:
            self._ticker.resume()
        else:
            self._ticker.pause()
        (show or self._main.show)(state)
        self._changed.publish(state)

    def _say_end(self, operation: OperationView) -> None:
        if operation.state is RunState.SUCCEEDED:
            plain_notify(self, f"{operation.id} is done; {key_names(BY_ID['operations'])} shows what came of it.")
        else:
            plain_notify(self, f"{operation.id} is {operation.state}: {operation.reason or 'no reason'}", "warning")

    def _tick(self) -> None:
        self._main.show(self._state)

    # --- actions ---

    @on(MainScreen.ActionWanted)
    def _on_action_wanted(self, message: MainScreen.ActionWanted) -> None:
        self.do(message.action_id)

    def do(self, action_id: str) -> None:
        """Carry out an action of the registry, or say why it cannot be done now."""
        action = BY_ID[action_id]
        if reason := action.refusal(self._state):
            plain_notify(self, f"{action.title}: {reason}.", "warning")
            return
        self._handlers[action_id]()

    @property
    def _handlers(self) -> dict[str, Callable[[], object]]:
        return {
            "new-task": self._new_task,
            "cancel": self._cancel,
            "resume": self._resume,
            "details": self._details,
            "export": self._export,
            "tasks": partial(self._main.open_pane, 0),
            "adapters": partial(self._main.open_pane, 1),
            "training": partial(self._main.open_pane, 2),
            "lineage": partial(self._main.open_pane, 3),
            "next-pane": partial(self._main.step_pane, 1),
            "previous-pane": partial(self._main.step_pane, -1),
            "output": self._main.toggle_output,
            "refresh": self._attachment.retry_now,
            "help": self._help,
            "theme": self.search_themes,
            "quit": self.exit,
            **self._workshop.handlers,
            **(self._desk.handlers if self._desk is not None else {}),
            **(self._learning.handlers if self._learning is not None else {}),
        }

    def call(self, work: Coroutine[Any, Any, object]) -> None:
        """Run a call to the engine beside the screen; its failure is one plain sentence."""
        self.run_worker(self._guarded(work), group="calls", exit_on_error=False)

    async def _guarded(self, work: Coroutine[Any, Any, object]) -> None:
        try:
            await work
        except Exception as error:  # the end of this task: one plain sentence, and the screen lives on
            plain_notify(self, plain_reason(error), "error")

    def _new_task(self) -> None:
        def start(task: TaskSpec | None) -> None:
            if task is not None:
                self.call(self._create(task))

        self.push_screen(NewTaskScreen(), start)

    async def _create(self, task: TaskSpec) -> None:
        record = await self._client.create_session(SessionCreate(task=task))
        self._change(select(apply_all(self._state, (record,), self._now()), record.id))
        plain_notify(self, f"Queued {record.task.id}.")

    def _cancel(self) -> None:
        session_id = self._state.selected

        def stop(yes: bool | None) -> None:
            if yes:
                self.call(self._send("Cancelling", self._client.cancel_session(session_id)))

        name = self._state.sessions[session_id].task.id
        question = f"Stop {name}? Finished steps are kept and it can be resumed."
        self.push_screen(ConfirmScreen(question, "Stop it", "Let it run"), stop)

    def _resume(self) -> None:
        self.call(self._send("Resuming", self._client.resume_session(self._state.selected)))

    async def _send(self, doing: str, request: Coroutine[Any, Any, Any]) -> None:
        # The answer is not drawn: events of later changes may have come before it, and they bring this one too.
        record = await request
        plain_notify(self, f"{doing} {record.task.id}.")

    def _details(self) -> None:
        session_id = self._state.selected

        async def load() -> Sequence[Row]:
            trajectory = await self._client.trajectory(session_id)
            return await asyncio.to_thread(details_rows, trajectory)

        self.push_screen(ReaderScreen(f"Session {session_id}", load))

    @on(MainScreen.AdapterChosen)
    def _on_adapter_chosen(self, message: MainScreen.AdapterChosen) -> None:
        adapter = self._state.adapters.get(message.adapter_id)
        if adapter is None:
            return
        if self._desk is not None:
            self._desk.show_adapter(adapter)
        else:
            self._read(f"Adapter {adapter.id}", adapter_details(adapter))

    @on(MainScreen.AdapterSelected)
    def _on_adapter_selected(self, message: MainScreen.AdapterSelected) -> None:
        if message.key != self._state.registry.selected:
            self._change(select_adapter(self._state, message.key))

    def _help(self) -> None:
        self._read("Help", help_rows(self._state))

    def _read(self, title: str, rows: Sequence[Row]) -> None:
        async def load() -> Sequence[Row]:
            return rows

        self.push_screen(ReaderScreen(title, load))

    @on(MainScreen.SessionSelected)
    def _on_session_selected(self, message: MainScreen.SessionSelected) -> None:
        if message.session_id != self._state.selected:
            self._change(select(self._state, message.session_id))

    @on(MainScreen.JobSelected)
    def _on_job_selected(self, message: MainScreen.JobSelected) -> None:
        if message.job_id != self._state.workshop.selected_job:
            self._change(select_training(self._state, message.job_id))

    def _export(self) -> None:
        session_id = self._state.selected

        def write(choice: ExportChoice | None) -> None:
            if choice is not None:
                self.call(self._write(session_id, choice))

        self.push_screen(ExportScreen(session_id, self._export_directory), write)

    async def _write(self, session_id: str, choice: ExportChoice) -> None:
        trajectory = await self._client.trajectory(session_id)
        await asyncio.to_thread(write_log, trajectory, choice)
        plain_notify(self, f"Wrote {choice.path}.")


def run(home: Path, socket: Path, overrides: Sequence[str] = ()) -> int:
    """Show the engine behind that socket until the user leaves; the engine goes on.

    Args:
        overrides: `section.key=value`, of which the `ui` section counts here.

    Returns:
        The exit status.
    """
    ui = load_config(home / "config.toml", overrides).ui
    client = EngineClient(socket)
    app = RuneApp(
        client,
        refresh_hz=ui.refresh_hz,
        stream_lines=ui.stream_lines,
        export_directory=Path.cwd(),
        registry=open_port(client),
    )
    return asyncio.run(_run(app, client))


async def _run(app: RuneApp, client: EngineClient) -> int:
    async with client:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGHUP):  # a closed terminal leaves as q does
            loop.add_signal_handler(number, app.exit)
        await app.run_async()
        return app.return_code or 0
