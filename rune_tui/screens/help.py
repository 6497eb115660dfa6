"""The help text, made from the registry of actions: it cannot drift from what the keys do."""

from __future__ import annotations

from rune_tui.actions import ACTIONS, key_names, spelled
from rune_tui.state import State
from rune_tui.widgets.row import Row, Span, Tone, row
from rune_tui.widgets.session_rows import LEGEND

_LISTS = (
    ("↑ ↓  j k", "move in a list, scroll in a text"),
    ("PgUp PgDn", "one screenful"),
    ("Home End  g G", "first, last; a text at its end follows new output"),
    ("Enter", "open: a session's attempts, a training job, an adapter, a tier"),
    ("Ctrl+P", "find any action by its name"),
)

_INDENT = 32
"""Where the meaning of an action begins."""


def help_rows(state: State) -> list[Row]:
    """Every action with keys, state, meaning and command line."""
    rows = [row(" Actions", Tone.ACCENT)]
    for action in sorted(ACTIONS, key=lambda action: bool(action.pane)):
        if action.pane and not any(section.key == action.pane for section in rows):
            rows += [row(""), row(f" In the {action.pane} pane", Tone.ACCENT, action.pane)]
        refusal = action.refusal(state)
        rows.append(
            Row(
                (
                    Span(f"  {key_names(action) or 'Ctrl+P':<14} ", Tone.STRONG),
                    Span(f"{action.title:<14} ", Tone.DIM if refusal else Tone.PLAIN),
                    Span(action.help),
                ),
                indent=_INDENT,
            )
        )
        if refusal:
            rows.append(Row((Span(f"{'':<{_INDENT}}not now: {refusal}", Tone.WARN),), indent=_INDENT))
        if cli := spelled(action, state):
            rows.append(Row((Span(f"{'':<{_INDENT}}$ {cli}", Tone.DIM),), indent=_INDENT + 2))
    rows += [row(""), row(" Lists and texts", Tone.ACCENT)]
    rows += [Row((Span(f"  {keys:<14} ", Tone.STRONG), Span(meaning))) for keys, meaning in _LISTS]
    rows += [row(""), row(" Phases", Tone.ACCENT), Row((Span(f"  {LEGEND}"),), indent=2)]
    return rows
