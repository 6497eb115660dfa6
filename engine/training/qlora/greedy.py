"""Greedy answers of the model being trained, several at once. What it writes is text, and is never run here.

    prompts, padded on the left ─► one pass ─► token ─► one pass on the cache ─► token ─► ... ─► all ended, or the limit

A loop of its own and not `generate`, whose result hangs on what the model's own generation_config.json says of
penalties and sampling; and because a stop and the heartbeat are looked after between two tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

Tokens = Sequence[int]


@dataclass(frozen=True)
class Written:
    """One answer."""

    tokens: tuple[int, ...]
    """Without the one that ends a turn."""
    cut: bool
    """The limit was reached before the turn was ended."""


class Greedy:
    """Writes the likeliest token after the other.

    Args:
        model: a causal language model, dropout off; whatever adapter is active in it has its say.
        ends: tokens that end a turn; the smallest is the padding, which the mask hides.
        between: called between two tokens; what it raises ends the work.
    """

    def __init__(self, model: Any, device: torch.device, ends: frozenset[int], between: Callable[[], None]) -> None:
        assert ends, "an answer must be able to end"
        self._model = model
        self._device = device
        self._ends = ends
        self._between = between

    @torch.no_grad()
    def answer(self, prompts: Sequence[Tokens], max_tokens: int) -> list[Written]:
        """One answer to each prompt, of at most so many tokens."""
        tokens, mask = self._padded(prompts)
        positions = (mask.cumsum(-1) - 1).clamp(min=0)
        written: list[list[int]] = [[] for _ in prompts]
        ended = [False] * len(prompts)
        cache: Any = None
        for _ in range(max_tokens):
            self._between()
            cache, following = self._next(tokens, mask, positions, cache)
            for row, token in enumerate(following.tolist()):
                ended[row] = ended[row] or token in self._ends
                if not ended[row]:
                    written[row].append(token)
            if all(ended):
                break
            tokens, positions = following.unsqueeze(1), positions[:, -1:] + 1
            mask = torch.cat([mask, mask.new_ones(len(prompts), 1)], dim=1)
        return [Written(tuple(text), not done) for text, done in zip(written, ended, strict=True)]

    def _next(self, tokens: Tensor, mask: Tensor, positions: Tensor, cache: Any) -> tuple[Any, Tensor]:
        """The cache, and the likeliest next token of each row."""
        said = self._model(
            input_ids=tokens,
            attention_mask=mask,
            position_ids=positions,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        )
        return said.past_key_values, said.logits[:, -1].float().argmax(-1)

    def _padded(self, prompts: Sequence[Tokens]) -> tuple[Tensor, Tensor]:
        """Tokens and mask (prompts, width), the prompts at the right."""
        width = max(len(prompt) for prompt in prompts)
        tokens = torch.full((len(prompts), width), min(self._ends))
        mask = torch.zeros_like(tokens)
        for row, prompt in enumerate(prompts):
            tokens[row, width - len(prompt) :] = torch.tensor(prompt)
            mask[row, width - len(prompt) :] = 1
        return tokens.to(self._device), mask.to(self._device)
