"""The loss of the answer, computed for answer tokens only: of what is learned, and of what is to stay as it was.

The output layer of a small model is a fifth of its arithmetic, and its logits are the largest tensor of a step: 4
sequences of 1,024 tokens and 49,152 words are 800 MB. A hook hands it only the hidden states that predict an answer
token; whatever a model does to its logits afterwards - scaling, capping - stays the model's own. Called by anybody
else, the model is as it was.

Sequences are padded on the right and no attention mask is given: under causal attention no token sees what comes
after it, and the padding is in no label. That leaves the fast attention kernels free to run.

Rows that are kept (`DataRow.keep`) cost a second forward pass, without the adapter: their loss is how far its answer's
distribution is from the base model's, as in learning without forgetting (Li and Hoiem 2016, arXiv 1606.09282). An
adapter that was held to the base model on another domain can be added to that domain's.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, kl_div, log_softmax

from engine.training.qlora.data import Example


class AnswerLoss:
    """Sum over answer tokens, in nats: -log p where they are learned, KL(base || model) where they are kept.

    Args:
        model: a causal language model; its output layer gets a hook.
        device: where it is.
        padding: any token id; padding is seen by nothing.
        unadapted: within it, the model is the base model; only needed for examples that are kept.
    """

    def __init__(
        self,
        model: Any,
        device: torch.device,
        padding: int,
        unadapted: Callable[[], AbstractContextManager[Any]] = nullcontext,
    ) -> None:
        self._model = model
        self._device = device
        self._padding = padding
        self._unadapted = unadapted
        self._positions: Tensor | None = None
        model.get_output_embeddings().register_forward_pre_hook(self._select)

    def __call__(self, examples: Sequence[Example]) -> Tensor:
        """A scalar with its graph; float32."""
        kept, learned = self.parts(examples)
        return kept + learned

    def parts(self, examples: Sequence[Example]) -> tuple[Tensor, Tensor]:
        """Of what is kept and of what is learned; where there is none, a zero without a graph."""
        kept = [example for example in examples if example.keep]
        learned = [example for example in examples if not example.keep]
        none = torch.zeros((), device=self._device)
        return self._kept(kept) if kept else none, self._learned(learned) if learned else none

    def _learned(self, examples: Sequence[Example]) -> Tensor:
        tokens, positions, targets = self._tensors(examples)
        return cross_entropy(self._logits(tokens, positions), targets, reduction="sum")

    def _kept(self, examples: Sequence[Example]) -> Tensor:
        tokens, positions, _ = self._tensors(examples)
        with torch.no_grad(), self._unadapted():
            base = log_softmax(self._logits(tokens, positions), dim=-1)
        own = log_softmax(self._logits(tokens, positions), dim=-1)
        return kl_div(own, base, reduction="sum", log_target=True)

    def _logits(self, tokens: Tensor, positions: Tensor) -> Tensor:
        """(answer tokens, words), float32."""
        self._positions = positions
        try:
            return self._model(input_ids=tokens, use_cache=False).logits[0].float()
        finally:
            self._positions = None

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

    def _select(self, _module: object, inputs: tuple[Tensor, ...]) -> tuple[Tensor] | None:
        if self._positions is None:
            return None
        hidden = inputs[0]
        return (hidden.reshape(-1, hidden.shape[-1]).index_select(0, self._positions).unsqueeze(0),)
