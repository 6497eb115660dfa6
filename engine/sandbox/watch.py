"""Watchdog over a whole process tree: what rlimits count per process is summed here, and the end is confirmed here.

All functions read /proc and may block: call them in a thread. `breach` is the pure decision.
"""

from __future__ import annotations

import os
import signal
import stat
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass

from engine.sandbox.types import Limits

MB = 1 << 20
MAX_ENTRIES = 20_000
"""Files and directories in the scratch directory: each costs kernel memory that no size limit counts."""
KILL_ROUNDS_S = 2.0
"""Longest time spent on killing one tree before the caller is told that it is still there."""
KILL_PAUSE_S = 0.005
BLOCK = 512


@dataclass(frozen=True)
class Usage:
    """What one tree uses together."""

    processes: int = 0
    memory: int = 0
    """Bytes of anonymous and shared memory; mapped program files are not counted."""
    scratch: int = 0
    """Bytes on disk in the scratch directory, deleted files that are still open included."""
    entries: int = 0


def breach(usage: Usage, limits: Limits) -> str:
    """Which limit is exceeded ("memory", "scratch", "processes"), or empty."""
    if usage.memory > limits.memory_mb * MB:
        return "memory"
    if usage.scratch > limits.scratch_mb * MB or usage.entries > MAX_ENTRIES:
        return "scratch"
    if usage.processes > limits.processes:
        return "processes"
    return ""


def measure(root: int, scratch: str | None) -> Usage:
    """Sum up the tree below process `root`, which is a trusted helper and not counted itself.

    Args:
        scratch: the scratch directory on the host, or None where it is a tmpfs of its own that limits itself.
    """
    pids = descendants(root)
    memory = sum(memory_of(pid) for pid in pids)
    if scratch is None:
        return Usage(len(pids) - 1, memory, 0, tmpfs_entries(pids))  # the first is the namespace's own init
    size, entries = directory_size(scratch)
    return Usage(len(pids), memory, size + deleted_size(pids), entries)


def descendants(root: int) -> list[int]:
    """All live descendants of a process, parents before children; without the process itself."""
    found: list[int] = []
    waiting = [root]
    while waiting:
        children = list(_children(waiting.pop()))
        found += children
        waiting += children
    return found


def _children(pid: int) -> Iterator[int]:
    with suppress(OSError):
        for thread in os.listdir(f"/proc/{pid}/task"):
            with suppress(ProcessLookupError), open(f"/proc/{pid}/task/{thread}/children") as stream:
                yield from map(int, stream.read().split())
        return
    if os.path.exists(f"/proc/{pid}") and not os.path.exists(f"/proc/{os.getpid()}/task/{os.getpid()}/children"):
        yield from _children_by_scan(pid)


def _children_by_scan(parent: int) -> Iterator[int]:
    """For kernels without CONFIG_PROC_CHILDREN."""
    for name in filter(str.isdigit, os.listdir("/proc")):
        with suppress(OSError, IndexError), open(f"/proc/{name}/stat") as stream:
            if int(stream.read().rpartition(")")[2].split()[1]) == parent:
                yield int(name)


def memory_of(pid: int) -> int:
    """Bytes of anonymous and shared memory that a process holds; 0 when it is gone."""
    total = 0
    with suppress(OSError), open(f"/proc/{pid}/status") as stream:
        for line in stream:
            if line.startswith(("RssAnon:", "RssShmem:")):
                total += int(line.split()[1]) * 1024
    return total


def tmpfs_entries(pids: list[int]) -> int:
    """Files and directories on the sandbox's own /tmp, seen through one of its processes."""
    for pid in pids:
        with suppress(OSError):
            state = os.statvfs(f"/proc/{pid}/root/tmp")
            return state.f_files - state.f_ffree
    return 0


def directory_size(top: str) -> tuple[int, int]:
    """(bytes on disk, entries) below a directory that a hostile program is writing to; stops at MAX_ENTRIES."""
    size = entries = 0
    waiting = [top]
    while waiting and entries <= MAX_ENTRIES:
        with suppress(OSError), os.scandir(waiting.pop()) as listing:
            for entry in listing:
                entries += 1
                if entries > MAX_ENTRIES:
                    break
                with suppress(OSError):
                    size += entry.stat(follow_symlinks=False).st_blocks * BLOCK
                    if entry.is_dir(follow_symlinks=False):
                        waiting.append(entry.path)
    return size, entries


def deleted_size(pids: list[int]) -> int:
    """Bytes of regular files that are deleted but still open in these processes: no listing shows them."""
    files: dict[tuple[int, int], int] = {}
    for pid in pids:
        with suppress(OSError):
            for descriptor in os.listdir(f"/proc/{pid}/fd"):
                with suppress(OSError):
                    state = os.stat(f"/proc/{pid}/fd/{descriptor}")
                    if stat.S_ISREG(state.st_mode) and state.st_nlink == 0:
                        files[state.st_dev, state.st_ino] = state.st_blocks * BLOCK
    return sum(files.values())


def kill_tree(root: int) -> bool:
    """SIGKILL everything below `root`, again until nothing is left, then `root` itself.

    Returns:
        True when the tree is dead, False when something survived KILL_ROUNDS_S (a process stuck in the kernel).
    """
    deadline = time.monotonic() + KILL_ROUNDS_S
    while pids := [pid for pid in descendants(root) if not _is_zombie(pid)]:
        for pid in pids:
            kill_process(pid)
        if time.monotonic() > deadline:
            break
        time.sleep(KILL_PAUSE_S)
    kill_process(root)
    return not pids


def kill_process(pid: int) -> None:
    """SIGKILL through a pidfd, so that a number that was given to somebody else meanwhile is not hit twice."""
    with suppress(ProcessLookupError, PermissionError):
        descriptor = os.pidfd_open(pid)
        try:
            signal.pidfd_send_signal(descriptor, signal.SIGKILL)
        finally:
            os.close(descriptor)


def _is_zombie(pid: int) -> bool:
    with suppress(OSError), open(f"/proc/{pid}/stat") as stream:
        return stream.read().rpartition(")")[2].split()[0] in ("Z", "X")
    return True
