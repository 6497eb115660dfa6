"""What the screens know of the registry's aliases and of the engine's operations. Part of `rune_tui.state`; pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from pydantic import ValidationError

from engine.api_learning import OperationProgress
from engine.api_models import FINAL_STATES, Event, RunState
from rune_tui.draft import Draft

MAX_OPERATIONS = 50
"""Operations kept; the oldest that ended leave first, and stay in the engine."""


@dataclass(frozen=True)
class OperationView:
    """An operation as its events tell of it."""

    id: str
    state: RunState = RunState.QUEUED
    reason: str = ""
    progress: OperationProgress | None = None

    @property
    def ended(self) -> bool:
        """Whether nothing more comes of it by itself."""
        return self.state in FINAL_STATES


@dataclass(frozen=True)
class RegistryView:
    """Aliases, operations, and the adapter under the cursor."""

    aliases: Mapping[str, str] = field(default_factory=dict[str, str])
    served: bool = False
    """False: the engine has no route for them, or has not been asked yet."""
    operations: Mapping[str, OperationView] = field(default_factory=dict[str, OperationView])
    """Those of which something was heard since this terminal attached, oldest first."""
    selected: str = ""
    """Adapter under the cursor of the tree."""

    @property
    def roles(self) -> Mapping[str, tuple[str, ...]]:
        """Adapter -> what the aliases call it: champion, challenger, previous, or words of the user's own."""
        found: dict[str, tuple[str, ...]] = {}
        for name, target in sorted(self.aliases.items()):
            found[target] = (*found.get(target, ()), name.partition("@")[2])
        return found

    @property
    def running(self) -> tuple[OperationView, ...]:
        """Operations that have not ended."""
        return tuple(one for one in self.operations.values() if not one.ended)


def ended_since(before: RegistryView, now: RegistryView) -> tuple[OperationView, ...]:
    """Operations that ended between two states."""
    return tuple(
        one
        for one in now.operations.values()
        if one.ended and ((known := before.operations.get(one.id)) is None or not known.ended)
    )


class RegistryFold:
    """A view, open for one batch."""

    def __init__(self, view: RegistryView) -> None:
        self._view = view
        self._aliases = Draft(view.aliases)
        self._operations = Draft(view.operations)
        self._served = view.served

    def read_aliases(self, aliases: Mapping[str, str] | None) -> None:
        """What GET /aliases says; None: there is no such route."""
        self._served = aliases is not None
        self._aliases.replace(dict(aliases or {}))

    def alias_event(self, name: str, event: Event) -> None:
        """An event of the subject `alias/<name>`."""
        target = event.payload.get("adapter")
        if event.kind == "deleted" or not isinstance(target, str):
            self._aliases.drop(name)
        else:
            self._aliases.edit()[name] = target

    def operation_event(self, operation_id: str, event: Event) -> None:
        """An event of the subject `operation/<id>`: fields that changed, or one whole progress."""
        known = self._operations.read.get(operation_id, OperationView(operation_id))
        self._operations.edit()[operation_id] = _heard(known, event)

    def finish(self) -> RegistryView:
        """The view after the batch."""
        excess = len(self._operations.read) - MAX_OPERATIONS
        if excess > 0:
            operations = self._operations.edit()
            for one in [one for one in operations.values() if one.ended][:excess]:
                del operations[one.id]
        aliases, operations, view = self._aliases.read, self._operations.read, self._view
        if view.aliases is aliases and view.operations is operations and view.served is self._served:
            return view  # the same object: a screen need not look at it again
        return replace(view, aliases=aliases, served=self._served, operations=operations)


def _heard(known: OperationView, event: Event) -> OperationView:
    payload = event.payload
    if "done" in payload:
        try:
            progress = OperationProgress.model_validate(payload)
            # Only a running operation tells how far it is: one that began before this terminal attached is known by it.
            return replace(known, progress=progress, state=known.state if known.ended else RunState.RUNNING)
        except ValidationError:
            return known
    state, reason = payload.get("state"), payload.get("reason")
    if state in set(RunState):
        known = replace(known, state=RunState(state))
    return replace(known, reason=reason) if isinstance(reason, str) else known
