"""The end of what a model writes, as lines: grows by chunks, keeps its last lines. Knows no Textual."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from engine.api_models import StreamChunk
from rune_tui.draft import Draft

MAX_TAILS = 20
"""Sessions whose streamed output is kept; more than anyone looks at in one sitting."""

MAX_STREAM_LINE_CHARS = 4_000
"""A streamed line without an end is cut here, so that a tail is bounded in characters too."""

DEFAULT_STREAM_LINES = 400

Origin = tuple[str, str, int]
"""Phase, subtask, attempt: which answer of the model a piece of output belongs to."""


@dataclass(frozen=True)
class Block:
    """One answer of the model. The last line may still grow: answers of parallel subtasks grow side by side."""

    origin: Origin
    lines: tuple[str, ...] = ("",)


@dataclass(frozen=True)
class Tail:
    """The end of a session's streamed output, one block an answer, in the order in which they began."""

    blocks: tuple[Block, ...] = ()
    dropped: int = 0
    """Lines that fell off the beginning."""


class TailsFold:
    """The tails of a state, open for one batch. What one answer said in it is joined before the lines are copied."""

    def __init__(self, tails: Mapping[str, Tail]) -> None:
        self._tails = Draft(tails)
        self._said: dict[str, dict[Origin, list[str]]] = {}

    def take(self, chunk: StreamChunk) -> None:
        """A piece of output."""
        answers = self._said.setdefault(chunk.session_id, {})
        answers.setdefault((str(chunk.phase), chunk.subtask, chunk.attempt), []).append(chunk.text)

    def finish(self, limit: int, selected: str) -> Mapping[str, Tail]:
        """The tails after the batch, each of at most `limit` lines; that of `selected` is kept in any case."""
        for session_id, answers in self._said.items():
            tails = self._tails.edit()
            tail = tails.pop(session_id, Tail())
            for origin, texts in answers.items():
                tail = grow(tail, origin, "".join(texts))
            tails[session_id] = _last_lines(tail, limit)  # last: the longest silent stand first, and leave first
        if len(self._tails.read) > MAX_TAILS:
            tails = self._tails.edit()
            for session_id in [key for key in tails if key != selected][: len(tails) - MAX_TAILS]:
                del tails[session_id]
        return self._tails.read


def grow(tail: Tail, origin: Origin, text: str) -> Tail:
    """The tail with that text at the end of that answer."""
    blocks = tail.blocks
    place = next((index for index in range(len(blocks) - 1, -1, -1) if blocks[index].origin == origin), len(blocks))
    block = blocks[place] if place < len(blocks) else Block(origin)
    first, *others = text.split("\n")
    grown = Block(origin, (*block.lines[:-1], *_cut([block.lines[-1] + first, *others])))
    return replace(tail, blocks=(*blocks[:place], grown, *blocks[place + 1 :]))


def _cut(lines: Sequence[str]) -> list[str]:
    return [line[:MAX_STREAM_LINE_CHARS] for line in lines]


def _last_lines(tail: Tail, limit: int) -> Tail:
    """The tail with so many lines at most; a heading counts as one."""
    excess = sum(len(block.lines) + 1 for block in tail.blocks) - limit
    blocks, dropped = list(tail.blocks), tail.dropped
    while excess > 0 and len(blocks) > 1 and len(blocks[0].lines) <= excess:
        gone = blocks.pop(0)
        excess -= len(gone.lines) + 1
        dropped += len(gone.lines)
    if excess > 0 and blocks:
        cut = min(excess, len(blocks[0].lines) - 1)
        blocks[0] = replace(blocks[0], lines=blocks[0].lines[cut:])
        dropped += cut
    return tail if dropped == tail.dropped else Tail(tuple(blocks), dropped)
