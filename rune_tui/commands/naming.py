"""How a command takes an adapter: by its id, or by a name that moves, such as `runekit@champion`."""

from __future__ import annotations

from typing import cast

import click

from engine.errors import InputError
from rune_tui.client_registry import RegistryClient
from rune_tui.commands.ask import ask
from rune_tui.commands.engine import ensure_engine
from rune_tui.settings import Settings


class AdapterName(click.ParamType[str]):
    """Gives an adapter's id. The engine says what a name stands for now; ids are taken as they are."""

    name = "adapter"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """See `click.ParamType`.

        Raises:
            InputError: no adapter has that name.
            RuneError: no engine answers, and none can be started.
        """
        if "@" not in value or ctx is None:
            return value
        settings = cast("Settings", ctx.obj)
        ensure_engine(settings)
        known = ask(settings, lambda client: RegistryClient(client).aliases())
        if value not in known:
            raise InputError(f"No adapter is named {value!r}: `rune-tui alias list` shows the names that are in use.")
        return known[value]


ADAPTER = AdapterName()
