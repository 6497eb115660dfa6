"""What the keys of the adapter tree do: opens the dialogs, sends what the user agreed to."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any, Protocol

from textual.app import App

from engine.api_evolution import (
    Change,
    EvidenceRequest,
    MergeRequest,
    PromoteRequest,
    PromotionCase,
    PruneRequest,
)
from engine.api_learning import EvaluateRequest, Operation
from engine.api_models import AdapterRecord
from rune_tui.actions import BY_ID, key_names
from rune_tui.plain_text import plain_notify
from rune_tui.promotion_text import change_text
from rune_tui.registry_port import RegistryPort
from rune_tui.screens.confirm import ConfirmScreen
from rune_tui.screens.merge import MergeScreen
from rune_tui.screens.promote import Measure, PromoteScreen
from rune_tui.screens.reader import ReaderScreen
from rune_tui.screens.suite import SuiteScreen
from rune_tui.state import State
from rune_tui.widgets.adapter_rows import adapter_details
from rune_tui.widgets.history_rows import history_rows, promotion_rows
from rune_tui.widgets.row import Row

HISTORY = 500
"""Changes shown; `rune-tui history --before` reads on."""


class Host(Protocol):
    """What the desk needs of the app around it."""

    @property
    def state(self) -> State:
        """What is known of the engine now."""
        ...

    def call(self, work: Coroutine[Any, Any, object]) -> None:
        """Run a call to the engine beside the screen; its failure becomes one plain sentence."""
        ...


class RegistryDesk:
    """The handlers of the actions of `rune_tui.actions` that concern adapters and their history."""

    def __init__(self, app: App[None], host: Host, client: RegistryPort) -> None:
        self._app = app
        self._host = host
        self._client = client

    @property
    def handlers(self) -> dict[str, Callable[[], object]]:
        """Action id -> what it does."""
        return {
            "promote": self._promote,
            "merge": self._merge,
            "evaluate": self._evaluate,
            "archive": self._archive,
            "rollback": self._roll_back,
            "undo": lambda: self._host.call(self._ask_undo()),
            "redo": lambda: self._host.call(self._ask_redo()),
            "history": self._show_history,
        }

    def _adapter(self) -> AdapterRecord:
        adapter = self._host.state.selected_adapter
        assert adapter is not None, "every action on an adapter refuses where none is selected"
        return adapter

    # --- promotion ---

    def _promote(self) -> None:
        adapter_id = self._adapter().id

        def answer(wanted: PromoteRequest | Measure | None) -> None:
            match wanted:
                case PromoteRequest():
                    self._host.call(self._send_promotion(wanted))
                case Measure(case=case):
                    self._gather_evidence(case)
                case None:
                    pass

        self._app.push_screen(PromoteScreen(adapter_id, lambda: self._client.promotion_case(adapter_id)), answer)

    async def _send_promotion(self, wanted: PromoteRequest) -> None:
        adapter = await self._client.promote(wanted)
        forced = ", by force" if wanted.force else ""
        plain_notify(self._app, f"{adapter.id} is at {adapter.tier} and champion of {adapter.task_type}{forced}.")

    def _gather_evidence(self, case: PromotionCase) -> None:
        def start(suite: str) -> Awaitable[Operation]:
            return self._client.evidence(EvidenceRequest(adapter=case.adapter_id, suite=suite, to_tier=case.to_tier))

        self._on_suite(f"Which suite decides about {case.adapter_id}?", start)

    def _roll_back(self) -> None:
        task_type, aliases = self._adapter().task_type, self._host.state.registry.aliases
        champion = aliases.get(f"{task_type}@champion") or "the base model"
        previous = aliases.get(f"{task_type}@previous") or "the base model"

        async def roll_back() -> None:
            now = await self._client.rollback(task_type)
            plain_notify(self._app, f"{now.champion or 'The base model'} serves {task_type} again.")

        question = f"Let {previous} serve {task_type} again instead of {champion}?"
        self._ask(question, "Roll back", roll_back)

    # --- measuring and merging ---

    def _evaluate(self) -> None:
        adapter_id = self._adapter().id

        def start(suite: str) -> Awaitable[Operation]:
            return self._client.evaluate(EvaluateRequest(adapter=adapter_id, suite=suite))

        self._on_suite(f"Measure {adapter_id} on the gate split of which suite?", start)

    def _on_suite(self, question: str, start: Callable[[str], Awaitable[Operation]]) -> None:
        def chosen(suite: str | None) -> None:
            if suite is not None:
                self._host.call(self._queue(start(suite)))

        self._app.push_screen(SuiteScreen(question, self._client.suites), chosen)

    def _merge(self) -> None:
        def start(request: MergeRequest | None) -> None:
            if request is not None:
                self._host.call(self._queue(self._client.merge(request)))

        self._app.push_screen(MergeScreen(self._adapter(), list(self._host.state.adapters.values())), start)

    async def _queue(self, start: Awaitable[Operation]) -> None:
        operation = await start
        plain_notify(self._app, f"Queued {operation.id}; {key_names(BY_ID['operations'])} shows how far it is.")

    # --- archive, undo, redo, history ---

    def _archive(self) -> None:
        adapter = self._adapter()
        if adapter.is_archived:
            self._host.call(self._restore(adapter.id))
            return

        async def prune() -> None:
            await self._client.prune(PruneRequest(adapter_id=adapter.id))
            plain_notify(self._app, f"Archived {adapter.id}; z brings it back.")

        self._ask(f"Take {adapter.id} out of use? Nothing is deleted.", "Archive it", prune)

    async def _restore(self, adapter_id: str) -> None:
        await self._client.restore(adapter_id)
        plain_notify(self._app, f"{adapter_id} is in use again.")

    async def _ask_undo(self) -> None:
        change = (await self._client.steps()).undo
        if change is None:
            plain_notify(self._app, "There is nothing to undo.", "warning")
            return
        self._ask(f"Undo change {change.sequence}: {change_text(change)}?", "Undo it", lambda: self._undo(change))

    async def _undo(self, change: Change) -> None:
        done = await self._client.undo(change.sequence)
        plain_notify(self._app, f"Undone: {change_text(done)}; Z does it again.")

    async def _ask_redo(self) -> None:
        change = (await self._client.steps()).redo
        if change is None:
            plain_notify(self._app, "There is nothing to redo.", "warning")
            return
        self._ask(f"Redo change {change.sequence}: {change_text(change)}?", "Redo it", lambda: self._redo(change))

    async def _redo(self, change: Change) -> None:
        done = await self._client.redo(change.sequence)
        plain_notify(self._app, f"Redone: {change_text(done)}.")

    def _ask(self, question: str, yes: str, work: Callable[[], Coroutine[Any, Any, object]]) -> None:
        def answered(agreed: bool | None) -> None:
            if agreed:
                self._host.call(work())

        self._app.push_screen(ConfirmScreen(question, yes), answered)

    def _show_history(self) -> None:
        async def load() -> Sequence[Row]:
            return history_rows(await self._client.history(limit=HISTORY))

        self._app.push_screen(ReaderScreen("History of the registry", load))

    def show_adapter(self, adapter: AdapterRecord) -> None:
        """All that is known of one adapter, with its promotions where the engine keeps them."""

        async def load() -> Sequence[Row]:
            roles = self._host.state.registry.roles.get(adapter.id, ())
            rows = adapter_details(adapter, roles)
            if self._host.state.registry.served:
                rows += promotion_rows(await self._client.promotions(adapter.id))
            return rows

        self._app.push_screen(ReaderScreen(f"Adapter {adapter.id}", load))
