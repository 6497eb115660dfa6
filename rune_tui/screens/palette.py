"""The command palette: every action of the registry, with its keys and, where it cannot be done, why."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Protocol, cast

from textual.command import DiscoveryHit, Hit, Hits, Provider

from rune_tui.actions import ACTIONS, Action, key_names
from rune_tui.plain_text import plain
from rune_tui.state import State
from rune_tui.terminal_text import clean_line


class _Doer(Protocol):
    @property
    def state(self) -> State: ...

    def do(self, action_id: str) -> None: ...


class ActionProvider(Provider):
    """Offers what the registry has."""

    def _entry(self, action: Action) -> tuple[str, str, Callable[[], None]]:
        doer = cast(_Doer, self.app)  # RuneApp; named so, because it imports this module
        refusal = action.refusal(doer.state)
        keys = f" [{key_names(action)}]" if action.keys else ""
        shown = f"not now: {clean_line(refusal)}" if refusal else action.help
        return f"{action.title}{keys}", shown, partial(doer.do, action.id)

    async def discover(self) -> Hits:
        """Everything, before a word is typed."""
        for action in ACTIONS:
            name, shown, run = self._entry(action)
            yield DiscoveryHit(plain(name), run, text=action.title, help=shown)

    async def search(self, query: str) -> Hits:
        """What fits the words typed."""
        matcher = self.matcher(query)
        for action in ACTIONS:
            if (score := matcher.match(f"{action.title} {action.help}")) > 0:
                name, shown, run = self._entry(action)
                yield Hit(score, plain(name), run, text=action.title, help=shown)
