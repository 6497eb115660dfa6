"""How commands show records: one as fields, many as a table, either as JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import click
from pydantic import BaseModel

from rune_tui.commands.output import echo_json, echo_table


def echo_records(
    records: Sequence[BaseModel],
    columns: Sequence[str],
    cells: Sequence[Sequence[str]],
    *,
    none: str,
    as_json: bool,
) -> None:
    """Many: a table under `columns`, a row of `cells` each; `none` is said on stderr where there are none."""
    if as_json:
        echo_json([record.model_dump(mode="json") for record in records])
    elif records:
        echo_table([columns, *cells])
    else:
        click.echo(none, err=True)


def echo_record(record: BaseModel, fields: Mapping[str, object] | None = None, *, as_json: bool) -> None:
    """One: its fields, or those given instead, one a line."""
    if as_json:
        echo_json(record.model_dump(mode="json"))
        return
    shown = record.model_dump() if fields is None else fields
    echo_table([(name.replace("_", " "), str(value)) for name, value in shown.items()])
