"""Foreign text for a plain terminal or a Markdown file: only what is visible stays.

The sibling of `plain_text`, for the programs that must not import Textual.
"""

from __future__ import annotations

import re
import unicodedata

_PLAIN = re.compile(r"[\x20-\x7e\n]*")

_HIDDEN = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})
"""Controls, invisible format characters (bidi overrides among them), half surrogates, odd line separators."""


def visible(text: str) -> str:
    """The text without control characters; newlines stay, tabs become spaces."""
    if _PLAIN.fullmatch(text):
        return text
    joined = text.replace("\r\n", "\n").replace("\t", "    ")
    return "".join(char for char in joined if char == "\n" or unicodedata.category(char) not in _HIDDEN)


def visible_line(text: str, limit: int = 500) -> str:
    """`visible` on one line of at most `limit` characters."""
    line = " ".join(visible(text).split())
    return line if len(line) <= limit else f"{line[: limit - 3]}..."
