"""What a model server said while it was known to be right, and whether it still says it.

A server that wakes can answer 200 and be wrong: weights that were not reloaded, an adapter that was not attached
(vLLM #54235, #53888). So before it sleeps the base and every live adapter say a few greedy tokens to one prompt, and
after each wake and each switch back they must say the same ones with the same log-probabilities.

The prompt leaves the model undecided on purpose: where it is certain, every log-probability is near 0 and a damaged
model's may be near 0 as well.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from engine.device.contracts import Oracle, OracleMismatchError, Utterance
from engine.errors import ProviderError
from engine.inference.openai_client import OpenAIProvider
from engine.inference.provider import Message, Provider, Request, Sampling

if TYPE_CHECKING:
    import httpx2

ORACLE_PROMPT = "Once, by the sea, there was"
"""A few tokens without a chat template: a long prompt is what a check of eight tokens would spend its time on."""
ANSWER_SECONDS = 300.0
"""For a few tokens: the first ones after a start may compile kernels. The owner's deadlines are shorter."""


async def record(provider: Provider, models: Sequence[str], tokens: int, *, base: str) -> Oracle:
    """Greedy tokens of each model, one after the other, so that none depends on what is decoded beside it.

    Args:
        models: names, the base model's or adapters'.
        base: which of them is the base model's.

    Raises:
        ProviderError: it did not answer, or not with the log-probabilities that it was asked for.
    """
    return Oracle(tuple([(name, await _speak(provider, name, base, tokens)) for name in models]))


def mismatch(recorded: Oracle, said: Oracle, tolerance: float) -> str | None:
    """The first difference as a sentence; None where there is none.

    Args:
        tolerance: how far two log-probabilities of the same token may be apart.
    """
    now = dict(said.by_model)
    for model, was in recorded.by_model:
        utterance = now.get(model)
        if utterance is None:
            return f"{model} was not asked"
        difference = _difference(was, utterance, tolerance)
        if difference is not None:
            return f"{model} {difference}"
    return None


async def verify(provider: Provider, recorded: Oracle, tokens: int, tolerance: float) -> None:
    """Ask again and compare.

    Raises:
        OracleMismatchError: names the model and the token.
        ProviderError: it did not answer.
    """
    models = [model for model, _ in recorded.by_model]
    said = await record(provider, models, tokens, base=models[0])
    difference = mismatch(recorded, said, tolerance)
    if difference is not None:
        raise OracleMismatchError(f"The model server does not answer as before: {difference}.")


def _difference(was: Utterance, now: Utterance, tolerance: float) -> str | None:
    for place, (old, new) in enumerate(zip(was.tokens, now.tokens, strict=False), start=1):
        if old != new:
            return f"says {new!r} as token {place} where it said {old!r}"
    if len(was.tokens) != len(now.tokens):
        return f"says {len(now.tokens)} tokens where it said {len(was.tokens)}"
    if len(was.logprobs) != len(now.logprobs):
        return f"gives {len(now.logprobs)} log-probabilities where it gave {len(was.logprobs)}"
    for place, (before, after) in enumerate(zip(was.logprobs, now.logprobs, strict=True), start=1):
        # Written so that a NaN, which a broken model gives, is a difference too.
        if not abs(before - after) <= tolerance:
            return f"gives token {place} the log-probability {after:.4f} where it gave {before:.4f}"
    return None


async def _speak(provider: Provider, model: str, base: str, tokens: int) -> Utterance:
    if isinstance(provider, OpenAIProvider):
        return await _with_logprobs(provider, model, tokens)
    greedy = Sampling(max_tokens=tokens, temperature=0.0, top_p=1.0, repetition_penalty=1.0, seed=0)
    adapter = None if model == base else model
    answer = await provider.generate(Request((Message("user", ORACLE_PROMPT),), greedy, adapter))
    return Utterance((answer.text,), ())


async def _with_logprobs(provider: OpenAIProvider, model: str, tokens: int) -> Utterance:
    body: dict[str, Any] = {
        "model": model,
        "prompt": ORACLE_PROMPT,
        "max_tokens": tokens,
        "temperature": 0.0,
        "seed": 0,
        "logprobs": 1,
    }
    response = await provider.call("POST", "/v1/completions", body, timeout_s=ANSWER_SECONDS)
    return _utterance(model, response)


def _utterance(model: str, response: httpx2.Response) -> Utterance:
    if response.status_code != 200:
        raise ProviderError(f"The model server answered {response.status_code} for {model}: {response.text[:500]}")
    try:
        said = response.json()["choices"][0]["logprobs"]
        tokens = tuple(str(token) for token in said["tokens"])
        return Utterance(tokens, tuple(float(logprob) for logprob in said["token_logprobs"]))
    except (ValueError, KeyError, TypeError, IndexError) as error:
        raise ProviderError(f"The model server gave no log-probabilities for {model}.") from error
