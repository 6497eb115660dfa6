"""Arithmetic in a child process, one at a time: the place it works in, its words, its end.

    place ─► spec.json ─► child under a guardian ─► words ─► the last of them
                               │ cancelled, silent for too long, or killed: the tree is ended, the place removed

For what needs torch or much memory and no device: merging adapters, measuring what they do to ordinary text. A place is
`RUNE_HOME/<folder>/<name>`; what a killed engine left is removed by `recover`.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import shutil
import sys
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeVar

from pydantic import BaseModel

from engine.device.guarded import Command, Guarded, spawn
from engine.errors import RuneError
from engine.logs import tail
from engine.training.workplace import Workplace
from registry.files import run_to_end

GRACE_S = 2.0
"""From TERM to KILL; there is nothing to save."""
TAIL_BYTES = 2000
"""Of the log, in the reason of a child that failed without saying why."""
INHERITED = ("PATH", "HOME", "LANG", "LC_ALL", "TMPDIR", "LD_LIBRARY_PATH")
"""All that the child sees of our environment."""
SETTINGS = {
    # Nothing is ever fetched: what is missing is an error here, not a download.
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "TQDM_DISABLE": "1",
    "CUDA_VISIBLE_DEVICES": "",
    # Numpy's threads spin for each other. Beside other work that took 16 times the CPU of one thread, and 18 times as
    # long; alone, a second thread could halve the time at best.
    "OPENBLAS_NUM_THREADS": "1",
}
"""Of the child's environment, whatever ours is."""

T = TypeVar("T")


class Tell(Protocol):
    """See `engine.operations.Progress`."""

    async def __call__(self, done: int, total: int, note: str = "") -> None:
        """So many steps of so many are done."""
        ...


async def tell_nobody(done: int, total: int, note: str = "") -> None:
    """For whoever does not watch."""


def program(module: str) -> tuple[str, ...]:
    """How a module of ours is run as a child; it gets the path of its spec as the last argument."""
    return (sys.executable, "-P", "-m", module)


@dataclass(frozen=True)
class Errand:
    """A kind of child."""

    role: str
    """As its guardian's record names it."""
    folder: str
    """Of the home: where its places are."""
    name: str
    """`merging process`, for sentences."""
    silence_s: float
    """Between two words; longer means that it hangs."""
    refused: type[RuneError]
    """Raised with a sentence where nothing came of it."""


class Errands:
    """Runs the children of one kind."""

    def __init__(self, home: Path, errand: Errand, program: tuple[str, ...]) -> None:
        self._home = home
        self._errand = errand
        self._program = program
        self._turn = asyncio.Lock()

    async def recover(self) -> None:
        """Remove what a killed engine left. Before anything is run."""
        await run_to_end(lambda: shutil.rmtree(self._places, ignore_errors=True))

    @property
    def _places(self) -> Path:
        return self._home / self._errand.folder

    @asynccontextmanager
    async def place(self) -> AsyncGenerator[Workplace]:
        """A directory for one child, gone when the block ends."""
        place = Workplace(self._places / secrets.token_hex(8))
        await run_to_end(lambda: place.root.mkdir(mode=0o700, parents=True))
        try:
            yield place
        finally:
            await run_to_end(place.remove)

    async def run(self, place: Workplace, spec: BaseModel, hear: Callable[[bytes], Awaitable[T | None]]) -> T:
        """What `hear` makes of one of the child's lines; None means that more are to come.

        Raises:
            RuneError: `Errand.refused`, where the child ends or falls silent before; and whatever `hear` raises.
        """
        await run_to_end(lambda: place.spec.write_text(spec.model_dump_json(), encoding="utf-8"))
        async with self._turn:
            child = await spawn(self._command(place))
            try:
                found = await self._listen(child, hear)
            finally:  # cancelled, refused or done: nothing of it goes on
                await _stop(child)
        if found is None:
            ended = await child.wait()
            last = await run_to_end(lambda: tail(place.log, TAIL_BYTES))
            raise self._errand.refused(f"The {self._errand.name} {ended.reason}; its log ends: {last or 'empty'}")
        return found

    async def _listen(self, child: Guarded, hear: Callable[[bytes], Awaitable[T | None]]) -> T | None:
        assert child.stdout is not None, "its output is piped"
        errand = self._errand
        while True:
            try:
                async with asyncio.timeout(errand.silence_s):
                    line = await child.stdout.readline()
            except TimeoutError as error:
                said = f"The {errand.name} said nothing for {errand.silence_s:.0f} s: it hangs."
                raise errand.refused(said) from error
            if not line:
                return None
            if (found := await hear(line)) is not None:
                return found

    def _command(self, place: Workplace) -> Command:
        inherited = {name: os.environ[name] for name in INHERITED if name in os.environ}
        # From a checkout the packages are on our path and nowhere else.
        own = {"PYTHONPATH": str(Path(__file__).parents[2]), **SETTINGS}
        return Command(
            role=self._errand.role,
            argv=(*self._program, str(place.spec)),
            env=inherited | own,
            log=place.log,
            records=self._home / "run" / "guardians",
            epoch=0,
            term_grace_s=GRACE_S,
            lock=None,
            pipe_stdout=True,
        )


async def _stop(child: Guarded) -> None:
    """End it and wait for its end. Cancelled meanwhile: KILL, since whoever asked twice does not want to wait."""
    try:
        await child.stop(GRACE_S)
    except asyncio.CancelledError:
        child.request_stop(0)
        await child.wait()
        raise
