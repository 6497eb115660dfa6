"""The registry's history and an adapter's promotions as rows: pure functions."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import ValidationError

from engine.api_evolution import Change, Evidence, PromotionRecord
from rune_tui.promotion_text import change_marks, change_text, evidence_lines
from rune_tui.widgets.row import Row, Span, Tone, row

_INDENT = 30
"""Where the text of a change begins."""


def history_rows(changes: Sequence[Change]) -> list[Row]:
    """A row for each change, newest first; what is undone is said in words."""
    if not changes:
        return [row(" Nothing was changed yet.", Tone.DIM)]
    return [_change_row(change) for change in changes]


def _change_row(change: Change) -> Row:
    marks = change_marks(change)
    spans = [
        Span(f" {change.sequence:>6}  {change.timestamp[:19]}  ", Tone.DIM),
        Span(change_text(change), Tone.DIM if change.undone else Tone.PLAIN),
    ]
    if marks:
        spans.append(Span(f"  {marks}", Tone.WARN))
    return Row(tuple(spans), indent=_INDENT)


def promotion_rows(promotions: Sequence[PromotionRecord]) -> list[Row]:
    """Each move between tiers with what it rested on, newest first."""
    rows: list[Row] = []
    for move in reversed(promotions):
        how = ", forced" if move.forced else ""
        rows += [row(""), row(f" {move.from_tier} to {move.to_tier}{how}  {move.recorded_at[:19]}", Tone.ACCENT)]
        rows.append(row(f"   {move.reason or 'no reason was given'}", Tone.WARN if move.forced else Tone.PLAIN))
        if move.evidence is not None:
            rows += _evidence_rows(move)
    return rows


def _evidence_rows(move: PromotionRecord) -> list[Row]:
    try:
        evidence = Evidence.model_validate(move.evidence)
    except ValidationError:
        return [row("   its evidence was written by another version of rune-tui and cannot be shown", Tone.DIM)]
    return [row(f"   {text}") for text, _ in evidence_lines(evidence)]
