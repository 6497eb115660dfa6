"""Textual's driver for a terminal that may be closed under the app.

Textual 8 writes in a thread of its own, which ends at the first error; the queue before it then fills, and the event
loop waits for room in it for ever: a process that nobody sees, and that does not end. Here what can no longer be
written is dropped, and the app is told to leave.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import IO, Any, cast

from textual.drivers.linux_driver import LinuxDriver


class Outlet:
    """As much of a text file as Textual's writing thread uses; never raises.

    Args:
        gone: called once, in the writing thread, when the terminal does not take any more.
    """

    def __init__(self, file: IO[str], gone: Callable[[], object]) -> None:
        self._file = file
        self._gone = gone
        self._open = True

    def write(self, text: str) -> int:
        """Write it, or drop it."""
        self._try(partial(self._file.write, text))
        return len(text)

    def flush(self) -> None:
        """See `write`."""
        self._try(self._file.flush)

    def fileno(self) -> int:
        """Of the terminal."""
        return self._file.fileno()

    def isatty(self) -> bool:
        """Whether it is a terminal."""
        return self._file.isatty()

    def _try(self, act: Callable[[], object]) -> None:
        if not self._open:
            return
        try:
            act()
        except (OSError, ValueError):  # closed on the other side, or on ours
            self._open = False
            self._gone()


class TerminalDriver(LinuxDriver):
    """A `LinuxDriver` that outlives its terminal for as long as leaving takes."""

    def __init__(self, app: Any, **options: Any) -> None:
        super().__init__(app, **options)
        self._file = cast("IO[str]", Outlet(self._file, self._leave))

    def _leave(self) -> None:
        with suppress(RuntimeError):  # its event loop has ended already
            self._app.call_later(self._app.exit)
