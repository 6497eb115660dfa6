"""File work in a thread, to its end: cancelling the caller never leaves a thread writing behind its back."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


async def run_to_end(work: Callable[[], T]) -> T:
    """Run blocking `work` in a thread. A cancelled caller waits for its end, and is then cancelled."""
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
