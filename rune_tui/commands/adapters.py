"""`rune-tui adapters list|show|import|archive|restore`."""

from __future__ import annotations

from pathlib import Path

import click

from engine.api_models import AdapterImport, AdapterRecord
from engine.errors import InputError
from rune_tui.commands.ask import JSON_OPTION, ask
from rune_tui.commands.naming import ADAPTER
from rune_tui.commands.record import echo_record, echo_records
from rune_tui.settings import Settings

COLUMNS = ("ID", "TYPE", "TIER", "RANK", "FITNESS", "BASE", "CREATED")


@click.group("adapters")
def command() -> None:
    """List, show, import, archive and restore adapters."""


@command.command("list")
@click.option("--task-type", help="Only those of this task type.")
@click.option("--archived", is_flag=True, help="Those that are archived instead.")
@click.option("--search", help="Only those whose id contains this.")
@click.option("--limit", type=click.IntRange(1, 1000), default=100, show_default=True)
@JSON_OPTION
@click.pass_obj
def list_(
    settings: Settings, task_type: str | None, archived: bool, search: str | None, limit: int, as_json: bool
) -> None:
    """List adapters, fittest first."""
    found = ask(
        settings,
        lambda client: client.adapters(task_type=task_type, archived=archived, search=search, limit=limit),
    )
    echo_records(found, COLUMNS, [_cells(adapter) for adapter in found], none="no adapters", as_json=as_json)


def _cells(adapter: AdapterRecord) -> tuple[str, ...]:
    fitness = "-" if adapter.fitness_score is None else f"{adapter.fitness_score:.3f}"
    measures = (str(adapter.rank), fitness, adapter.base_model_id)
    return adapter.id, adapter.task_type, adapter.tier, *measures, adapter.created_at[:19]


@command.command("show")
@click.argument("adapter_id", metavar="ID", type=ADAPTER)
@JSON_OPTION
@click.pass_obj
def show(settings: Settings, adapter_id: str, as_json: bool) -> None:
    """Show one adapter."""
    echo_record(ask(settings, lambda client: client.adapter(adapter_id)), as_json=as_json)


@command.command("import")
@click.argument("adapter_id", metavar="ID")
@click.argument("directory", type=click.Path(path_type=Path))
@click.option("--task-type", default="code-gen", show_default=True)
@click.option("--base", help="Base model it was trained on; default: the engine's.")
@JSON_OPTION
@click.pass_obj
def import_(
    settings: Settings, adapter_id: str, directory: Path, task_type: str, base: str | None, as_json: bool
) -> None:
    """Check the PEFT directory DIRECTORY and copy it into the registry as ID."""
    try:
        body = AdapterImport(
            id=adapter_id, directory=str(directory.absolute()), task_type=task_type, base_model_id=base
        )
    except ValueError as error:
        raise InputError(
            f"id {adapter_id!r} or task type {task_type!r} is not valid: letters, digits, '.', '_', '-', at most 100."
        ) from error
    echo_record(ask(settings, lambda client: client.import_adapter(body)), as_json=as_json)


@command.command("archive")
@click.argument("adapter_id", metavar="ID", type=ADAPTER)
@JSON_OPTION
@click.pass_obj
def archive(settings: Settings, adapter_id: str, as_json: bool) -> None:
    """Take an adapter out of use; nothing is deleted."""
    echo_record(ask(settings, lambda client: client.archive_adapter(adapter_id)), as_json=as_json)


@command.command("restore")
@click.argument("adapter_id", metavar="ID", type=ADAPTER)
@JSON_OPTION
@click.pass_obj
def restore(settings: Settings, adapter_id: str, as_json: bool) -> None:
    """Bring an archived adapter back into use."""
    echo_record(ask(settings, lambda client: client.restore_adapter(adapter_id)), as_json=as_json)
