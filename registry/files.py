"""What file work needs: threads that run to their end, and names that survive a power loss."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")


async def run_to_end(work: Callable[[], T]) -> T:
    """Run blocking `work` in a thread. A cancelled caller waits for its end, and is then cancelled.

    So a thread never goes on writing behind its caller's back.
    """
    running = asyncio.get_running_loop().run_in_executor(None, work)
    cancelled: asyncio.CancelledError | None = None
    while not running.done():
        try:
            await asyncio.wait([running])
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is not None:
        running.exception()  # seen: the caller is being cancelled and has no use for it
        raise cancelled
    return running.result()


def sync_directory(directory: Path) -> None:
    """Make the directory's names durable. Blocking."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
