"""Keeps stdout for JSON Lines, whatever else in the process or its children writes to descriptor 1.

Native libraries and child processes write to file descriptor 1 without asking Python, so replacing `sys.stdout`
is not enough: the guard moves the real stdout to a descriptor that no child inherits, and points 1 at stderr.
"""

from __future__ import annotations

import fcntl
import json
import os
import select
import sys
from collections.abc import Mapping
from types import TracebackType
from typing import Self

from engine.errors import EnvironmentUnfitError

_STDOUT = 1
_STDERR = 2


class StdoutClosedError(EnvironmentUnfitError):
    """Nobody reads stdout any more; keep the reader open, or send the output to a file."""


class StdoutGuard:
    """While entered, only `write` reaches the process's stdout.

    Not to be nested, and entered before anything starts a thread that prints.
    """

    def __init__(self) -> None:
        self._saved = -1

    def __enter__(self) -> Self:
        assert self._saved < 0, "the guard is already in place"
        if sys.stdout is not None:  # None when the process was started with descriptor 1 closed
            sys.stdout.flush()
        try:
            # Closed on exec, so that children cannot even name it; above 2, which may be free when stderr is closed.
            self._saved = fcntl.fcntl(_STDOUT, fcntl.F_DUPFD_CLOEXEC, _STDERR + 1)
        except OSError as error:
            raise StdoutClosedError(
                "stdout is closed, so results have nowhere to go; redirect it to a file."
            ) from error
        _point_stdout_at_stderr()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if sys.stdout is not None:
            sys.stdout.flush()
        os.dup2(self._saved, _STDOUT)
        os.close(self._saved)
        self._saved = -1

    def write(self, record: Mapping[str, object]) -> None:
        """One JSON object on a line of its own, complete or not at all as far as the kernel allows.

        Raises:
            StdoutClosedError: the reader has gone.
        """
        assert self._saved >= 0, "write needs the guard in place"
        line = memoryview(json.dumps(record, ensure_ascii=True, allow_nan=False).encode() + b"\n")
        while line:
            try:
                line = line[os.write(self._saved, line) :]
            except BlockingIOError:
                select.select([], [self._saved], [])  # a pipe that its other end made non-blocking
            except OSError as error:
                raise StdoutClosedError from error


def _point_stdout_at_stderr() -> None:
    try:
        os.dup2(_STDERR, _STDOUT)
    except OSError:  # stderr is closed: what was meant for it goes nowhere
        nowhere = os.open(os.devnull, os.O_WRONLY)  # takes the free 2, where it is welcome
        os.dup2(nowhere, _STDOUT)
        if nowhere != _STDERR:
            os.close(nowhere)
