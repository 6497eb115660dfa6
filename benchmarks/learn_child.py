"""Processes of the proof's own: whatever needs torch."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

THREADS = "2"
TAIL = 2000
"""Characters of what a failed child said."""


async def child(module: str, *arguments: str) -> str:
    """Run a module in a process of its own; gives what it printed.

    Raises:
        SystemExit: it failed; with the end of what it said.
    """
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", module, *arguments),
        env={**os.environ, "OMP_NUM_THREADS": THREADS},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    said, complained = (text.decode(errors="replace") for text in await process.communicate())
    if process.returncode:
        raise SystemExit(f"{module} failed: {(said + complained)[-TAIL:]}")
    return said


def directory_of(home: Path, digest: str) -> Path:
    """The published PEFT directory."""
    return home / "adapters" / digest
