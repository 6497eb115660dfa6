"""`rune-tui alias list|set|remove`: names that move, such as `code-gen@champion`."""

from __future__ import annotations

from collections.abc import Mapping

import click

from engine.api_evolution import AliasRequest
from engine.errors import InputError
from rune_tui.client import EngineClient
from rune_tui.client_registry import RegistryClient
from rune_tui.commands.ask import JSON_OPTION, ask
from rune_tui.commands.output import echo_json, echo_table
from rune_tui.settings import Settings


@click.group("alias")
def command() -> None:
    """List, set and remove names such as code-gen@champion."""


@command.command("list")
@JSON_OPTION
@click.pass_obj
def list_(settings: Settings, as_json: bool) -> None:
    """List every alias and the adapter that it names."""
    _show(ask(settings, lambda client: RegistryClient(client).aliases()), as_json=as_json)


@command.command("set")
@click.argument("name", metavar="NAME")
@click.argument("adapter_id", metavar="ADAPTER")
@JSON_OPTION
@click.pass_obj
def set_(settings: Settings, name: str, adapter_id: str, as_json: bool) -> None:
    """Point NAME, such as code-gen@challenger, at ADAPTER. Only `promote` and `rollback` move the champion."""
    _show(_move(settings, name, adapter_id), as_json=as_json)


@command.command("remove")
@click.argument("name", metavar="NAME")
@JSON_OPTION
@click.pass_obj
def remove(settings: Settings, name: str, as_json: bool) -> None:
    """Take NAME away; the adapter stays."""
    _show(_move(settings, name, None), as_json=as_json)


def _move(settings: Settings, name: str, adapter_id: str | None) -> Mapping[str, str]:
    async def move(client: EngineClient) -> Mapping[str, str]:
        registry = RegistryClient(client)
        present = (await registry.aliases()).get(name)
        try:
            body = AliasRequest(name=name, adapter_id=adapter_id, expected=present)
        except ValueError as error:
            raise InputError(
                f"name {name!r} or adapter {adapter_id!r} is not valid: TYPE@challenger and an id."
            ) from error
        return await registry.set_alias(body)

    return ask(settings, move)


def _show(aliases: Mapping[str, str], *, as_json: bool) -> None:
    if as_json:
        echo_json(dict(aliases))
    elif aliases:
        echo_table([("ALIAS", "ADAPTER"), *sorted(aliases.items())])
    else:
        click.echo("no aliases", err=True)
