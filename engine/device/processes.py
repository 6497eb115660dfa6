"""Processes for certain: a number alone may be somebody else's by now, a number with its start time cannot.

Also what is left of a tree whose guardian was killed. Such a tree is found by three marks: the recorded child, all
that descends from it, and the tree's random name in the environment (`RUNE_TREE`), which even a daemon in a session
of its own has inherited. What bears none of them is never signalled, and neither is a process below 2.

Everything here reads /proc and may block: call it in a thread.
"""

from __future__ import annotations

import ctypes
import errno
import json
import os
import select
import signal
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from engine.device import guardian
from engine.device.contracts import ProcessId

TREE_VARIABLE = "RUNE_TREE"
"""Environment variable with the random name of a guardian's tree."""
LOWEST_PID = 2
"""1 is init; 0 and below address groups."""
RECORD_LIMIT = 64 << 10
"""A guardian's record has 300 bytes; what is larger is not one."""
TREE_DIGITS = 32
END_S = 10.0
"""Longest that the end of killed processes is waited for: a process in the kernel's hands may not go at once."""
ROUND_S = 0.25
"""Between two looks for newcomers while killed processes go; each that goes is noticed at once."""
EXIT_BIT = select.POLLIN
DEAD = (b"Z", b"X")


@dataclass(frozen=True)
class Record:
    """What a guardian wrote about itself; it deletes it when its whole tree is gone."""

    path: Path
    role: str
    guardian: ProcessId
    child: ProcessId | None
    """None: it had not forked yet."""
    epoch: int
    boot_id: str
    tree: str


@dataclass(frozen=True)
class Ended:
    """What `end_survivors` did."""

    ended: tuple[ProcessId, ...]
    alive: tuple[ProcessId, ...]
    """Killed, and still there after END_S."""


def boot_id() -> str:
    """Names this boot of the machine: process numbers of another one mean nothing."""
    return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()


def process_id(pid: int) -> ProcessId | None:
    """The process that has this number now; None when there is none, or only its corpse."""
    fields = guardian.stat_fields(pid) if pid >= LOWEST_PID else []
    return ProcessId(pid, int(fields[19])) if fields and fields[0] not in DEAD else None


def is_alive(process: ProcessId) -> bool:
    """Whether this very process runs, not another one that got its number."""
    return process_id(process.pid) == process


def descendants(process: ProcessId) -> tuple[ProcessId, ...]:
    """All live descendants, parents before children; empty when the process itself is gone."""
    if not is_alive(process):
        return ()
    return tuple(found for pid in guardian.descendants(process.pid) if (found := process_id(pid)) is not None)


def send(process: ProcessId, number: signal.Signals) -> bool:
    """Signal exactly this process.

    Returns:
        False when it is gone, not ours to signal, or no process that may be signalled at all.
    """
    descriptor = _open(process)
    if descriptor is None:
        return False
    try:
        signal.pidfd_send_signal(descriptor, number)
    except OSError:
        return False
    finally:
        os.close(descriptor)
    return True


def _open(process: ProcessId) -> int | None:
    """A pidfd of exactly this process."""
    if process.pid < LOWEST_PID:
        return None
    try:
        descriptor = os.pidfd_open(process.pid)
    except OSError:
        return None
    # The descriptor is taken first: from here on the number cannot go to anybody else without our noticing.
    if is_alive(process):
        return descriptor
    os.close(descriptor)
    return None


# --- records ---


def read_records(directory: Path) -> list[Record]:
    """The guardians' records that are whole; a torn or foreign file is left out, it names nobody for certain."""
    try:
        paths = sorted(directory.glob("*.json"))
    except OSError:
        return []
    return [record for path in paths if (record := read_record(path)) is not None]


def read_record(path: Path) -> Record | None:
    """One record; None when there is none, or it is not one."""
    try:
        with path.open("rb") as stream:
            raw = json.loads(stream.read(RECORD_LIMIT))
        return _record(path, cast(Mapping[str, object], raw)) if isinstance(raw, dict) else None
    except (OSError, ValueError, KeyError, RecursionError):
        return None


def _record(path: Path, raw: Mapping[str, object]) -> Record:
    """Raises KeyError or ValueError for anything but what a guardian writes."""
    numbers = [raw[name] for name in ("pid", "start_time", "child", "child_start_time", "epoch")]
    texts = [raw[name] for name in ("role", "boot_id", "tree")]
    # `type` and not isinstance: true is no process number.
    if not all(type(number) is int and 0 <= number < 1 << 63 for number in numbers):
        raise ValueError(numbers)
    if not all(isinstance(text, str) and text for text in texts):
        raise ValueError(texts)
    pid, start, child, child_start, epoch = cast(list[int], numbers)
    role, boot, tree = cast(list[str], texts)
    if (
        pid < LOWEST_PID
        or 0 < child < LOWEST_PID
        or len(tree) != TREE_DIGITS
        or not set(tree) <= set("0123456789abcdef")
    ):
        raise ValueError(raw)
    return Record(
        path, role, ProcessId(pid, start), ProcessId(child, child_start) if child else None, epoch, boot, tree
    )


# --- survivors ---


def survivors(record: Record, boot: str) -> tuple[ProcessId, ...]:
    """What still lives of a record's tree, its guardian first. Of another boot: nobody."""
    if record.boot_id != boot:
        return ()
    roots = [process for process in (record.guardian, record.child) if process is not None and is_alive(process)]
    found = dict.fromkeys(roots)
    for root in roots:
        found |= dict.fromkeys(descendants(root))
    found |= dict.fromkeys(marked(record.tree))
    return tuple(found)


def marked(tree: str) -> tuple[ProcessId, ...]:
    """Every process of this user whose environment names the tree."""
    mark = f"{TREE_VARIABLE}={tree}".encode()
    return tuple(process for process in _everybody() if mark in _environment(process.pid).split(b"\0"))


def _everybody() -> Iterable[ProcessId]:
    for name in os.listdir("/proc"):
        if name.isdigit() and int(name) != os.getpid() and (process := process_id(int(name))) is not None:
            yield process


def _environment(pid: int) -> bytes:
    try:
        with open(f"/proc/{pid}/environ", "rb") as stream:
            return stream.read()
    except OSError:  # gone, or another user's
        return b""


def end_survivors(records: Iterable[Record], *, spare_guarded: bool = False) -> Ended:
    """Kill what is left of these trees and wait until it is gone; then their records are deleted.

    Args:
        spare_guarded: leave a tree whose guardian lives to its guardian: it is ending it, and may be waiting for a
            checkpoint. Without it, that tree goes too.

    Only for records of a home whose lock is held: their engine is dead then.
    """
    boot = boot_id()
    ended: list[ProcessId] = []
    alive: list[ProcessId] = []
    for record in records:
        if spare_guarded and record.boot_id == boot and is_alive(record.guardian):
            continue
        gone, left = _end(lambda record=record: survivors(record, boot))
        ended += gone
        alive += left
        if not left:
            with suppress(OSError):  # a record that cannot be deleted names nobody any more
                record.path.unlink()
    return Ended(tuple(ended), tuple(alive))


def _end(look: Callable[[], tuple[ProcessId, ...]]) -> tuple[list[ProcessId], list[ProcessId]]:
    """Kill all that `look` finds, again until it finds nothing, or END_S have passed: (gone, still there)."""
    deadline = time.monotonic() + END_S
    killed: dict[ProcessId, None] = {}
    while (found := look()) and time.monotonic() < deadline:
        for process in found:
            send(process, signal.SIGKILL)
        killed |= dict.fromkeys(found)
        await_end(found, ROUND_S)
        reap(found)
    return [process for process in killed if process not in found], list(found)


def await_end(processes: Iterable[ProcessId], seconds: float) -> None:
    """Return once all of these are gone, or after that many seconds."""
    deadline = time.monotonic() + seconds
    for process in processes:
        descriptor = _open(process)
        if descriptor is None:
            continue
        try:
            poll = select.poll()
            poll.register(descriptor, EXIT_BIT)
            poll.poll(max(0.0, deadline - time.monotonic()) * 1000)
        finally:
            os.close(descriptor)


def reap(processes: Iterable[ProcessId]) -> None:
    """Take the corpses of those that this process adopted; of nobody else's children."""
    for process in processes:
        with suppress(ChildProcessError):
            os.waitpid(process.pid, os.WNOHANG)


def reap_session(leader: int) -> None:
    """Take the corpses that this process adopted from a session: they died before anybody could look at them."""
    for name in os.listdir("/proc"):
        fields = guardian.stat_fields(int(name)) if name.isdigit() else []
        if fields and fields[0] in DEAD and int(fields[1]) == os.getpid() and int(fields[3]) == leader:
            reap([ProcessId(int(name), int(fields[19]))])


def become_subreaper() -> None:
    """Make this process (the engine) the parent of what a killed guardian leaves: `Guarded.wait` then ends it.

    Without it such orphans go to init; they are still found, by the tree's name in their environment.

    Raises:
        OSError: the kernel refuses.
    """
    try:
        guardian.prctl(guardian.PR_SET_CHILD_SUBREAPER, 1)
    except AttributeError as error:  # no C library that ctypes can open
        raise OSError(errno.ENOSYS, "prctl is not available") from error


def is_subreaper() -> bool:
    """Whether `become_subreaper` was called in this process."""
    value = ctypes.c_int(0)
    ctypes.CDLL(None).prctl(37, ctypes.byref(value), 0, 0, 0)
    return value.value == 1


def command_line(pid: int) -> str:
    """What a process runs, for a message: at most 80 characters; empty when it is gone or not ours to see."""
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as stream:
            words = stream.read(4096).split(b"\0")
    except OSError:
        return ""
    return b" ".join(words).decode(errors="replace").strip()[:80]
