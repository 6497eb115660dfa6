"""The engine's log: `logs/engine.log`, written by a thread of its own so that no line ever waits for the disk; and
the end of any log, for an error message."""

from __future__ import annotations

import logging
import os
import queue
from collections.abc import Generator
from contextlib import contextmanager, suppress
from logging.handlers import QueueHandler, QueueListener, RotatingFileHandler
from pathlib import Path

LOG_BYTES = 5 << 20
"""Of one file; a busy day writes less."""

LOG_FILES = 3
"""Older files that are kept."""

CHATTY = ("httpx", "httpx2", "openai")
"""Loggers that write one line for each request to the model server."""

FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"


@contextmanager
def log_to(home: Path) -> Generator[Path]:
    """Everything that this process logs from INFO up goes to the home's log file, until the block ends."""
    path = home / "logs" / "engine.log"
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    file = RotatingFileHandler(path, maxBytes=LOG_BYTES, backupCount=LOG_FILES, encoding="utf-8", delay=False)
    os.chmod(path, 0o600)
    file.setFormatter(logging.Formatter(FORMAT))
    lines: queue.SimpleQueue[logging.LogRecord] = queue.SimpleQueue()
    handler, listener = QueueHandler(lines), QueueListener(lines, file)
    root = logging.getLogger()
    root.addHandler(handler)
    root.setLevel(logging.INFO)
    for name in CHATTY:
        logging.getLogger(name).setLevel(logging.WARNING)
    listener.start()
    try:
        yield path
    finally:
        root.removeHandler(handler)
        listener.stop()
        file.close()


def tail(log: Path, limit_bytes: int) -> str:
    """The last `limit_bytes` of a log file as text; empty where it cannot be read. Blocking."""
    with suppress(OSError), log.open("rb") as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - limit_bytes))
        return file.read().decode(errors="replace").strip()
    return ""
