"""The home: its folders, its socket, and its lock, by which it belongs to one engine at a time.

The lock is an flock on `run/engine.lock`, with the owner's pid written in the file for whoever is refused. The kernel
drops it when its holder dies, however it dies, so there is no stale lock to reason about and recovery needs no timeout.
"""

from __future__ import annotations

import fcntl
import os
from dataclasses import dataclass
from pathlib import Path

from engine.errors import EngineBusyError, EnvironmentUnfitError

HOME_MODE = 0o700
FILE_MODE = 0o600

MAX_SOCKET_PATH = 107
"""Bytes of a Unix socket's path that the kernel takes."""


def prepare_home(home: Path) -> None:
    """Create the home and its folders for this user alone.

    Raises:
        EnvironmentUnfitError: it cannot be created, or belongs to somebody else.
    """
    try:
        for directory in (home, home / "run", home / "logs"):
            directory.mkdir(mode=HOME_MODE, parents=True, exist_ok=True)
            directory.chmod(HOME_MODE)
    except OSError as error:
        raise EnvironmentUnfitError(
            f"RUNE_HOME {home} cannot be used: {error.strerror}. Choose another one."
        ) from error


def socket_path(home: Path) -> Path:
    """Where the engine of this home listens.

    Raises:
        EnvironmentUnfitError: the path is longer than a Unix socket's may be.
    """
    path = home / "run" / "engine.sock"
    if len(os.fsencode(path)) > MAX_SOCKET_PATH:
        raise EnvironmentUnfitError(f"RUNE_HOME {home} is too long a path for a Unix socket; choose a shorter one.")
    return path


@dataclass(frozen=True)
class HomeLock:
    """The right to work in a home; held until `release`, or until this process ends."""

    fd: int

    @classmethod
    def acquire(cls, home: Path) -> HomeLock:
        """Take the lock at once or not at all.

        Raises:
            EngineBusyError: another engine holds it; names its pid.
        """
        # Without O_TRUNC: a refused engine must not erase the pid of the one that holds the lock.
        fd = os.open(home / "run" / "engine.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, FILE_MODE)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            pid = os.pread(fd, 32, 0).decode("ascii", "replace").strip() or "not yet known"
            os.close(fd)
            raise EngineBusyError(
                f"Another engine (pid {pid}) owns {home}; use it, or stop it with `rune-tui engine stop`."
            ) from error
        text = b"%d\n" % os.getpid()
        os.pwrite(fd, text, 0)
        os.ftruncate(fd, len(text))
        return cls(fd)

    def release(self) -> None:
        """Let the next engine in."""
        os.close(self.fd)
