"""The event loop's side of `decode_thread`: a `Backend` over any runtime.

It keeps what outlives a sleep: which adapters are loaded, and their prepared files. How many there may be is not for it
to say: the engine loads and unloads, and a server that let one go by itself would answer 404 for what is thought live.
"""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

from engine.inference.sidecar.adapter_files import directory_digest
from engine.inference.sidecar.backend import (
    AdapterInfo,
    AdapterMissingError,
    AsleepError,
    BackendError,
    BadRequestError,
    Generation,
    Job,
    Piece,
    PromptTooLongError,
    Stats,
)
from engine.inference.sidecar.chat_template import ChatTemplate
from engine.inference.sidecar.decode_thread import DecodeThread, Task
from engine.inference.sidecar.runtime import Model, Runtime
from registry.errors import AdapterRejected

T = TypeVar("T")


@dataclass(frozen=True)
class BackendSettings:
    """Sizes and places, whichever the library."""

    context_tokens: int
    """Of one request, prompt and answer together."""
    parallel: int
    scratch: Path | None
    """Folder for prepared adapters; None means a temporary one."""


@dataclass(frozen=True)
class _Adapter:
    path: str
    digest: str
    file: Path


class DecodeBackend:
    """A `Backend`: the decode thread's work, seen from the event loop."""

    def __init__(self, name: str, runtime: Runtime, settings: BackendSettings) -> None:
        """Starts nothing; makes the folder of prepared adapters."""
        self._name = name
        self._runtime = runtime
        self._settings = settings
        self._thread = DecodeThread(runtime, settings.parallel)
        self._adapters: dict[str, _Adapter] = {}
        self._changing = asyncio.Lock()
        self._sleeping = False
        self._template: ChatTemplate | None = None
        self._scratch = Path(tempfile.mkdtemp(prefix="adapters-", dir=settings.scratch))

    @property
    def name(self) -> str:
        return self._name

    @property
    def context_tokens(self) -> int:
        return self._settings.context_tokens

    @property
    def sleeping(self) -> bool:
        return self._sleeping

    async def start(self) -> None:
        self._thread.start()
        await self._in_thread(self._thread.load)
        self._template = await self._in_thread(self._read_template)

    async def submit(self, job: Job) -> Generation:
        self._require_awake()
        adapter = self._adapters.get(job.adapter) if job.adapter is not None else None
        if job.adapter is not None and adapter is None:
            raise AdapterMissingError(f"The model `{job.adapter}` does not exist.")
        pieces: asyncio.Queue[Piece | BackendError] = asyncio.Queue()
        loop = asyncio.get_running_loop()

        def sink(piece: Piece | BackendError) -> None:
            loop.call_soon_threadsafe(pieces.put_nowait, piece)

        task = await self._in_thread(partial(self._enqueue, job, adapter and adapter.digest, sink))
        return Generation(len(task.prompt), _pieces(pieces), task.cancelled.set)

    async def load_adapter(self, name: str, path: str, gguf_sha256: str | None = None) -> None:
        async with self._changing:
            self._require_awake()
            digest = await asyncio.to_thread(directory_digest, path)
            known = self._adapters.get(name)
            if known is not None and known.digest == digest:
                return
            if known is not None:
                raise BadRequestError(f"The lora adapter '{name}' has already been loaded with other weights.")
            file = self._scratch / f"{digest}{self._runtime.adapter_suffix}"
            await asyncio.to_thread(self._prepare, path, file, gguf_sha256)
            await self._attach(digest, file)
            self._adapters[name] = _Adapter(path, digest, file)

    async def unload_adapter(self, name: str) -> None:
        async with self._changing:
            if name not in self._adapters:
                raise AdapterMissingError(f"The lora adapter '{name}' cannot be found.")
            await self._forget(name)

    def adapters(self) -> tuple[AdapterInfo, ...]:
        return tuple(AdapterInfo(name, adapter.path) for name, adapter in sorted(self._adapters.items()))

    async def sleep(self, level: int) -> None:
        async with self._changing:
            self._sleeping = True
            # Level 0 only stops the work; the model stays where it is.
            await self._in_thread(self._thread.abort if level == 0 else self._thread.unload)

    async def wake(self) -> None:
        async with self._changing:
            await self._in_thread(self._reload)
            self._sleeping = False

    def stats(self) -> Stats:
        return self._thread.stats()

    async def aclose(self) -> None:
        self._sleeping = True
        await asyncio.to_thread(self._thread.close)
        await asyncio.to_thread(shutil.rmtree, self._scratch, True)

    async def _forget(self, name: str) -> None:
        adapter = self._adapters.pop(name)
        if any(other.digest == adapter.digest for other in self._adapters.values()):
            return
        await self._in_thread(partial(self._thread.retire, adapter.digest))
        await asyncio.to_thread(adapter.file.unlink, True)

    def _prepare(self, path: str, file: Path, gguf_sha256: str | None) -> None:
        try:
            self._runtime.prepare(Path(path), file, gguf_sha256)
        except AdapterRejected as error:
            raise BadRequestError(f"The adapter is not acceptable: {error}") from error

    async def _attach(self, digest: str, file: Path) -> None:
        try:
            await self._in_thread(partial(self._thread.attach, digest, file))
        except AsleepError:
            raise
        except BackendError as error:
            raise BadRequestError(str(error)) from error

    def _reload(self) -> None:
        if not self._thread.loaded:
            self._thread.load()
        for adapter in self._adapters.values():
            self._thread.attach(adapter.digest, adapter.file)

    def _read_template(self) -> ChatTemplate | None:
        model = self._thread.model()
        source = model.chat_template()
        if source is None:
            return None
        return ChatTemplate(source, model.special_text(model.bos()), model.special_text(model.eos()))

    def _enqueue(self, job: Job, group: str | None, sink: Callable[[Piece | BackendError], None]) -> Task:
        model = self._thread.model()
        prompt = self._tokens(model, job)
        room = self._settings.context_tokens - len(prompt)
        if room <= 0:
            raise PromptTooLongError(self._settings.context_tokens, len(prompt))
        if not prompt:
            raise BadRequestError("the prompt is empty")
        task = Task(job, group, prompt, min(room, job.max_tokens or room), self._runtime.sampler(model, job), sink)
        try:
            self._thread.submit(task)
        except BackendError:
            task.sampler.close()
            raise
        return task

    def _tokens(self, model: Model, job: Job) -> list[int]:
        if isinstance(job.prompt, str):
            return model.tokenize(job.prompt, add_special=True, parse_special=False)
        if self._template is None:
            raise BadRequestError("this model has no chat template; use /v1/completions")
        text = self._template.render(job.prompt)
        bos = model.special_text(model.bos())
        # A template that writes the first token itself must not get it twice.
        return model.tokenize(text, add_special=not (bos and text.startswith(bos)), parse_special=True)

    async def _in_thread(self, function: Callable[[], T]) -> T:
        return await asyncio.wrap_future(self._thread.call(function))

    def _require_awake(self) -> None:
        if self._sleeping:
            raise AsleepError("The model is asleep; POST /wake_up first.")


async def _pieces(source: asyncio.Queue[Piece | BackendError]) -> AsyncGenerator[Piece, None]:
    """What the decode thread says, joined where the reader is slower than the writer."""
    while True:
        piece = await source.get()
        while isinstance(piece, Piece) and piece.finish is None and not source.empty():
            following = source.get_nowait()
            if isinstance(following, BackendError):
                raise following
            piece = _joined(piece, following)
        if isinstance(piece, BackendError):
            raise piece
        yield piece
        if piece.finish is not None:
            return


def _joined(first: Piece, second: Piece) -> Piece:
    text, tokens = first.text + second.text, first.tokens + second.tokens
    return Piece(text, tokens, first.logprobs + second.logprobs, second.finish)
