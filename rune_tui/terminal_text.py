"""Foreign text for a terminal or a Markdown file: only what is plain and visible stays. Needs no Textual.

Model output, prompts, paths, adapter names and error messages come from strangers. As they are they can drive the
terminal (OSC 52 writes the clipboard) or lie about what they say (bidi controls). One table says what goes.
"""

from __future__ import annotations

import re
import unicodedata

MAX_LINE_CHARS = 2_000
"""A line is cut here: far wider than any screen, and a 1 MB line costs no more than a screenful."""

MAX_TEXT_CHARS = 400_000
"""A text is cut here: four times the largest answer of the model."""

MAX_MARKS = 2
"""Combining marks on one character: living scripts need two, towers of them spill over other lines."""

TAB = "    "

_BREAKS = re.compile(r"\r\n|[\r\v\f\x1c-\x1e\x85\u2028\u2029]")

# A sequence ends where its standard says; one that never ends loses its introducer only, so that nothing can hide
# the rest of a text behind an unterminated OSC. No body holds an introducer: a text of nothing but introducers would
# be searched to its end from each of them.
_SEQUENCES = re.compile(
    r"(?:\x1b\[|\x9b)[0-?]{0,64}[ -/]{0,8}[@-~]"  # CSI
    r"|(?:\x1b\]|\x9d)[^\x07\x1b\x80-\x9f\n]{0,100000}(?:\x07|\x1b\\|\x9c)"  # OSC
    r"|(?:\x1b[PX^_]|[\x90\x98\x9e\x9f])[^\x1b\x80-\x9f\n]{0,100000}(?:\x1b\\|\x9c)"  # DCS, SOS, PM, APC
    r"|\x1b[ -/]{0,8}[0-Z\\^-~]"  # two-character escapes, but not an unterminated CSI or OSC
)

_INVISIBLE = re.compile(
    "["
    "\x00-\x09\x0b-\x1f\x7f-\x9f"  # C0 (newline stays) and C1 controls
    "\xad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f"  # soft hyphen, joiners, fillers, Mongolian selectors
    "\u200b-\u200f\u2028-\u202e\u2060-\u206f"  # zero width, bidi marks, embeddings, overrides, isolates
    "\u3164\ufe00-\ufe0f\ufeff\uffa0\ufff0-\ufffb\ufffe\uffff"  # fillers, variation selectors, BOM, annotations
    "\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e0fff"  # format controls, tags
    "\u0600-\u0605\u06dd\u070f\u0890\u0891\u08e2\U000110bd\U000110cd\U00013430-\U0001343f"  # other format controls
    "\ud800-\udfff"  # lone surrogates: no terminal can encode them
    "]"
)

_NON_ASCII = re.compile(r"[^\x20-\x7e\n]")


def visible(text: str) -> str:
    """The text without control, escape sequence, bidi control or zero-width character.

    Every kind of line break becomes a newline, tabs become spaces.
    """
    if not _NON_ASCII.search(text):
        return text
    text = _SEQUENCES.sub("", _BREAKS.sub("\n", text).replace("\t", TAB))
    return _limit_marks(_INVISIBLE.sub("", text))


def visible_line(text: str, limit: int = 500) -> str:
    """`visible` on one line of at most `limit` characters, for a line of a table or of an error."""
    line = " ".join(visible(text).split())
    return line if len(line) <= limit else f"{line[: limit - 3]}..."


def clean(text: str, *, max_line: int = MAX_LINE_CHARS, max_chars: int = MAX_TEXT_CHARS) -> str:
    """`visible`, with long lines and long texts cut, and a marker where they are."""
    cut = len(text) - max_chars
    if cut > 0:
        text = text[:max_chars]
    text = visible(text)
    if len(text) > max_line:
        text = "\n".join(_cut_line(line, max_line) for line in text.split("\n"))
    return f"{text}\n… {cut} more characters" if cut > 0 else text


def clean_line(text: str, *, max_line: int = MAX_LINE_CHARS) -> str:
    """`clean` on one line: line breaks become a visible mark."""
    return clean(text, max_line=max_line, max_chars=max_line + 1).replace("\n", "⏎")[: max_line + 40]


def _cut_line(line: str, limit: int) -> str:
    return line if len(line) <= limit else f"{line[:limit]}… (+{len(line) - limit} characters)"


def _limit_marks(text: str) -> str:
    if text.isascii():
        return text
    kept: list[str] = []
    marks = 0
    for character in text:
        marks = marks + 1 if unicodedata.category(character) in ("Mn", "Me") else 0
        if marks <= MAX_MARKS:
            kept.append(character)
    return "".join(kept)
