"""What `--batch` and `demo` share: the guarded stdout around a run."""

from __future__ import annotations

import asyncio
from importlib.resources import as_file, files
from pathlib import Path

from rune_tui.batch import BatchOptions, prepare, run_batch
from rune_tui.settings import Settings
from rune_tui.stdout_guard import StdoutGuard


def shipped_tasks() -> Path:
    """The tasks that ship with rune-tui."""
    with as_file(files("rune_tui.tasks") / "tasks.jsonl") as path:
        return path  # the package is always installed as plain files: no temporary copy goes away here


def run_guarded(
    settings: Settings,
    *,
    source: Path,
    output: Path | None = None,
    junit: Path | None = None,
    resume: bool = False,
    backend: str | None = None,
) -> int:
    """Run the batch with nothing but its records on stdout; the exit code."""
    options = BatchOptions(
        source=source,
        home=settings.home,
        output=output,
        junit=junit,
        resume=resume,
        backend=backend,
        overrides=settings.overrides,
    )
    batch, config = prepare(options)
    with StdoutGuard() as stdout:
        return asyncio.run(run_batch(options, batch, config, stdout.write))
