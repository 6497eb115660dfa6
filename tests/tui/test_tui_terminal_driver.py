"""A terminal that is closed under the app: nothing waits for it, and the app leaves (T2)."""

from __future__ import annotations

import os
import pty
import select
import subprocess
import sys
import time
from pathlib import Path
from typing import IO, cast

import pytest
from textual.drivers._writer_thread import MAX_QUEUED_WRITES, WriterThread

from rune_tui.terminal_driver import Outlet

APP = """
import sys
from pathlib import Path
from rune_tui.app import run
sys.exit(run(Path(sys.argv[1]), Path("/none")))
"""


class Closed:
    """A file whose other end went away after some writes."""

    def __init__(self, takes: int) -> None:
        self.takes = takes
        self.written: list[str] = []

    def write(self, text: str) -> int:
        if len(self.written) == self.takes:
            raise OSError(5, "Input/output error")
        self.written.append(text)
        return len(text)

    def flush(self) -> None:
        pass


def test_what_cannot_be_written_is_dropped_and_said_once() -> None:
    file, told = Closed(2), list[int]()
    outlet = Outlet(cast("IO[str]", file), lambda: told.append(1))
    for text in "abcd":
        assert outlet.write(text) == 1
    outlet.flush()
    assert (file.written, told) == (["a", "b"], [1])


@pytest.mark.timeout(120)
def test_textuals_writing_thread_goes_on_and_its_queue_never_fills() -> None:
    """Without the outlet the thread ends at the first error, and the event loop waits in the queue for ever."""
    thread = WriterThread(cast("IO[str]", Outlet(cast("IO[str]", Closed(1)), lambda: None)))
    thread.start()
    for number in range(3 * MAX_QUEUED_WRITES):
        thread.write(str(number))
    thread.stop()
    assert not thread.is_alive()


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_an_app_whose_terminal_is_closed_leaves_by_itself(tmp_path: Path) -> None:
    """Without a controlling terminal no SIGHUP comes: that nothing can be drawn any more must be enough."""
    master, slave = pty.openpty()
    root = str(Path(__file__).parents[2])
    child = subprocess.Popen(
        [sys.executable, "-P", "-c", APP, str(tmp_path)],
        stdin=slave,
        stdout=slave,
        stderr=slave,
        start_new_session=True,
        env={**os.environ, "TERM": "xterm-256color", "PYTHONPATH": root},
    )
    os.close(slave)
    try:
        seen, end = b"", time.monotonic() + 150
        while b"not connected" not in seen:
            assert time.monotonic() < end, seen[-2000:]
            if select.select([master], [], [], 0.5)[0]:
                seen += os.read(master, 1 << 16)
        os.close(master)
        assert child.wait(timeout=90) == 0
    finally:
        child.kill()
        child.wait()
