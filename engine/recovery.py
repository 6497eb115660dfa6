"""What an engine that died may leave in its home, and how the next one clears it away.

Called with the home's lock held: whatever is found belongs to nobody that lives.
"""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path

from engine.sandbox.launch import clean_stale, default_scratch

LEFTOVERS = ("engine.sock", "token")
"""Names in `run/` that only a live engine has; the model server clears its own when it starts."""


async def clean_leftovers(home: Path) -> None:
    """Remove sockets, the token and scratch folders of a dead engine, and sandboxes that nobody runs in."""
    await asyncio.to_thread(_clean, home / "run")
    await asyncio.to_thread(clean_stale, default_scratch())


def _clean(run: Path) -> None:
    for name in LEFTOVERS:
        path = run / name
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
