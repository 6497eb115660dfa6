"""The loss of the answer, computed for answer tokens only.

The output layer of a small model is a fifth of its arithmetic, and its logits are the largest tensor of a step: 4
sequences of 1,024 tokens and 49,152 words are 800 MB. A hook hands it only the hidden states that predict an answer
token; whatever a model does to its logits afterwards - scaling, capping - stays the model's own.

Sequences are padded on the right and no attention mask is given: under causal attention no token sees what comes
after it, and the padding is in no label. That leaves the fast attention kernels free to run.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from engine.training.qlora.data import Example


class AnswerLoss:
    """Sum of -log p over the answer tokens of some examples, in nats.

    Args:
        model: a causal language model; its output layer gets a hook.
        device: where it is.
        padding: any token id; padding is seen by nothing.
    """

    def __init__(self, model: Any, device: torch.device, padding: int) -> None:
        self._model = model
        self._device = device
        self._padding = padding
        self._positions = torch.empty(0, dtype=torch.long)
        model.get_output_embeddings().register_forward_pre_hook(self._select)

    def __call__(self, examples: Sequence[Example]) -> Tensor:
        """A scalar with its graph; float32."""
        tokens, positions, targets = self._tensors(examples)
        self._positions = positions
        logits = self._model(input_ids=tokens, use_cache=False).logits
        return cross_entropy(logits[0].float(), targets, reduction="sum")

    def _tensors(self, examples: Sequence[Example]) -> tuple[Tensor, Tensor, Tensor]:
        """Tokens (sequences, width); flat positions that predict an answer token; those tokens."""
        width = max(len(example.tokens) for example in examples)
        tokens = torch.full((len(examples), width), self._padding)
        positions: list[int] = []
        targets: list[int] = []
        for row, example in enumerate(examples):
            tokens[row, : len(example.tokens)] = torch.tensor(example.tokens)
            start = row * width + example.prompt - 1
            positions += range(start, start + example.answer)
            targets += example.tokens[example.prompt :]
        device = self._device
        return tokens.to(device), torch.tensor(positions, device=device), torch.tensor(targets, device=device)

    def _select(self, _module: object, inputs: tuple[Tensor, ...]) -> tuple[Tensor]:
        hidden = inputs[0]
        return (hidden.reshape(-1, hidden.shape[-1]).index_select(0, self._positions).unsqueeze(0),)
