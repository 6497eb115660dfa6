"""What the decode thread does next: pure decisions.

A batch is computed with one adapter. So requests form groups by adapter, and groups take turns of QUANTUM
steps; within a turn all answers of the group advance together.

A prompt is computed in chunks of CHUNK tokens from its start, each in a batch of its own. That makes the arithmetic
of a chunk the same whether or not it is found in the cache later and whoever else is served meanwhile: with
temperature 0 the same prompt gives the same answer. So only whole chunks are reused, and only those computed as
prompt: tokens that were generated were computed in other batches.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

CHUNK = 64
"""Tokens of a prompt per step: other answers wait for one chunk at most; larger ones are hardly faster on a CPU."""
QUANTUM = 16
"""Steps of one group before another has its turn: changing the adapter costs less than one step."""

Group = str | None
"""Digest of an adapter; None is the base model."""


@dataclass(frozen=True)
class FreeSlot:
    """A sequence that nobody uses: what its cache still holds, and when it was last used (a counter)."""

    sequence: int
    group: Group
    tokens: Sequence[int]
    used: int


def next_group(waiting: Sequence[Group], current: Group, steps: int) -> Group:
    """The group that computes next.

    Args:
        waiting: the groups that have work, in the order in which they first asked; not empty.
        current: the group of the last step.
        steps: how many steps in a row it had.
    """
    if current not in waiting:
        return waiting[0]
    if steps < QUANTUM or len(waiting) == 1:
        return current
    return waiting[(waiting.index(current) + 1) % len(waiting)]


def reusable(cached: Sequence[int], prompt: Sequence[int]) -> int:
    """Tokens of `prompt` that need not be computed again: whole chunks, never the last token, whose logits count."""
    limit = min(len(cached), len(prompt) - 1)
    same = next((at for at in range(limit) if cached[at] != prompt[at]), limit)
    return same - same % CHUNK


def choose_slot(free: Sequence[FreeSlot], group: Group, prompt: Sequence[int]) -> tuple[FreeSlot, int]:
    """The slot that saves most work, the longest unused among equals; and how many tokens it saves."""

    def saved(slot: FreeSlot) -> int:
        return reusable(slot.tokens, prompt) if slot.group == group else 0

    best = max(free, key=lambda slot: (saved(slot), -slot.used))
    return best, saved(best)
