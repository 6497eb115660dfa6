"""What the keys of learning do: begin rounds of improvement, and watch, stop or resume what takes long."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any, Protocol

from textual.app import App
from textual.signal import Signal

from engine.api_evolution import ImproveRequest
from engine.api_learning import Operation
from rune_tui.plain_text import plain_notify
from rune_tui.registry_port import RegistryPort
from rune_tui.screens.confirm import ConfirmScreen
from rune_tui.screens.improve import ImproveScreen
from rune_tui.screens.operations import OperationsScreen
from rune_tui.screens.reader import ReaderScreen
from rune_tui.state import State
from rune_tui.widgets.operation_rows import operation_details
from rune_tui.widgets.row import Row

SHOWN = 100
"""Operations listed; `rune-tui operations list --limit` has more."""


class Host(Protocol):
    """What the desk needs of the app around it."""

    @property
    def state(self) -> State:
        """What is known of the engine now."""
        ...

    @property
    def changed(self) -> Signal[State]:
        """Tells of every state that was drawn."""
        ...

    def call(self, work: Coroutine[Any, Any, object]) -> None:
        """Run a call to the engine beside the screen; its failure becomes one plain sentence."""
        ...


class LearningDesk:
    """The handlers of the actions of `rune_tui.actions` that concern operations. Implements `OperationDesk`."""

    def __init__(self, app: App[None], host: Host, client: RegistryPort) -> None:
        self._app = app
        self._host = host
        self._client = client

    @property
    def handlers(self) -> dict[str, Callable[[], object]]:
        """Action id -> what it does."""
        return {"improve": self._improve, "operations": self._watch}

    def _improve(self) -> None:
        def start(request: ImproveRequest | None) -> None:
            if request is not None:
                self._host.call(self._start(request))

        self._app.push_screen(ImproveScreen(self._client.suites), start)

    async def _start(self, request: ImproveRequest) -> None:
        operation = await self._client.improve(request)
        plain_notify(self._app, f"Queued {operation.id}; it goes on when you leave.")
        self._watch(operation.id)

    def _watch(self, selected: str = "") -> None:
        self._app.push_screen(OperationsScreen(self, self._host.state, self._host.changed, selected))

    # --- what the screen of operations asks for ---

    async def read(self) -> Mapping[str, Operation]:
        """See `OperationDesk`."""
        return {operation.id: operation for operation in await self._client.operations(limit=SHOWN)}

    def show(self, operation: Operation) -> None:
        """See `OperationDesk`."""

        async def load() -> Sequence[Row]:
            return operation_details(await self._client.operation(operation.id))

        self._app.push_screen(ReaderScreen(f"Operation {operation.id}", load))

    def cancel(self, operation: Operation) -> None:
        """See `OperationDesk`."""

        def stop(yes: bool | None) -> None:
            if yes:
                self._host.call(self._told("Stopping", self._client.cancel_operation(operation.id)))

        question = f"Stop {operation.id}? What it has done is kept, and r lets it go on."
        self._app.push_screen(ConfirmScreen(question, "Stop it", "Let it run"), stop)

    def resume(self, operation: Operation) -> None:
        """See `OperationDesk`."""
        self._host.call(self._told("Resuming", self._client.resume_operation(operation.id)))

    async def _told(self, doing: str, request: Coroutine[Any, Any, Operation]) -> None:
        # The answer is not drawn: its event brings it.
        operation = await request
        plain_notify(self._app, f"{doing} {operation.id}.")
