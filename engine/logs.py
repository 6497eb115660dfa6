"""The engine's log: `logs/engine.log`, written by a thread of its own so that no line ever waits for the disk."""

from __future__ import annotations

import logging
import os
import queue
from collections.abc import Generator
from contextlib import contextmanager
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
