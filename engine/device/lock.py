"""The device's lock: an flock whose descriptor the guardians hold too, so that it is free only when nobody is left.

    engine acquires ─► passes it to each guardian ─► guardian's child inherits it
         │                     │                          │
         └── dies ─────────────┴── ends its tree, exits ──┴── the last copy is closed: the lock is free

A lock that only the engine held would be free while a killed engine's model server still had the GPU. The kernel
drops it with its last holder, however that one dies, so there is no stale lock.

A GPU's lock is one per user, in `$XDG_RUNTIME_DIR/rune` or a directory of the user's own below the temporary one:
two homes must not share a GPU. The CPU's is one per home: memory is shared by nature there, and proven free anyway.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import stat
import tempfile
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from engine.device.processes import command_line
from engine.errors import DeviceBusyError, EnvironmentUnfitError
from registry.files import run_to_end

CPU = "cpu"
WAIT_S = 15.0
"""A dying engine's guardian gives its server seconds to end; a trainer's may take longer, and is named then."""
POLL_S = 0.05
DIRECTORY_MODE, FILE_MODE = 0o700, 0o600
MAX_NAMED = 3
"""Holders in a message."""


def lock_path(device_id: str, run: Path, environment: Mapping[str, str] = os.environ) -> Path:
    """Where the lock of a device is.

    Args:
        device_id: `gpu-<UUID>` or `cpu`.
        run: the home's `run` directory.
    """
    if device_id == CPU:
        return run / f"{CPU}.lock"
    runtime = environment.get("XDG_RUNTIME_DIR", "")
    own = Path(runtime) / "rune" if runtime else Path(tempfile.gettempdir()) / f"rune-{os.geteuid()}"
    return own / f"{device_id}.lock"


@dataclass(frozen=True)
class DeviceLock:
    """The right to use a device; held until `release`, and by every guardian that was started with it."""

    fd: int
    path: Path

    @classmethod
    async def acquire(
        cls, device_id: str, run: Path, *, wait_s: float = WAIT_S, environment: Mapping[str, str] = os.environ
    ) -> DeviceLock:
        """Take the lock, waiting for a dying holder.

        Raises:
            DeviceBusyError: somebody still has it after `wait_s`; says who.
            EnvironmentUnfitError: its directory is not this user's alone.
        """
        path = lock_path(device_id, run, environment)
        fd = await run_to_end(lambda: _open(path))
        deadline = time.monotonic() + wait_s
        try:
            while not _try(fd):
                if time.monotonic() >= deadline:
                    raise DeviceBusyError(await run_to_end(lambda: busy(device_id, path)))
                await asyncio.sleep(POLL_S)
        except BaseException:
            os.close(fd)
            raise
        return cls(fd, path)

    def release(self) -> None:
        """Close our copy; the device is free once the guardians have closed theirs."""
        os.close(self.fd)


def is_free(path: Path) -> bool:
    """Whether nobody holds the lock now. To inform, never to decide: `acquire` decides."""
    try:
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return True
    try:
        return _try(fd)
    finally:
        os.close(fd)


def holders(path: Path) -> list[int]:
    """Processes of this user that hold the lock: an engine, its guardians and their trees. Blocking."""
    try:
        wanted = path.stat()
    except OSError:
        return []
    return [pid for pid in _pids() if _locks(pid, wanted)]


def busy(device_id: str, path: Path) -> str:
    """Who holds the lock, in a sentence. Blocking."""
    named = [f"pid {pid} ({command_line(pid) or 'unknown'})" for pid in holders(path)[:MAX_NAMED]]
    who = " and ".join(named) or "a process of which nothing more can be seen"
    return f"The device {device_id} is held by {who}; wait until it has ended, or stop it."


def _try(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _open(path: Path) -> int:
    directory = path.parent
    directory.mkdir(mode=DIRECTORY_MODE, parents=True, exist_ok=True)
    # In a directory that others may write to, somebody could have put a link or a directory of theirs there.
    found = directory.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & 0o022:
        raise EnvironmentUnfitError(
            f"{directory} is not a directory of yours alone; remove it, or set its mode to 700."
        )
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, FILE_MODE)


def _pids() -> list[int]:
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]


def _locks(pid: int, wanted: os.stat_result) -> bool:
    """Whether a process has a descriptor that holds the lock; one that merely waits for it does not count."""
    try:
        descriptors = os.listdir(f"/proc/{pid}/fd")
    except OSError:  # gone meanwhile, or another user's
        return False
    for descriptor in descriptors:
        with suppress(OSError):
            found = os.stat(f"/proc/{pid}/fd/{descriptor}")
            if (found.st_dev, found.st_ino) != (wanted.st_dev, wanted.st_ino):
                continue
            if "FLOCK" in Path(f"/proc/{pid}/fdinfo/{descriptor}").read_text(encoding="ascii"):
                return True
    return False
