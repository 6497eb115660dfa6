"""The scripted backend: no model, the whole protocol, and the same answer every time.

It ships with the product: `rune-tui demo` and the unit tests run on it. What it answers is in `script`.
A token is a word with the white space before it.
"""

from __future__ import annotations

import asyncio
import re
import zlib
from collections.abc import AsyncGenerator, Callable
from contextlib import suppress

from engine.inference.sidecar.backend import (
    AdapterInfo,
    AdapterMissingError,
    AsleepError,
    BackendError,
    BadRequestError,
    Finish,
    Generation,
    Job,
    Piece,
    PromptTooLongError,
    Stats,
    TokenLogprob,
)
from engine.inference.sidecar.script import Answer, Failure, Script
from engine.inference.sidecar.text import StopScanner

DigestOf = Callable[[str], str]
"""Digest of the adapter directory at a path. Blocks; raises AdapterMissingError or BadRequestError."""


class ScriptedFailureError(BackendError):
    """The error that a rule's `fail` asks for."""

    kind = "ScriptedError"

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.message)
        self.status = failure.status


class ScriptedBackend:
    """A `Backend` that answers from a script; up to `parallel` answers run side by side, the rest wait."""

    def __init__(self, script: Script, digest_of: DigestOf, context_tokens: int, parallel: int) -> None:
        self._script = script
        self._digest_of = digest_of
        self._context = context_tokens
        self._slots = asyncio.Semaphore(parallel)
        self._adapters: dict[str, tuple[str, str]] = {}
        self._loading = asyncio.Lock()
        self._running: set[asyncio.Event] = set()
        self._waiting = 0
        self._prompt_tokens = 0
        self._generated = 0
        self._sleeping = False

    @property
    def name(self) -> str:
        return "scripted"

    @property
    def context_tokens(self) -> int:
        return self._context

    @property
    def sleeping(self) -> bool:
        return self._sleeping

    async def start(self) -> None:
        """There is nothing to load."""

    async def submit(self, job: Job) -> Generation:
        self._require_awake()
        prompt_tokens = _count(job)
        if prompt_tokens >= self._context:
            raise PromptTooLongError(self._context, prompt_tokens)
        answer = self._script.answer(job)
        if answer.rule.fail is not None and answer.rule.fail.after_tokens == 0:
            raise ScriptedFailureError(answer.rule.fail)
        self._prompt_tokens += prompt_tokens
        cancelled = asyncio.Event()
        room = self._context - prompt_tokens
        limit = min(room, job.max_tokens or room)
        return Generation(prompt_tokens, self._pieces(job, answer, limit, cancelled), cancelled.set)

    async def _pieces(
        self, job: Job, answer: Answer, limit: int, cancelled: asyncio.Event
    ) -> AsyncGenerator[Piece, None]:
        self._waiting += 1
        try:
            await self._slots.acquire()
        finally:
            self._waiting -= 1
        self._running.add(cancelled)
        try:
            async for piece in self._speak(job, answer, limit, cancelled):
                self._generated += piece.tokens
                yield piece
        finally:
            self._running.discard(cancelled)
            self._slots.release()

    async def _speak(
        self, job: Job, answer: Answer, limit: int, cancelled: asyncio.Event
    ) -> AsyncGenerator[Piece, None]:
        scanner = StopScanner(job.stop)
        words = re.findall(r"\s*\S+|\s+$", answer.text)
        for position, word in enumerate(words[:limit]):
            await _pause(answer.rule.token_seconds, cancelled)
            if cancelled.is_set():
                yield Piece("", finish=Finish.ABORT)
                return
            if answer.rule.fail is not None and position >= answer.rule.fail.after_tokens:
                raise ScriptedFailureError(answer.rule.fail)
            yield Piece(scanner.push(word), tokens=1, logprobs=_logprobs(job, position, word))
            if scanner.hit:
                yield Piece("", finish=Finish.STOP)
                return
        cut = len(words) > limit
        yield Piece(scanner.flush(), finish=Finish.LENGTH if cut else Finish(answer.rule.finish_reason))

    async def load_adapter(self, name: str, path: str, gguf_sha256: str | None = None) -> None:
        self._require_awake()
        async with self._loading:
            digest = await asyncio.to_thread(self._digest_of, path)
            known = self._adapters.get(name)
            if known is not None and known[1] != digest:
                raise BadRequestError(f"The lora adapter '{name}' has already been loaded with other weights.")
            self._adapters[name] = (path, digest)

    async def unload_adapter(self, name: str) -> None:
        if self._adapters.pop(name, None) is None:
            raise AdapterMissingError(f"The lora adapter '{name}' cannot be found.")

    def adapters(self) -> tuple[AdapterInfo, ...]:
        return tuple(AdapterInfo(name, path) for name, (path, _) in sorted(self._adapters.items()))

    async def sleep(self, level: int) -> None:
        self._sleeping = True
        for cancelled in self._running:
            cancelled.set()

    async def wake(self) -> None:
        self._sleeping = False

    def stats(self) -> Stats:
        return Stats(len(self._running), self._waiting, self._prompt_tokens, self._generated)

    async def aclose(self) -> None:
        await self.sleep(1)

    def _require_awake(self) -> None:
        if self._sleeping:
            raise AsleepError("The model is asleep; POST /wake_up first.")


async def _pause(seconds: float, cancelled: asyncio.Event) -> None:
    """Let others run, and wait that long unless cancelled."""
    if seconds == 0:
        await asyncio.sleep(0)
        return
    with suppress(TimeoutError):
        await asyncio.wait_for(cancelled.wait(), seconds)


def _count(job: Job) -> int:
    text = job.prompt if isinstance(job.prompt, str) else " ".join(turn.content for turn in job.prompt)
    return max(1, len(text.split()))


def _logprobs(job: Job, position: int, word: str) -> tuple[TokenLogprob, ...]:
    """Made up, but the same for the same adapter, place and word, and never positive."""
    if job.top_logprobs is None:
        return ()
    value = -(zlib.crc32(f"{job.adapter}/{position}/{word}".encode()) % 1000) / 1000
    top = ((word, value), *((f" word{rank}", value - rank) for rank in range(1, job.top_logprobs)))
    return (TokenLogprob(word, value, top[: job.top_logprobs]),)
