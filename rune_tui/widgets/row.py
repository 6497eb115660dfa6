"""A row of a list as plain data: what it says and in which tone; knows no Textual.

Panes are lists of rows. Functions from state to rows are pure, so what a pane shows is tested without a screen.
"""

from __future__ import annotations

import bisect
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache

from rich.cells import cell_len, set_cell_size

from rune_tui.terminal_text import clean_line

WRAP_LIMIT = 40
"""Screen lines that one line of text may take: a 2,000-character line on a narrow pane, and no more."""


WRAP_CACHE = 4_000
"""Folded lines kept: several screens of streamed output, of which each batch changes only the end."""


class Tone(StrEnum):
    """What a piece of text means; the stylesheet says how that looks. Never the only sign: a glyph says it too."""

    PLAIN = "plain"
    DIM = "dim"
    STRONG = "strong"
    ACCENT = "accent"
    GOOD = "good"
    WARN = "warn"
    BAD = "bad"
    BADGE = "badge"
    """Must be seen: text on a loud background."""


@dataclass(frozen=True, slots=True)
class Span:
    """Text of one tone. May be foreign: it is cleaned where it is drawn."""

    text: str
    tone: Tone = Tone.PLAIN


@dataclass(frozen=True, slots=True)
class Row:
    """One line of a list."""

    spans: tuple[Span, ...]
    key: str = ""
    """What the row stands for; empty for headings and text, which cannot be chosen."""
    indent: int = 0
    """Cells by which the lines after the first are set in where the row is folded."""


@dataclass(frozen=True, slots=True)
class Column:
    """One cell of a tabular row."""

    text: str
    width: int
    tone: Tone = Tone.PLAIN
    right: bool = False
    priority: int = 0
    """Columns of the highest number go first where the width does not suffice; 0 always stays."""


def row(text: str, tone: Tone = Tone.PLAIN, key: str = "") -> Row:
    """A row of one span."""
    return Row((Span(text, tone),), key)


def fit(text: str, width: int) -> str:
    """Cleaned text of exactly `width` cells: padded, or cut with an ellipsis."""
    line = clean_line(text)
    length = cell_len(line)
    if length <= width:
        return line + " " * (width - length)
    return set_cell_size(line, max(0, width - 1)) + "…" if width > 0 else ""


def tabular(columns: Iterable[Column], width: int, key: str) -> Row:
    """Columns side by side; the one of width 0 takes what is left, and the least important drop out."""
    kept = list(columns)
    flexible = 12  # a name shorter than this says little: drop another column first
    while sum(column.width or flexible for column in kept) + len(kept) - 1 > width:
        last = max(kept, key=lambda column: column.priority)
        if last.priority == 0:
            break
        kept.remove(last)
    left = max(4, width - sum(column.width for column in kept) - len(kept) + 1)
    return Row(tuple(Span(_cell(column, column.width or left) + " ", column.tone) for column in kept), key)


def _cell(column: Column, width: int) -> str:
    if not column.right:
        return fit(column.text, width)
    text = clean_line(column.text)
    return " " * (width - cell_len(text)) + text if cell_len(text) < width else fit(text, width)


@lru_cache(maxsize=WRAP_CACHE)
def wrapped(line: Row, width: int) -> tuple[Row, ...]:
    """The row folded to `width` cells, between words where that is possible; tones are kept."""
    spans = [Span(clean_line(span.text), span.tone) for span in line.spans]
    if width < 1 or sum(cell_len(span.text) for span in spans) <= width:
        return (line,)
    indent = line.indent if line.indent < width // 2 else 0
    text = "".join(span.text for span in spans)
    folded: list[Row] = []
    start = 0
    while start < len(text) and len(folded) < WRAP_LIMIT:
        room = width - (indent if folded else 0)
        end = start + _break(text[start : start + room + 1], room)
        margin = (Span(" " * indent),) if folded and indent else ()
        folded.append(Row((*margin, *_cut(spans, start, end)), line.key))
        start = end
        while folded and start < len(text) and text[start] == " " and text[end - 1] != " ":
            start += 1  # the blank at which the line was broken
    return tuple(folded)


def _break(text: str, room: int) -> int:
    """How many characters go on a line of so many cells; at least one."""
    end = min(len(text), room)
    if cell_len(text[:end]) > room:
        end = max(1, bisect.bisect_right(range(end + 1), room, key=lambda count: cell_len(text[:count])) - 1)
    if end == len(text) or text[end] == " ":
        return end
    space = text.rfind(" ", 0, end)
    return space + 1 if space + 1 > end // 2 and text[:space].strip() else end


def _cut(spans: Iterable[Span], start: int, end: int) -> Iterable[Span]:
    place = 0
    for span in spans:
        part = span.text[max(0, start - place) : max(0, end - place)]
        if part:
            yield Span(part, span.tone)
        place += len(span.text)
