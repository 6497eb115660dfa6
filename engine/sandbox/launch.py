"""Turns a program into something that can be spawned: argument list, descriptors, scratch directory.

Blocking (files, memory descriptors): call it in a thread.
"""

from __future__ import annotations

import fcntl
import marshal
import os
import socket
import stat
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from engine.errors import InputError, SandboxUnavailableError
from engine.sandbox.bwrap import STAGE2_DIRECTORY, bwrap_argv, system_mounts
from engine.sandbox.plan import INSIDE, STRICT_SCRATCH, Place, base_interpreter, make_plan, own_namespaces
from engine.sandbox.types import Level, Limits, Program
from registry.clock import Clock

SEALS = fcntl.F_SEAL_WRITE | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_SEAL
RUN_PREFIX = "run-"
START = "import sys; sys.path.insert(0, sys.argv[1]); import stage2; stage2.main()"
"""Imports stage 2 instead of running it as a script: a script is compiled anew at every start."""


@dataclass(frozen=True)
class Setup:
    """How programs are launched on this machine."""

    level: Level
    bwrap: str
    """Absolute path; used only at level strict."""
    landlock_abi: int
    scratch: Path
    """Directory in which each run gets its own; used only below level strict."""
    stage2: Path = INSIDE


@dataclass
class Prepared:
    """One run, ready to spawn. `close_child_ends` after the spawn, `close` and `remove` at the end."""

    argv: list[str]
    stdin: int
    plan: int
    control: socket.socket
    """Our end: one line comes out ("ready" or a reason); closing it ends the tree below level strict."""
    child_control: socket.socket
    scratch: Path | None
    lock: int

    def pass_fds(self, channel: Sequence[int]) -> tuple[int, ...]:
        return (self.plan, self.child_control.fileno(), *channel)

    def close_child_ends(self) -> None:
        """Close what only the child needs; may be called twice."""
        for descriptor in (self.stdin, self.plan):
            if descriptor >= 0:
                os.close(descriptor)
        self.stdin = self.plan = -1
        self.child_control.close()

    def close(self) -> None:
        """Close everything that is still open."""
        self.close_child_ends()
        self.control.close()

    def remove(self) -> None:
        """Delete the scratch directory, whatever the program made of it. Blocking."""
        if self.scratch:
            remove_tree(self.scratch)
        if self.lock >= 0:
            os.close(self.lock)
            self.lock = -1


def default_scratch() -> Path:
    """Where runs below level strict keep their files unless the caller names a place."""
    return Path(tempfile.gettempdir()) / f"rune-sandbox-{os.geteuid()}"


def prepare(setup: Setup, program: Program, limits: Limits, clock: Clock) -> Prepared:
    """Build everything that one run needs.

    Raises:
        InputError: the program's files, paths or channel descriptors are not acceptable.
        SandboxUnavailableError: the scratch directory is not ours alone.
    """
    for descriptor in program.channel_fds:
        check_channel(descriptor)
    scratch, lock = (None, -1) if setup.level is Level.STRICT else make_scratch(setup.scratch, clock)
    try:
        place = _place(setup, scratch)
        plan = marshal.dumps(make_plan(program, limits, place))
        control, child_control = socket.socketpair()
        control.setblocking(False)
        stdin, plan_fd = sealed("stdin", program.stdin), sealed("plan", plan)
    except BaseException:
        if scratch:
            remove_tree(scratch)
            os.close(lock)
        raise
    argv = command(setup, place, program, limits, (plan_fd, child_control.fileno()))
    return Prepared(argv, stdin, plan_fd, control, child_control, scratch, lock)


def _place(setup: Setup, scratch: Path | None) -> Place:
    return Place(
        level=setup.level,
        scratch=str(scratch) if scratch else STRICT_SCRATCH,
        interpreter=base_interpreter(),
        landlock_abi=setup.landlock_abi,
        as_root=os.geteuid() == 0,
        namespaces=own_namespaces() if setup.level is Level.STRICT else {},
    )


def command(setup: Setup, place: Place, program: Program, limits: Limits, descriptors: tuple[int, int]) -> list[str]:
    """The argument list that starts stage 2, inside bubblewrap at level strict."""
    strict = setup.level is Level.STRICT
    directory = STAGE2_DIRECTORY if strict else str(setup.stage2)
    stage2 = [place.interpreter.executable, "-I", "-S", "-B", "-c", START, directory, *map(str, descriptors)]
    if not strict:
        return stage2
    mounts = system_mounts(str(setup.stage2), place.interpreter.prefix, program.readonly_paths, limits.scratch_mb)
    return bwrap_argv(setup.bwrap, mounts, stage2)


def check_channel(descriptor: int) -> None:
    """Only pipes and stream sockets may go in: a directory or a datagram socket would be a way out.

    Raises:
        InputError: it is something else, or standard input or output.
    """
    mode = os.fstat(descriptor).st_mode
    if descriptor > 2 and stat.S_ISFIFO(mode):
        return
    if descriptor > 2 and stat.S_ISSOCK(mode):
        with socket.socket(fileno=os.dup(descriptor)) as channel:
            if channel.type == socket.SOCK_STREAM:
                return
    raise InputError(f"Channel descriptor {descriptor} is neither a pipe nor a stream socket.")


def sealed(name: str, content: bytes) -> int:
    """A readable descriptor of these bytes that nobody can change: no writer task, no deadlock on a full pipe."""
    descriptor = os.memfd_create(name, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    with open(descriptor, "wb", closefd=False) as stream:
        stream.write(content)
    os.lseek(descriptor, 0, os.SEEK_SET)
    fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, SEALS)
    return descriptor


def make_scratch(root: Path, clock: Clock) -> tuple[Path, int]:
    """A fresh private directory, and a locked descriptor that tells `clean_stale` that it is in use."""
    ensure_private(root)
    path = root / (RUN_PREFIX + clock.hex_id(16))
    path.mkdir(mode=0o700)
    lock = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    fcntl.flock(lock, fcntl.LOCK_EX)
    return path.resolve(), lock


def ensure_private(root: Path) -> None:
    """Create it, or make sure that the one that exists is ours: it may lie in a directory that all can write.

    Raises:
        SandboxUnavailableError: it belongs to somebody else or is open to others.
    """
    root.mkdir(mode=0o700, parents=True, exist_ok=True)
    state = root.lstat()
    if not stat.S_ISDIR(state.st_mode) or state.st_uid != os.geteuid() or state.st_mode & 0o077:
        raise SandboxUnavailableError(f"{root} is not a private directory of this user; remove it.")


def clean_stale(root: Path) -> int:
    """Delete scratch directories that a killed engine left behind, and no others. Blocking.

    Returns:
        How many were deleted.
    """
    deleted = 0
    for path in root.glob(RUN_PREFIX + "*") if root.is_dir() else ():
        try:
            lock = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError:
            continue  # another engine's cleaning was faster, or it is no directory
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            remove_tree(path)
            deleted += 1
        except BlockingIOError:
            pass  # a live run of another engine
        finally:
            os.close(lock)
    return deleted


def remove_tree(top: Path) -> None:
    """Delete a directory that a hostile program filled: no recursion and no long paths, whatever its depth.

    Each directory's subdirectories are first moved up into `top`, so nothing is ever deeper than two levels.
    """
    moved = 0
    while entries := _directories_after_unlinking(top):
        for directory in entries:
            for child in _directories_after_unlinking(directory):
                moved += 1
                os.rename(child, top / f"moved {moved} {os.urandom(4).hex()}")
            os.rmdir(directory)
    with suppress(FileNotFoundError):
        os.rmdir(top)


def _directories_after_unlinking(directory: Path) -> list[Path]:
    """Unlink everything that is no directory; return the directories. A mode of 000 does not stop the owner."""
    with suppress(FileNotFoundError):
        os.chmod(directory, 0o700)
        found: list[Path] = []
        with os.scandir(directory) as listing:
            for entry in listing:
                if entry.is_dir(follow_symlinks=False):
                    found.append(Path(entry.path))
                else:
                    os.unlink(entry.path)
        return found
    return []
