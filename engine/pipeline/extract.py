"""Code out of a model's answer: fences are taken off whatever their shape, and a cut answer says that it is cut.

Small models write prose around their code, open a second fence inside the first, forget the last one, or write none at
all. Whatever they do, no fence line reaches the interpreter.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from engine.pipeline.syntax import first_fault, is_python

MAX_OVERLAP = 400
"""Characters of repeated text that are looked for where a continuation joins."""

MIN_OVERLAP = 8
"""Shorter agreement is chance: a name's last letters, or indentation."""

MAX_TRIMS = 20
"""Cuts at the first line that is not Python that are tried on an answer without fences; each parses it again."""

# No two neighbours that take the same characters, or a long line that is no fence after all costs minutes.
_FENCE = re.compile(r"^(?P<indent>[ \t]*)(?:`{3,}+|~{3,}+)(?P<label>[^`\n]*)$")
_GLUED_FENCE = re.compile(r"(?<=[^\s`~])[ \t]*(`{3,}(?:python|py)?)[ \t]*$", re.MULTILINE | re.IGNORECASE)
_INLINE_BLOCK = re.compile(r"^[ \t]*`{3,}([^`\n]+)`{3,}[ \t]*$", re.MULTILINE)
_CODE_LABELS = frozenset({"", "python", "py", "python3"})
_STARTS_CODE = re.compile(r"^(def |class |import |from \S+ import|@\w|async def )", re.MULTILINE)


@dataclass(frozen=True)
class Extraction:
    """What was found in an answer."""

    code: str
    truncated: bool
    """The last code block was never closed."""
    fenced: bool
    """There was at least one code fence."""


@dataclass
class _Block:
    label: str
    indent: int
    lines: list[str] = field(default_factory=list[str])
    closed: bool = False


def extract_code(text: str, *, cut: bool = False) -> Extraction:
    """The code of an answer: all its Python blocks joined, or the whole text when there is no fence.

    Args:
        cut: the answer hit its token limit, so code without fences is cut too; it then keeps its last, unfinished line.
    """
    blocks, outside = _split(_tidy(text))
    if not blocks:
        whole = "\n".join(outside)
        return Extraction(_from_first_definition(whole) if cut else _code_among_prose(whole.strip()), cut, False)
    wanted = [block for block in blocks if block.label in _CODE_LABELS and any(map(str.strip, block.lines))]
    code = _without_fence_marks(_join(["\n".join(block.lines) for block in wanted])).strip("\n")
    truncated = not blocks[-1].closed
    ends_line = truncated and text.endswith("\n")
    return Extraction(code.rstrip() + "\n" if ends_line else code if truncated else code.rstrip(), truncated, True)


def extract_continuation(text: str, *, cut: bool = False) -> Extraction:
    """As `extract_code`, for an answer that goes on in the midst of code: without fences its indentation stays."""
    found = extract_code(text, cut=cut)
    return found if found.fenced else Extraction(_without_fence_marks(_tidy(text)).rstrip(" "), cut, False)


def join_continuation(previous: str, continuation: Extraction) -> str:
    """`previous`, which was cut, with the text that goes on from there; what both repeat stays once."""
    more = continuation.code
    if not more.strip():
        return previous
    for size in range(min(MAX_OVERLAP, len(previous), len(more)), MIN_OVERLAP - 1, -1):
        if previous.endswith(more[:size]):
            return previous + more[size:]
    last_line = previous.rsplit("\n", 1)[-1]
    if last_line.strip() and more.lstrip().startswith(last_line.strip()):
        return previous[: len(previous) - len(last_line)] + _reindent(last_line, more)
    # A model that opens a new block starts on a new line; one that just goes on may be in the midst of a word.
    new_line = continuation.fenced and not previous.endswith("\n") and is_python(previous)
    return previous + ("\n" if new_line else "") + more


def _reindent(last_line: str, continuation: str) -> str:
    indent = last_line[: len(last_line) - len(last_line.lstrip())]
    return indent + continuation.lstrip()


def _tidy(text: str) -> str:
    """Every fence on a line of its own; a lone closing fence and what follows it are gone."""
    tidy = _GLUED_FENCE.sub(r"\n\1", _INLINE_BLOCK.sub(r"```\n\1\n```", text.replace("\r\n", "\n")))
    lines = tidy.split("\n")
    fences = [index for index, line in enumerate(lines) if _FENCE.match(line)]
    if len(fences) != 1 or lines[fences[0]].strip(" \t`~"):
        return tidy
    before, after = "\n".join(lines[: fences[0]]), "\n".join(lines[fences[0] + 1 :])
    closes = bool(before.strip()) and (not after.strip() or _STARTS_CODE.search(before) is not None)
    return before if closes else tidy


def _from_first_definition(text: str) -> str:
    start = _STARTS_CODE.search(text)
    return text[start.start() :] if start else text.lstrip()


def _code_among_prose(text: str) -> str:
    """`text` itself if it is Python or defines nothing; else what parses from its first definition on."""
    start = _STARTS_CODE.search(text)
    if start is None or is_python(text):
        return text
    lines = text[start.start() :].split("\n")
    for _ in range(MAX_TRIMS):
        fault = first_fault("\n".join(lines))
        if fault is None:
            return "\n".join(lines).rstrip()
        lines = lines[: min(len(lines), fault) - 1]
        if not lines:
            break
    return text


def _split(text: str) -> tuple[list[_Block], list[str]]:
    """Fenced blocks and the lines outside of them. A labelled fence inside a block opens a nested one."""
    blocks: list[_Block] = []
    outside: list[str] = []
    depth = 0
    for line in text.split("\n"):
        fence = _FENCE.match(line)
        if fence is not None and depth and len(fence["indent"]) >= blocks[-1].indent + 4:
            fence = None  # inside a docstring: it neither opens nor closes
        label = fence["label"].strip(" \t").lower().split(" ")[0] if fence else ""
        if fence is None:
            (blocks[-1].lines if depth else outside).append(line)
        elif depth == 0:
            blocks.append(_Block(label, len(fence["indent"])))
            depth = 1
        elif label:
            depth += 1
        else:
            depth -= 1
            blocks[-1].closed = depth == 0
    return blocks, outside


def _join(parts: list[str]) -> str:
    """Blocks one under the other, without those that a later block writes anew."""
    kept = [part for index, part in enumerate(parts) if not _rewritten(part, parts[index + 1 :])]
    return "\n\n".join(part.strip("\n") for part in kept)


def _rewritten(part: str, later: list[str]) -> bool:
    """Whether `part` comes again later, whole or by redefining every name: an answer that improves on itself."""
    names = _definitions(part)
    return any(part.strip() in other or (names and names <= _definitions(other)) for other in later)


def _definitions(code: str) -> set[str]:
    return set(re.findall(r"^(?:async def|def|class) (\w+)", code, re.MULTILINE))


def _without_fence_marks(code: str) -> str:
    return "\n".join(line for line in code.split("\n") if not _FENCE.match(line))
