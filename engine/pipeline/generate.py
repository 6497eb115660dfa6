"""One model call: render, stream, count. The only place of the pipeline that talks to a model server."""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass
from typing import cast

from engine.api_models import PhaseName, StreamChunk
from engine.errors import ContextOverflowError, ProviderError, RequestAbortedError
from engine.inference.provider import Delta, FinishReason, Message, Request, Sampling
from engine.pipeline.limits import TokenBudget
from engine.pipeline.parts import Parts
from engine.pipeline.prompts import SHRINK, Prompt
from engine.pipeline.turns import Ask

MAX_ABORTS = 8
"""So often one request is asked again: handovers come minutes apart, so more of them means that it is the cause."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Call:
    """Which call of the session this is, and how its tokens are drawn."""

    session_id: str
    phase: PhaseName
    subtask: str
    attempt: int
    """1-based in its loop."""
    seed: int
    temperature: float
    max_tokens: int


@dataclass(frozen=True)
class Answer:
    """What came back, and what it was asked with."""

    prompt: Prompt
    text: str
    finish_reason: FinishReason
    prompt_tokens: int
    completion_tokens: int
    seconds: float
    backend: str = ""
    """That answered; empty where the provider does not say."""


async def generate(parts: Parts, budget: TokenBudget, ask: Ask, call: Call) -> Answer:
    """Ask the model; a prompt that overflows its context is rendered again at half its size, once.

    A request that was aborted for a handover of the device is asked again, and waits until the model serves.

    Raises:
        BudgetExceededError: before the call or in the midst of the answer, which then is lost.
        ContextOverflowError: even the smaller prompt is too long.
        ProviderError
    """
    prompt = parts.prompts.render(ask.template, ask.values)
    try:
        return await _ask(parts, budget, prompt, call)
    except ContextOverflowError:
        smaller = parts.prompts.render(ask.template, ask.values, shrink=SHRINK)
        return await _ask(parts, budget, smaller, call)


async def _ask(parts: Parts, budget: TokenBudget, prompt: Prompt, call: Call) -> Answer:
    for _ in range(MAX_ABORTS):
        try:
            return await _stream(parts, budget, prompt, call)
        except RequestAbortedError as aborted:
            log.info("session %s: %s Asked again.", call.session_id, aborted)
    return await _stream(parts, budget, prompt, call)


async def _stream(parts: Parts, budget: TokenBudget, prompt: Prompt, call: Call) -> Answer:
    budget.check()
    provider = await parts.provider()
    started = parts.clock.monotonic()
    pieces: list[str] = []
    # Closing the generator is what cancels the generation on the server, whatever ends this block.
    async with aclosing(cast("AsyncGenerator[Delta]", provider.stream(_request(parts, prompt, call)))) as deltas:
        last: Delta | None = None
        async for delta in deltas:
            last = delta
            if delta.text:
                pieces.append(_clean(delta.text))
                # A piece is at least a token, so this stops no later than the exact count would.
                budget.check(len(pieces))
                parts.report.chunk(_chunk(call, pieces[-1]))
    if last is None or last.finish_reason is None or last.finish_reason == "cancelled":
        raise ProviderError("The model server ended the answer before its end; its log says why.")
    budget.spend(last.prompt_tokens + last.completion_tokens)
    seconds = parts.clock.monotonic() - started
    return Answer(
        prompt,
        "".join(pieces),
        last.finish_reason,
        last.prompt_tokens,
        last.completion_tokens,
        seconds,
        last.backend,
    )


def _request(parts: Parts, prompt: Prompt, call: Call) -> Request:
    settings = parts.generation
    sampling = Sampling(call.max_tokens, call.temperature, settings.top_p, settings.repetition_penalty, call.seed)
    messages = (Message("system", prompt.system), Message("user", prompt.user))
    return Request(messages, sampling, adapter=parts.adapter_digest)


def _chunk(call: Call, text: str) -> StreamChunk:
    return StreamChunk(
        session_id=call.session_id, phase=call.phase, subtask=call.subtask, attempt=call.attempt, text=text
    )


def _clean(text: str) -> str:
    """Half a surrogate pair cannot be stored as UTF-8; a NUL ends text in too many places to be kept."""
    return text.encode("utf-8", "replace").decode("utf-8").replace("\0", "\N{REPLACEMENT CHARACTER}")
