"""The engine's side of merging: what the child is asked, and what is made of its words.

errand ─► words ─► output checked for its base, GGUF form ─► Made
"""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import asynccontextmanager
from itertools import combinations
from pathlib import Path

from engine.api_evolution import MergeRequest
from engine.config import Config
from engine.errors import InputError
from engine.evolution.errands import Errand, Errands, Tell, program, tell_nobody
from engine.evolution.merging.spec import (
    Cosines,
    Failure,
    Learning,
    Limits,
    Measured,
    Merge,
    Merged,
    MergeRefusedError,
    ParentFiles,
    Progress,
    RandomAdapter,
    read_word,
)
from engine.evolution.seams import Made
from engine.training.publish import make_gguf
from engine.training.workplace import Workplace
from registry.files import run_to_end
from registry.models import LoadableAdapter

PROGRAM = program("engine.evolution.merging")
SILENCE_S = 900.0
"""Between two words: the largest matrix of a large model in delta space, on a busy machine."""
ERRAND = Errand("merger", "merging", "merging process", SILENCE_S, MergeRefusedError)

log = logging.getLogger(__name__)


class Merger:
    """Merges adapters, compares them and makes random ones. One at a time; others wait."""

    def __init__(self, config: Config, home: Path, program: tuple[str, ...] = PROGRAM) -> None:
        """
        Args:
            program: the child; it gets the path of its spec as the last argument.
        """
        self._config = config
        self._errands = Errands(home, ERRAND, program)

    async def recover(self) -> None:
        """Remove what a killed engine left. Before anything is merged."""
        await self._errands.recover()

    @asynccontextmanager
    async def merge(
        self,
        request: MergeRequest,
        parents: Sequence[LoadableAdapter],
        progress: Tell = tell_nobody,
        learning: Learning | None = None,
    ) -> AsyncGenerator[Made]:
        """One adapter of several, in a directory that is gone when the block ends. Its facts are those of `Merged`.

        Args:
            learning: of `cat-learned`.

        Raises:
            InputError: an adapter is named twice, or the weights are not one for each.
            MergeRefusedError: they cannot be merged; the message says why.
        """
        base = check_mergeable(request, parents)
        async with self._errands.place() as place:
            spec = Merge(
                parents=tuple(map(parent_files, parents)),
                base_model_id=base,
                learning=learning,
                limits=self._limits(),
                output=place.output,
                **request.model_dump(include={"method", "weights", "density", "sign", "rank", "space", "seed"}),
            )
            said = await self._run(place, spec, progress)
            assert isinstance(said, Merged), "a merge ends with what was merged"
            yield await self._made(place, base, said)

    @asynccontextmanager
    async def random_like(self, adapter: LoadableAdapter, seed: int) -> AsyncGenerator[Made]:
        """Random directions with each module's norm as the adapter has it: the control of everything learned.

        Raises:
            MergeRefusedError: the adapter cannot be read.
        """
        base = adapter.adapter.base_model_id
        async with self._errands.place() as place:
            spec = RandomAdapter(
                parents=(parent_files(adapter),),
                base_model_id=base,
                seed=seed,
                limits=self._limits(),
                output=place.output,
            )
            said = await self._run(place, spec, tell_nobody)
            assert isinstance(said, Merged), "an adapter was made"
            yield await self._made(place, base, said)

    async def cosines(self, adapters: Sequence[LoadableAdapter]) -> Mapping[frozenset[str], float]:
        """Cosine of the deltas of each pair of ids; pairs of different base models are left out.

        Raises:
            MergeRefusedError: one of them cannot be read, or is not of the base model that it names.
        """
        found: dict[frozenset[str], float] = {}
        for base in sorted({adapter.adapter.base_model_id for adapter in adapters}):
            alike = [adapter for adapter in adapters if adapter.adapter.base_model_id == base]
            if len(alike) > 1:
                found |= await self._cosines(alike)
        return found

    async def _cosines(self, adapters: Sequence[LoadableAdapter]) -> Mapping[frozenset[str], float]:
        async with self._errands.place() as place:
            spec = Cosines(parents=tuple(map(parent_files, adapters)), limits=self._limits())
            said = await self._run(place, spec, tell_nobody)
        assert isinstance(said, Measured), "cosines were asked for"
        ids = [adapter.adapter.id for adapter in adapters]
        pairs = combinations(range(len(ids)), 2)
        return {frozenset({ids[first], ids[second]}): said.cosines[first][second] for first, second in pairs}

    # --- the child ---

    async def _run(self, place: Workplace, spec: Merge | RandomAdapter | Cosines, progress: Tell) -> Merged | Measured:
        async def hear(line: bytes) -> Merged | Measured | None:
            match read_word(line):
                case Progress(done=done, total=total, note=note):
                    await progress(done, total, note)
                    return None
                case Failure(reason=reason):
                    raise MergeRefusedError(reason)
                case Merged() | Measured() as said:
                    return said

        return await self._errands.run(place, spec, hear)

    async def _made(self, place: Workplace, base: str, said: Merged) -> Made:
        missing = f"its base model is {base}, and {self._config.model.base_id} is served"
        if base == self._config.model.base_id:
            missing = await run_to_end(lambda: make_gguf(self._config, place))
        if missing:
            log.warning("the merged adapter has no GGUF form: %s", missing)
        facts = {**said.model_dump(mode="json"), "no_gguf": missing}
        return Made(place.output, None if missing else place.gguf, facts)

    def _limits(self) -> Limits:
        limits = self._config.registry
        return Limits(max_bytes=limits.max_adapter_mb << 20, max_rank=limits.max_rank)


def check_mergeable(request: MergeRequest, parents: Sequence[LoadableAdapter]) -> str:
    """What can be said before their weights are read; gives their base model's id.

    Raises:
        InputError: an adapter is named twice, or the weights are not one for each.
        MergeRefusedError: they are of different base models.
    """
    seen: set[str] = set()
    for parent in parents:
        if parent.adapter.digest in seen:
            raise InputError(f"{parent.adapter.id} is there twice: give it a larger weight instead.")
        seen.add(parent.adapter.digest)
    if request.weights and len(request.weights) != len(parents):
        raise InputError(f"There are {len(request.weights)} weights for {len(parents)} adapters: give one for each.")
    first = parents[0].adapter
    for parent in parents:
        if parent.adapter.base_model_id != first.base_model_id:
            raise MergeRefusedError(
                f"{first.id} is for {first.base_model_id} and {parent.adapter.id} for {parent.adapter.base_model_id}: "
                "only adapters of one base model can be merged."
            )
    return first.base_model_id


def parent_files(parent: LoadableAdapter) -> ParentFiles:
    """How the child is told of an adapter."""
    adapter = parent.adapter
    return ParentFiles(id=adapter.id, directory=parent.directory, sha256=adapter.file_hash, key=adapter.digest)
