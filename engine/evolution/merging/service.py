"""The engine's side of merging: one child process at a time, its words, and the directory it works in.

    place ─► spec.json ─► child under a guardian ─► words ─► output checked for its base, GGUF form ─► Made
                               │ cancelled, silent for too long, or killed: the tree is ended, the place removed

It uses no GPU. A place is `RUNE_HOME/merging/<name>`; what a killed engine left is removed by `recover`.
"""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
import shutil
import sys
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import asynccontextmanager
from itertools import combinations
from pathlib import Path
from typing import Protocol

from engine.api_evolution import MergeRequest
from engine.config import Config
from engine.device.guarded import Command, Guarded, spawn
from engine.errors import InputError
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
from engine.logs import tail
from engine.training.publish import make_gguf
from engine.training.workplace import Workplace
from registry.files import run_to_end
from registry.models import LoadableAdapter

ROLE = "merger"
PROGRAM = (sys.executable, "-P", "-m", "engine.evolution.merging")
SILENCE_S = 900.0
"""Between two words: the largest matrix of a large model in delta space, on a busy machine."""
GRACE_S = 2.0
"""From TERM to KILL; there is nothing to save."""
TAIL_BYTES = 2000
"""Of the log, in the reason of a merge that failed without saying why."""
INHERITED = ("PATH", "HOME", "LANG", "LC_ALL", "TMPDIR", "LD_LIBRARY_PATH")
"""All that the child sees of our environment."""
SETTINGS = {
    # Nothing is ever fetched: what is missing is an error here, not a download.
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "CUDA_VISIBLE_DEVICES": "",
    # Numpy's threads spin for each other. Beside other work that took 16 times the CPU of one thread, and 18 times as
    # long; alone, a second thread could halve the time at best.
    "OPENBLAS_NUM_THREADS": "1",
}
"""Of the child's environment, whatever ours is."""

log = logging.getLogger(__name__)


class Tell(Protocol):
    """See `engine.operations.Progress`."""

    async def __call__(self, done: int, total: int, note: str = "") -> None:
        """So many steps of so many are done."""
        ...


async def tell_nobody(done: int, total: int, note: str = "") -> None:
    """For whoever does not watch."""


class Merger:
    """Merges adapters, compares them and makes random ones. One at a time; others wait."""

    def __init__(self, config: Config, home: Path, program: tuple[str, ...] = PROGRAM) -> None:
        """
        Args:
            program: the child; it gets the path of its spec as the last argument.
        """
        self._config = config
        self._home = home
        self._program = program
        self._turn = asyncio.Lock()

    @property
    def _places(self) -> Path:
        return self._home / "merging"

    async def recover(self) -> None:
        """Remove what a killed engine left. Before anything is merged."""
        await run_to_end(lambda: shutil.rmtree(self._places, ignore_errors=True))

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
        async with self._place() as place:
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
        async with self._place() as place:
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
        async with self._place() as place:
            spec = Cosines(parents=tuple(map(parent_files, adapters)), limits=self._limits())
            said = await self._run(place, spec, tell_nobody)
        assert isinstance(said, Measured), "cosines were asked for"
        ids = [adapter.adapter.id for adapter in adapters]
        pairs = combinations(range(len(ids)), 2)
        return {frozenset({ids[first], ids[second]}): said.cosines[first][second] for first, second in pairs}

    # --- the child ---

    @asynccontextmanager
    async def _place(self) -> AsyncGenerator[Workplace]:
        place = Workplace(self._places / secrets.token_hex(8))
        await run_to_end(lambda: place.root.mkdir(mode=0o700, parents=True))
        try:
            yield place
        finally:
            await run_to_end(place.remove)

    async def _run(self, place: Workplace, spec: Merge | RandomAdapter | Cosines, progress: Tell) -> Merged | Measured:
        await run_to_end(lambda: place.spec.write_text(spec.model_dump_json(), encoding="utf-8"))
        async with self._turn:
            child = await spawn(self._command(place))
            try:
                said = await self._listen(child, progress)
            finally:  # cancelled, refused or done: nothing of it goes on
                await stop(child)
        if said is None:
            ended = await child.wait()
            last = await run_to_end(lambda: tail(place.log, TAIL_BYTES))
            raise MergeRefusedError(f"The merging process {ended.reason}; its log ends: {last or 'empty'}")
        return said

    async def _listen(self, child: Guarded, progress: Tell) -> Merged | Measured | None:
        assert child.stdout is not None, "its output is piped"
        while True:
            try:
                async with asyncio.timeout(SILENCE_S):
                    line = await child.stdout.readline()
            except TimeoutError as error:
                raise MergeRefusedError(f"The merging process said nothing for {SILENCE_S:.0f} s: it hangs.") from error
            if not line:
                return None
            match read_word(line):
                case Progress(done=done, total=total, note=note):
                    await progress(done, total, note)
                case Failure(reason=reason):
                    raise MergeRefusedError(reason)
                case Merged() | Measured() as said:
                    return said

    def _command(self, place: Workplace) -> Command:
        inherited = {name: os.environ[name] for name in INHERITED if name in os.environ}
        # From a checkout the packages are on our path and nowhere else.
        own = {"PYTHONPATH": str(Path(__file__).parents[3]), **SETTINGS}
        return Command(
            role=ROLE,
            argv=(*self._program, str(place.spec)),
            env=inherited | own,
            log=place.log,
            records=self._home / "run" / "guardians",
            epoch=0,
            term_grace_s=GRACE_S,
            lock=None,
            pipe_stdout=True,
        )

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


async def stop(child: Guarded) -> None:
    """End it and wait for its end. Cancelled meanwhile: KILL, since whoever asked twice does not want to wait."""
    try:
        await child.stop(GRACE_S)
    except asyncio.CancelledError:
        child.request_stop(0)
        await child.wait()
        raise
