"""How a token is drawn: llama.cpp's own sampler chain, so that no Python runs over the vocabulary.

Order, as in vLLM: penalties, temperature, top_p, then the draw (or the maximum, at temperature 0). The repetition
penalty looks at the last PENALTY_WINDOW tokens of the answer: over everything, as vLLM has it, it punishes code for
being code.

With a JSON schema a grammar has the last word. It is asked about the drawn token only; just when it refuses that
one, it goes over the vocabulary and the draw is repeated: hundreds of times cheaper, and the same distribution
conditioned on the grammar.
"""

from __future__ import annotations

import ctypes
import json
import secrets
from collections.abc import Mapping
from typing import Any

import llama_cpp.llama_cpp as _api
import numpy as np
from llama_cpp.llama_grammar import json_schema_to_gbnf
from numpy.typing import NDArray

from engine.inference.sidecar.backend import BadRequestError, Job
from engine.inference.sidecar.llama_native import Context, Model

api: Any = _api
"""The bindings' annotations contradict what ctypes takes and gives, so they are not used."""

PENALTY_WINDOW = 64
"""Tokens that the repetition penalty looks back; llama.cpp's own default."""
NEVER = 1e-9
"""Of the best token's probability: what is less likely is left out before anything is summed up or sorted. All of a
vocabulary of 50,000 that goes so has less than 5e-5 together, and at temperature 0.3 a draw takes 0.1 ms, not 0.6."""
SEED_BITS = 31
_CANDIDATE = np.dtype([("id", "<i4"), ("logit", "<f4"), ("p", "<f4")])
"""Memory layout of llama_token_data."""


class Sampler:
    """The chain of one request. Free it with `close`."""

    def __init__(self, model: Model, job: Job) -> None:
        """Build the chain.

        Raises:
            BadRequestError: the JSON schema cannot be made a grammar.
        """
        self._vocab_size = model.vocab_size
        self._grammar = _grammar(model, job.json_schema) if job.json_schema is not None else None
        self._chain = api.llama_sampler_chain_init(api.llama_sampler_chain_default_params())
        for part in _parts(model, job):
            api.llama_sampler_chain_add(self._chain, part)

    def sample(self, context: Context, place: int) -> int:
        """Draw a token for the batch's entry at `place`, and remember it."""
        if self._grammar is None:
            return api.llama_sampler_sample(self._chain, context.handle, place)
        logits = context.logits(place)
        token = self._draw(_candidates(logits))
        if not self._admits(token, float(logits[token])):
            token = self._draw(self._admitted(logits))
        api.llama_sampler_accept(self._grammar, token)
        api.llama_sampler_accept(self._chain, token)
        return token

    def close(self) -> None:
        """Free the chain and the grammar."""
        api.llama_sampler_free(self._chain)
        if self._grammar is not None:
            api.llama_sampler_free(self._grammar)

    def _draw(self, candidates: NDArray[Any]) -> int:
        array = _array(candidates)
        api.llama_sampler_apply(self._chain, ctypes.byref(array))
        # A sampler may have put another array in the place of ours: only its own pointer counts.
        return int(array.data[array.selected].id)

    def _admits(self, token: int, logit: float) -> bool:
        one = np.array([(token, logit, 0.0)], dtype=_CANDIDATE)
        api.llama_sampler_apply(self._grammar, ctypes.byref(_array(one)))
        return bool(np.isfinite(one["logit"][0]))

    def _admitted(self, logits: NDArray[np.float32]) -> NDArray[Any]:
        candidates = _candidates(logits)
        api.llama_sampler_apply(self._grammar, ctypes.byref(_array(candidates)))
        return candidates[np.isfinite(candidates["logit"])].copy()


def _parts(model: Model, job: Job) -> list[Any]:
    parts: list[Any] = []
    if (job.repetition_penalty, job.frequency_penalty, job.presence_penalty) != (1.0, 0.0, 0.0):
        penalties = (job.repetition_penalty, job.frequency_penalty, job.presence_penalty)
        parts.append(api.llama_sampler_init_penalties(model.vocab_size, PENALTY_WINDOW, *penalties))
    if job.temperature == 0:
        return [*parts, api.llama_sampler_init_greedy()]
    parts.append(api.llama_sampler_init_temp(job.temperature))
    parts.append(api.llama_sampler_init_min_p(NEVER, 1))
    if job.top_p < 1:
        parts.append(api.llama_sampler_init_top_p(job.top_p, 1))
    seed = secrets.randbits(SEED_BITS) if job.seed is None else job.seed
    return [*parts, api.llama_sampler_init_dist(seed)]


def _grammar(model: Model, schema: Mapping[str, Any]) -> Any:
    try:
        grammar = json_schema_to_gbnf(json.dumps(schema))
    except Exception as error:  # the converter fails on a strange schema in any way at all
        raise BadRequestError(f"response_format: the schema is not supported: {error!r}") from error
    handle = api.llama_sampler_init_grammar(model.vocab, grammar.encode(), b"root")
    if not handle:
        raise BadRequestError("response_format: llama.cpp does not accept the schema's grammar")
    return handle


def _candidates(logits: NDArray[np.float32]) -> NDArray[Any]:
    candidates = np.zeros(len(logits), dtype=_CANDIDATE)
    candidates["id"] = np.arange(len(logits), dtype=np.int32)
    candidates["logit"] = logits
    return candidates


def _array(candidates: NDArray[Any]) -> Any:
    data = candidates.ctypes.data_as(api.llama_token_data_p)
    return api.llama_token_data_array(data=data, size=len(candidates), selected=-1, sorted=False)
