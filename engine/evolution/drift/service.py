"""The engine's side of measuring perplexity: what can be said without a child, one child at a time, what is known.

    known for these digests? ──yes──────────────────────────────────────────────────────► figures
          │ no: base fits, memory suffices ─► spec.json ─► child under a guardian ─► figures, kept
          └─ otherwise ─► UnmeasuredError, whose sentence stands in the evidence
                               │ cancelled, silent or at it for too long: the tree is ended, the place removed

It uses no GPU: whatever serves keeps its memory, and a promotion can be looked at while a model is trained.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path

import psutil

from engine.api_evolution import TextDrift
from engine.config import Config
from engine.evolution.drift.figures import WINDOW
from engine.evolution.drift.spec import DriftSpec, Failure, Figures, Progress, UnmeasuredError, read_word
from engine.evolution.drift.text import general_text, text_digest
from engine.evolution.errands import Errand, Errands, Tell, program
from engine.evolution.merging.service import parent_files
from engine.evolution.merging.spec import Limits
from engine.inference.base_weights import BaseWeights, ensure_base_weights
from engine.training.base import look_at_base
from engine.training.estimate import PROCESS_MIB, ModelShape
from registry.clock import Clock, timestamp
from registry.db import Database
from registry.files import run_to_end
from registry.models import LoadableAdapter

PROGRAM = program("engine.evolution.drift")
SILENCE_S = 600.0
"""Between two words: loading a model of 30 GB from a disk, or one window of a large one on a busy machine."""
LIMIT_S = 1800.0
"""All of it. Evidence that takes longer than its duel would be asked for by nobody."""
ERRAND = Errand("measurer", "measuring", "measuring process", SILENCE_S, UnmeasuredError)
MIB = 1 << 20
FLOAT32_BYTES = 4
WITHOUT_WEIGHTS = frozenset({"scripted", "ollama"})
"""Backends whose base model is not a file of ours."""

_FIND = "SELECT figures FROM text_drifts WHERE adapter_digest = ? AND base_digest = ? AND text_digest = ?"
_KEEP = "INSERT INTO text_drifts VALUES (?, ?, ?, ?, ?) ON CONFLICT DO NOTHING"


def available_mib() -> int:
    """Memory of this machine that a new process can have without anything being swapped out."""
    return psutil.virtual_memory().available // MIB


def need_mib(shape: ModelShape) -> int:
    """Resident memory of the child, in MiB: the model in float32, and what one window adds to it."""
    weights = (shape.linear_weights + shape.embedding_weights) * FLOAT32_BYTES
    # Logits of both models, one of them once more while it is made; and the widest tensors of a layer.
    logits = 3 * WINDOW * shape.vocabulary * FLOAT32_BYTES
    layer = 4 * WINDOW * (shape.hidden + shape.intermediate) * FLOAT32_BYTES
    return PROCESS_MIB + (weights + logits + layer) // MIB


class Drift:
    """Measures adapters on the general text, each once. One at a time; others wait. Implements `seams.Drifting`."""

    def __init__(
        self,
        config: Config,
        home: Path,
        db: Database,
        clock: Clock,
        program: tuple[str, ...] = PROGRAM,
        free_mib: Callable[[], int] = available_mib,
    ) -> None:
        """
        Args:
            program: the child; it gets the path of its spec as the last argument.
        """
        self._config = config
        self._home = home
        self._errands = Errands(home, ERRAND, program)
        self._db = db
        self._clock = clock
        self._free_mib = free_mib
        self._turn = asyncio.Lock()

    async def recover(self) -> None:
        """Remove what a killed engine left. Before anything is measured."""
        await self._errands.recover()

    async def measure(self, adapter: LoadableAdapter, progress: Tell) -> TextDrift:
        """Perplexity of the base model and of the adapter on the general text, and the KL divergence.

        Raises:
            UnmeasuredError: it cannot be measured here; the sentence says why.
            RuneError: the base model is not there or cannot be unpacked.
        """
        self._check(adapter)
        async with self._turn:
            text = await run_to_end(general_text)
            looked = await run_to_end(lambda: look_at_base(self._config, self._home))
            known = await self._known(adapter, looked.digest, text)
            if known is not None:
                return known
            self._check_memory(looked.shape)  # before it is unpacked: of a large model that takes minutes and much disk
            await progress(0, 1, "unpacking the base model")
            base = await ensure_base_weights(self._config, self._home, lambda line: None)
            found = await self._run(adapter, base, text, progress)
            return await self._keep(adapter, base, text, found)

    # --- what can be said without a child ---

    def _check(self, adapter: LoadableAdapter) -> None:
        config, base = self._config, adapter.adapter.base_model_id
        if config.evaluation.max_perplexity_rise == 0:
            raise UnmeasuredError("evaluation.max_perplexity_rise is 0.")
        if config.inference.backend in WITHOUT_WEIGHTS:
            raise UnmeasuredError(f"The backend {config.inference.backend} has no base model that can be opened here.")
        if base != config.model.base_id:
            raise UnmeasuredError(f"Its base model is {base}, and {config.model.base_id} is served.")

    def _check_memory(self, shape: ModelShape) -> None:
        need, free = need_mib(shape), self._free_mib()
        if need > free:
            raise UnmeasuredError(
                f"It takes about {need} MiB of memory and {free} MiB are free: end other programs and ask again."
            )

    # --- what is known ---

    async def _known(self, adapter: LoadableAdapter, base_digest: str, text: str) -> TextDrift | None:
        key = (adapter.adapter.digest, base_digest, text_digest(text))
        row = await self._db.read(lambda reader: reader.execute(_FIND, key).fetchone())
        return None if row is None else TextDrift.model_validate_json(row["figures"])

    async def _keep(self, adapter: LoadableAdapter, base: BaseWeights, text: str, found: Figures) -> TextDrift:
        drift = TextDrift(
            text_digest=text_digest(text),
            base_digest=base.digest,
            **found.model_dump(include={"tokens", "base_perplexity", "adapter_perplexity", "kl"}),
        )
        key = (adapter.adapter.digest, drift.base_digest, drift.text_digest)
        row = (*key, json.dumps(drift.model_dump(mode="json")), timestamp(self._clock.now()))
        await self._db.write(lambda tx: tx.execute(_KEEP, row))
        return drift

    # --- the child ---

    async def _run(self, adapter: LoadableAdapter, base: BaseWeights, text: str, progress: Tell) -> Figures:
        limits = self._config.registry
        spec = DriftSpec(
            base_directory=base.directory.absolute(),
            adapter=parent_files(adapter),
            limits=Limits(max_bytes=limits.max_adapter_mb << 20, max_rank=limits.max_rank),
            text=text,
        )

        async def hear(line: bytes) -> Figures | None:
            match read_word(line):
                case Progress(done=done, total=total):
                    await progress(done, total, f"{done} of {total} windows")
                    return None
                case Failure(reason=reason):
                    raise UnmeasuredError(reason)
                case Figures() as said:
                    return said

        async with self._errands.place() as place:
            try:
                async with asyncio.timeout(LIMIT_S):
                    return await self._errands.run(place, spec, hear)
            except TimeoutError as error:
                raise UnmeasuredError(f"It took longer than {LIMIT_S / 60:.0f} minutes.") from error
