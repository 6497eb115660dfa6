"""Files that are there whole or not at all."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path

from registry.crash import crash_point
from registry.files import sync_directory


def write_atomically(path: Path, text: str) -> None:
    """Replace the file by `text`.

    Raises:
        OSError: as `atomic_writer`.
    """
    with atomic_writer(path) as write:
        write(text)


@contextmanager
def atomic_writer(path: Path) -> Generator[Callable[[str], object]]:
    """A function that takes the file's text (UTF-8) piece by piece: written beside it, synced, renamed over it.

    Raises:
        OSError: the directory is missing, not writable or full; the file is then as before.
    """
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name[:100]}.")
    temporary = Path(name)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8", errors="replace", newline="") as file:
            yield file.write
            file.flush()
            os.fsync(file.fileno())
        temporary.chmod(0o644)  # mkstemp gives 0600; these are results to be shared
        crash_point("summary.before_rename")
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_directory(path.parent)
    crash_point("summary.after_rename")
