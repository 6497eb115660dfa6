"""The llama.cpp backend: its C API behind the decode thread."""

from __future__ import annotations

import logging
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from engine.inference.sidecar.backend import BackendError, Job
from engine.inference.sidecar.decode_backend import BackendSettings, DecodeBackend
from engine.inference.sidecar.decode_schedule import CHUNK
from engine.inference.sidecar.llama_native import Context, Lora, Model
from engine.inference.sidecar.llama_sampling import Sampler
from engine.inference.sidecar.lora_gguf import BaseFacts, convert, read_base
from engine.inference.sidecar.published_gguf import take_over
from engine.inference.sidecar.runtime import Entry
from registry.errors import AdapterRejected
from registry.safeload import AdapterLimits

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class LlamaSettings:
    """What the command line says."""

    model: Path
    context_tokens: int
    parallel: int
    threads: int
    limits: AdapterLimits
    scratch: Path | None
    """Folder for converted adapters; None means a temporary one."""


class LlamaRuntime:
    """A `Runtime` over llama.cpp."""

    adapter_suffix = ".gguf"

    def __init__(self, settings: LlamaSettings) -> None:
        self._settings = settings

    def load(self) -> tuple[Model, Context]:
        settings = self._settings
        model = Model(settings.model)
        context = None
        try:
            batch = max(CHUNK, settings.parallel)
            context = Context(model, settings.context_tokens, settings.parallel, batch, settings.threads)
            context.decode([Entry(max(model.bos(), 0), 0, 0, True)])
            context.keep(0, 0)
            with suppress(AdapterRejected):  # a base without adapters is none the worse for it
                _ = self._base  # read now, while nobody waits; the first adapter would wait for it
        except BackendError:
            if context is not None:
                context.close()
            model.close()
            raise
        return model, context

    def prepare(self, directory: Path, file: Path, gguf_sha256: str | None) -> None:
        limits = self._settings.limits
        if gguf_sha256 is not None:
            problem = take_over(directory, gguf_sha256, self._base, limits.max_bytes, file)
            if not problem:
                return
            log.warning("the GGUF form of %s is not used, it is converted anew: %s", directory.name, problem)
        convert(directory, self._base, limits, file)

    def attach(self, model: Model, file: Path) -> Lora:
        return Lora(model, file)

    def sampler(self, model: Model, job: Job) -> Sampler:
        return Sampler(model, job)

    @cached_property
    def _base(self) -> BaseFacts:
        return read_base(self._settings.model)


class LlamaBackend(DecodeBackend):
    """A `Backend` over llama.cpp."""

    def __init__(self, settings: LlamaSettings) -> None:
        sizes = BackendSettings(settings.context_tokens, settings.parallel, settings.scratch)
        super().__init__("llamacpp", LlamaRuntime(settings), sizes)
