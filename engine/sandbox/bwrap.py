"""The bubblewrap policy: one pure function from what a run may see to the argument list.

A new root is built from what is listed here and from nothing else: no /etc, /home, /run, no GPU, no network.
`--unshare-all` is not used: it contains `--unshare-user-try`, which falls back without a word.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from engine.sandbox.plan import MB, STRICT_SCRATCH

STAGE2_DIRECTORY = "/rune"
SHM_MB = 16
"""POSIX semaphores and small shared memory; counted apart from scratch_mb."""
LINKED = ("/bin", "/sbin", "/lib", "/lib32", "/lib64")
"""Symbolic links into /usr on a merged system, directories on an older one."""


@dataclass(frozen=True)
class Mounts:
    """What the new root is made of."""

    stage2: str
    """Directory of the stage 2 modules on the host."""
    readonly: tuple[str, ...]
    """Absolute directories, shown under their own path; parents before children."""
    links: tuple[tuple[str, str], ...]
    """(target, path) of symbolic links."""
    scratch_mb: int


def bwrap_argv(bwrap: str, mounts: Mounts, command: Sequence[str]) -> list[str]:
    """The full argument list that runs `command` inside.

    Args:
        bwrap: absolute path of the binary: PATH is not searched at run time.
    """
    return [
        bwrap,
        *("--unshare-user", "--unshare-pid", "--unshare-net", "--unshare-ipc", "--unshare-uts"),
        "--unshare-cgroup-try",
        "--disable-userns",  # a user namespace inside would open kernel surface again
        *("--die-with-parent", "--new-session", "--clearenv"),
        *("--cap-drop", "ALL", "--hostname", "sandbox"),
        # First, so that what is read-only below it (a test's directory under /tmp) lies on top.
        *("--perms", "0700", "--size", str(mounts.scratch_mb * MB), "--tmpfs", STRICT_SCRATCH),
        *_repeat("--ro-bind", ((path, path) for path in mounts.readonly)),
        *_repeat("--symlink", mounts.links),
        *("--proc", "/proc", "--dev", "/dev"),
        *("--perms", "0700", "--size", str(SHM_MB * MB), "--tmpfs", "/dev/shm"),
        *("--ro-bind", mounts.stage2, STAGE2_DIRECTORY),
        *("--remount-ro", "/dev", "--remount-ro", "/"),  # both are tmpfs without a size limit
        *("--chdir", STRICT_SCRATCH),
        "--",
        *command,
    ]


def _repeat(option: str, pairs: Iterable[tuple[str, str]]) -> list[str]:
    return [part for pair in pairs for part in (option, *pair)]


def system_mounts(stage2: str, prefix: str, extra: Sequence[str], scratch_mb: int) -> Mounts:
    """Look at this machine: which of the system directories are links, and which paths lie inside others."""
    links = tuple((os.readlink(path), path) for path in LINKED if os.path.islink(path))
    real = [path for path in LINKED if os.path.isdir(path) and not os.path.islink(path)]
    readonly = _without_nested(["/usr", *real, prefix, *extra])
    return Mounts(stage2, readonly, links, scratch_mb)


def _without_nested(paths: Sequence[str]) -> tuple[str, ...]:
    kept: list[str] = []
    for path in sorted({os.path.normpath(path) for path in paths}):
        if not any(path == parent or path.startswith(parent + "/") for parent in kept):
            kept.append(path)
    return tuple(kept)
