"""A registry on a real database and a real directory, with samples to publish."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from registry.blobs import Disk
from registry.clock import SystemClock
from registry.db import Database
from registry.journal import MemoryRecorder
from registry.models import Adapter, NewAdapter, Source
from registry.registry import MIGRATIONS, AdapterLimits, Registry
from registry.samples import write_sample


@dataclass
class House:
    root: Path
    db: Database
    registry: Registry
    recorder: MemoryRecorder

    async def sample(self, seed: int) -> Path:
        """The PEFT directory of that seed, written on first use, in a thread as the house demands."""
        path = self.root / "samples" / str(seed)
        return path if path.exists() else await asyncio.to_thread(write_sample, path, seed)

    async def publish(self, name: str, *, seed: int = 0, task_type: str = "sort", **fields: object) -> Adapter:
        new = NewAdapter(id=name, task_type=task_type, source=Source.QLORA, **fields)  # type: ignore[arg-type]  # test
        return await self.registry.publish(await self.sample(seed), new)

    def actions(self, subject: str) -> list[str]:
        return [str(event.payload["action"]) for event in self.recorder.events if event.subject == subject]

    def files(self) -> dict[str, bytes]:
        root = self.root / "adapters"
        return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


@asynccontextmanager
async def open_house(root: Path, disk: Disk | None = None) -> AsyncIterator[House]:
    clock, recorder = SystemClock(), MemoryRecorder()
    db = await Database.open(root / "rune.db", [MIGRATIONS], clock)
    try:
        registry = Registry(db, root / "adapters", AdapterLimits(512 << 20, 256), clock, recorder, disk)
        yield House(root, db, registry, recorder)
    finally:
        await db.close()


def flip_bit(path: Path, offset: int = -5) -> None:
    """Change one bit of a file, as a failing disk would."""
    raw = bytearray(path.read_bytes())
    raw[offset] ^= 1
    path.chmod(0o644)
    path.write_bytes(raw)
