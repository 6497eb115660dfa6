"""Foreign code as rows: a lexer gives each word a tone; nothing in it is read as markup."""

from __future__ import annotations

from functools import lru_cache

from pygments.lexer import Lexer
from pygments.lexers import get_lexer_by_name
from pygments.token import Comment, Keyword, Name, Number, Operator, String

from rune_tui.terminal_text import clean
from rune_tui.widgets.row import Row, Span, Tone

MAX_HIGHLIGHTED_CHARS = 50_000
"""Longer code is shown without colours: a lexer's time grows with the text, the reader's patience does not."""

_TONES = (
    (Comment, Tone.DIM),
    (String, Tone.GOOD),
    (Keyword, Tone.ACCENT),
    (Operator.Word, Tone.ACCENT),
    (Number, Tone.WARN),
    (Name.Function, Tone.STRONG),
    (Name.Class, Tone.STRONG),
)


def code_rows(code: str, indent: str = "") -> list[Row]:
    """Python source, one row a line."""
    source = clean(code)
    if len(source) > MAX_HIGHLIGHTED_CHARS:
        return [Row((Span(indent + line),)) for line in source.split("\n")]
    lines: list[list[Span]] = [[Span(indent)]]
    for token, text in _lexer().get_tokens(source):
        first, *others = text.split("\n")
        tone = next((tone for kind, tone in _TONES if token in kind), Tone.PLAIN)
        lines[-1].append(Span(first, tone))
        lines.extend([Span(indent), Span(line, tone)] for line in others)
    while lines and not "".join(span.text for span in lines[-1]).strip():
        lines.pop()
    return [Row(tuple(line)) for line in lines]


@lru_cache(maxsize=1)
def _lexer() -> Lexer:
    return get_lexer_by_name("python", stripnl=False)
