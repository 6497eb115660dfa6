"""How a token is drawn with torch: the rules of `llama_sampling`, on the device where the logits are.

Penalties (over the last PENALTY_WINDOW tokens of the answer), temperature, top_p, then the draw; a JSON schema is a
mask before all of them. llguidance makes the mask: it knows which tokens continue a text that fits the schema.
"""

from __future__ import annotations

import json
import secrets
from collections import Counter, deque
from collections.abc import Mapping
from typing import Any

import torch
from llguidance import LLMatcher
from torch import Tensor

from engine.inference.sidecar.backend import BackendError, BadRequestError, Job
from engine.inference.sidecar.transformers_native import TorchContext, TorchModel

PENALTY_WINDOW = 64
"""Tokens that the penalties look back: as with llama.cpp."""
SEED_BITS = 31
WORD = 32
"""Tokens of one word of llguidance's mask."""
SEPARATORS: Any = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}
"""JSON as models write it; without this a small one may write blanks to its token limit."""


class Sampler:
    """The draws of one request."""

    def __init__(self, model: TorchModel, job: Job) -> None:
        """Raises BadRequestError if the JSON schema is not supported."""
        self._job = job
        self._recent: deque[int] = deque(maxlen=PENALTY_WINDOW)
        self._grammar = Grammar(model, job.json_schema) if job.json_schema is not None else None
        self._random = torch.Generator(model.device)
        self._random.manual_seed(secrets.randbits(SEED_BITS) if job.seed is None else job.seed)

    def sample(self, context: TorchContext, place: int) -> int:
        """Draw a token for the batch's entry at `place`, and remember it."""
        with torch.inference_mode():
            logits = context.row(place)
            if self._grammar is not None:
                logits = self._grammar.masked(logits)
            token = self._draw(self._penalized(logits))
        if self._grammar is not None:
            self._grammar.take(token)
        self._recent.append(token)
        return token

    def close(self) -> None:
        """There is nothing to free."""

    def _draw(self, logits: Tensor) -> int:
        job = self._job
        if job.temperature == 0:
            return int(logits.argmax())
        probabilities = torch.softmax(logits / job.temperature, dim=-1)
        if job.top_p >= 1:
            return int(torch.multinomial(probabilities, 1, generator=self._random))
        ranked, tokens = probabilities.sort(descending=True)
        # The token that passes top_p still belongs to it: the first one always does.
        ranked[ranked.cumsum(-1) - ranked >= job.top_p] = 0
        return int(tokens[torch.multinomial(ranked, 1, generator=self._random)])

    def _penalized(self, logits: Tensor) -> Tensor:
        job = self._job
        if (job.repetition_penalty, job.frequency_penalty, job.presence_penalty) == (1.0, 0.0, 0.0) or not self._recent:
            return logits
        counts = Counter(self._recent)
        tokens = torch.tensor(list(counts), device=logits.device)
        times = torch.tensor(list(counts.values()), device=logits.device, dtype=logits.dtype)
        chosen = logits[tokens]
        scaled = torch.where(chosen > 0, chosen / job.repetition_penalty, chosen * job.repetition_penalty)
        changed = logits.clone()
        changed[tokens] = scaled - times * job.frequency_penalty - job.presence_penalty
        return changed


class Grammar:
    """Which tokens may come next, if the text is to be JSON of a schema."""

    def __init__(self, model: TorchModel, schema: Mapping[str, Any]) -> None:
        """Raises BadRequestError if llguidance does not support the schema."""
        try:
            grammar = LLMatcher.grammar_from_json_schema(json.dumps(schema), defaults=SEPARATORS)
        except ValueError as error:
            raise BadRequestError(f"response_format: the schema is not supported: {error}") from error
        self._matcher = LLMatcher(model.vocabulary, grammar, log_level=0)
        self._check(BadRequestError)
        words = -(-model.vocabulary.vocab_size // WORD)
        self._mask = torch.zeros(words, dtype=torch.int32)
        self._bits = torch.arange(WORD, dtype=torch.int32)

    def masked(self, logits: Tensor) -> Tensor:
        """The logits with what may not come next at minus infinity."""
        self._matcher.unsafe_compute_mask_ptr(self._mask.data_ptr(), self._mask.numel() * self._mask.element_size())
        self._check(BackendError)
        allowed = ((self._mask[:, None] >> self._bits) & 1).bool().flatten()
        # A model may have more rows than its tokenizer has tokens.
        allowed = torch.nn.functional.pad(allowed, (0, max(0, len(logits) - len(allowed))))[: len(logits)]
        return logits.masked_fill(~allowed.to(logits.device), float("-inf"))

    def take(self, token: int) -> None:
        """Go on behind this token."""
        self._matcher.consume_token(token)
        self._check(BackendError)

    def _check(self, kind: type[BackendError]) -> None:
        if self._matcher.is_error():
            raise kind(f"response_format: {self._matcher.get_error()}")
