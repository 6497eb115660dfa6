"""How commands print: JSON for programs, aligned columns for people; foreign text without control characters."""

from __future__ import annotations

import json
from collections.abc import Sequence

import click

from rune_tui.terminal_text import visible_line

MAX_CELL = 80
"""Characters of one cell; --json has the whole."""


def echo_json(value: object) -> None:
    """One JSON document; ASCII only, so that nothing in it can drive the terminal."""
    click.echo(json.dumps(value, indent=2, ensure_ascii=True))


def echo_table(rows: Sequence[Sequence[str]]) -> None:
    """Rows in aligned columns."""
    cleaned = [[visible_line(cell, MAX_CELL) for cell in row] for row in rows]
    widths = [max(len(row[index]) for row in cleaned) for index in range(len(cleaned[0]))] if cleaned else []
    for row in cleaned:
        click.echo("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
