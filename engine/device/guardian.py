"""The guardian: a small process between the engine and one device user (model server or trainer) and all it starts.

    engine ──lifeline (a pipe; its end means: the engine is gone)──► guardian ──fork, exec──► child ──► grandchildren
       ◄──status (a pipe: "child PID START", "gone CODE SIGNAL")──────┘  │
                                                                         └ holds the device's lock until all are gone

    RUNNING ──child exits / EOF / TERM / "stop SECONDS"──► ENDING (TERM, grace, KILL) ──► SWEEPING ──► exit
                                                                                          (until no descendant is left)

It is a subreaper: whatever its tree forks, daemonises or puts into another session becomes its child in the end, and
"no children left" is the kernel's word that nothing of the tree lives. Only then does it exit, and only its exit
frees the lock. A model server that is killed together with its parent leaves a core process that keeps the GPU
(vLLM #55510): this process is why ours does not.

Run as `python -I -S -c START DIRECTORY ...` by `guarded.py`. Standard library only: it starts in milliseconds and
cannot break when a dependency does. It has one thread, so the parent-death signal of its child means its own death.
"""

from __future__ import annotations

import ctypes
import os
import select
import signal
import sys
import time
from contextlib import suppress

TYPE_CHECKING = False  # importing typing would cost a third of the start
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import NoReturn

LIFELINE, STATUS, LOCK = 0, 3, 4
"""Descriptors as `guarded.py` lays them out; the lock is inherited by the child too, so that even a tree whose
guardian was killed keeps the device locked."""
HIGHEST = 1 << 16
PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36
STRAGGLER_GRACE_S = 0.5
"""From TERM to KILL for what outlives the child itself: it has nothing to save."""
SWEEP_PAUSE_S = 0.01
LONGEST_PAUSE_S = 0.25
"""Between two looks at processes that do not go: a process in the kernel's hands (state D) may take minutes."""
DEFAULTED = ("SIGINT", "SIGHUP", "SIGPIPE", "SIGXFSZ", "SIGTERM", "SIGCHLD")
"""Signals that an interpreter changes and that a program expects as they were."""
REFUSED = 127
"""Exit status when the child could not be started, as in a shell."""
WORD_BYTES = 256
FILE_MODE = 0o600


class Settings:
    """The command line: engine's pid, record file, role, epoch, boot id, tree, two graces, `locked` or `free`, `--`,
    the child's argv."""

    def __init__(self, argv: list[str]) -> None:
        self.engine = int(argv[0])
        self.record, self.role, self.epoch, self.boot_id, self.tree = argv[1], argv[2], int(argv[3]), argv[4], argv[5]
        self.term_grace_s, self.orphan_grace_s = float(argv[6]), float(argv[7])
        self.locked = argv[8] == "locked"
        assert argv[9] == "--", argv
        self.command = argv[10:]


class Guardian:
    """One child and its tree, from the fork to the last reaped descendant."""

    def __init__(self, settings: Settings, wakeup: int) -> None:
        self._settings = settings
        self._wakeup = wakeup
        self._guardian = os.getpid()
        self._poll = select.poll()
        for descriptor in (LIFELINE, wakeup):
            self._poll.register(descriptor, select.POLLIN)
        self._child = 0
        self._status: int | None = None
        self._childless = False
        self._asked = False
        self._deadline = float("inf")
        self._terminated = False

    def run(self) -> int:
        """Start the child, follow it, end everything; the exit status to relay."""
        self._record(child=0)
        self._start()
        while self._status is None and not self._asked:
            self._turn(None)
        self._end_child()
        self._sweep()
        return self._report()

    # --- the child ---

    def _start(self) -> None:
        gate, opener = os.pipe()
        told, telling = os.pipe()
        self._child = os.fork()
        if self._child == 0:
            os.close(opener)
            self._become_child(gate, telling)
        os.close(gate)
        os.close(telling)
        # The record names the child before it runs a single instruction of its own.
        self._record(self._child)
        os.write(opener, b"\n")
        os.close(opener)
        # Closed by a successful exec; else it says why there was none.
        refusal = os.read(told, WORD_BYTES)
        os.close(told)
        times = f"{start_time(self._child)} {start_time(self._guardian)}"
        say(f"failed {refusal.decode()}" if refusal else f"child {self._child} {times}")
        # Only the tree holds the output from here on: its end is the tree's end.
        null = os.open(os.devnull, os.O_RDWR)
        os.dup2(null, 1)
        os.close(null)

    def _become_child(self, gate: int, telling: int) -> NoReturn:
        try:
            os.setsid()
            # A tree without a guardian must not go on, and there is nobody left to be told of its last words.
            prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
            if os.getppid() != self._guardian or os.read(gate, 1) != b"\n":
                os._exit(REFUSED)
            for name in DEFAULTED:
                signal.signal(getattr(signal, name), signal.SIG_DFL)
            null = os.open(os.devnull, os.O_RDWR)
            os.dup2(null, 0)
            os.execvp(self._settings.command[0], self._settings.command)
        except BaseException as error:
            os.write(telling, str(error).encode(errors="replace")[:WORD_BYTES])
            os._exit(REFUSED)

    def _record(self, child: int) -> None:
        write_record(self._settings, os.getpid(), child)

    # --- following ---

    def _turn(self, timeout: float | None) -> None:
        """Wait for a word, a signal or the timeout (seconds); take in what happened."""
        for descriptor, _ in self._poll.poll(None if timeout is None else max(0.0, timeout * 1000)):
            if descriptor == self._wakeup:
                numbers = os.read(self._wakeup, WORD_BYTES)
                if signal.SIGTERM in numbers:
                    gone = os.getppid() != self._settings.engine
                    self._ask(self._settings.orphan_grace_s if gone else self._settings.term_grace_s)
            else:
                self._listen()
        self._reap()

    def _listen(self) -> None:
        try:
            words = os.read(LIFELINE, WORD_BYTES)
        except OSError:
            words = b""
        if not words:
            self._poll.unregister(LIFELINE)
            self._ask(self._settings.orphan_grace_s)
        for line in words.splitlines():
            if line.startswith(b"stop "):
                self._ask(float(line[5:]))

    def _ask(self, grace_s: float) -> None:
        """End the tree within the grace; a later, shorter one counts."""
        self._asked = True
        self._deadline = min(self._deadline, time.monotonic() + grace_s)

    def _reap(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                self._childless = True
                return
            if pid == 0:
                return
            if pid == self._child:
                self._status = status

    # --- ending ---

    def _end_child(self) -> None:
        """TERM to the child alone (its helpers may be writing its checkpoint); KILL when the grace is over."""
        if self._status is None:
            send(self._child, signal.SIGTERM, {os.getpid()})
        while self._status is None and (left := self._deadline - time.monotonic()) > 0:
            self._turn(left)
        if self._status is None:
            send(self._child, signal.SIGKILL, {os.getpid()})

    def _sweep(self) -> None:
        """TERM, then KILL what is left, until the kernel says that there are no children."""
        deadline = min(self._deadline, time.monotonic() + STRAGGLER_GRACE_S)
        told: set[int] = set()
        pause = SWEEP_PAUSE_S
        self._reap()
        while not self._childless:
            late = time.monotonic() >= deadline
            pids = descendants(os.getpid())
            family = {os.getpid(), *pids}
            for pid in pids if late else (pid for pid in pids if pid not in told):
                send(pid, signal.SIGKILL if late else signal.SIGTERM, family)
            told.update(pids)
            pause = min(pause * 1.5, LONGEST_PAUSE_S) if late else SWEEP_PAUSE_S
            self._turn(pause)

    def abandon(self) -> None:
        """End everything at once: what follows a failure of the guardian itself."""
        self._ask(0)
        for pid in descendants(os.getpid()):
            send(pid, signal.SIGKILL, {os.getpid()})
        self._sweep()

    def _report(self) -> int:
        assert self._status is not None and self._childless, "the child is among the reaped"
        number = os.WTERMSIG(self._status) if os.WIFSIGNALED(self._status) else 0
        code = os.WEXITSTATUS(self._status) if os.WIFEXITED(self._status) else -1
        with suppress(FileNotFoundError):
            os.unlink(self._settings.record)
        say(f"gone {code} {number}")
        return 128 + number if number else code


def write_record(settings: Settings, pid: int, child: int) -> None:
    """Replace the record as a whole; by hand, since importing json would double the start."""
    values = {
        "pid": pid,
        "start_time": start_time(pid),
        "child": child,
        "child_start_time": start_time(child) if child else 0,
        "epoch": settings.epoch,
    }
    texts = {"role": settings.role, "boot_id": settings.boot_id, "tree": settings.tree}
    fields = [f'"{name}": {value}' for name, value in values.items()]
    fields += [f'"{name}": "{text}"' for name, text in texts.items()]
    partial = f"{settings.record}.{pid}.tmp"
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, FILE_MODE)
    os.write(descriptor, ("{" + ", ".join(fields) + "}\n").encode())
    os.close(descriptor)
    os.rename(partial, settings.record)


def say(line: str) -> None:
    """One line to the engine; nobody may be there to hear it."""
    with suppress(OSError):
        os.write(STATUS, line.encode(errors="replace")[:WORD_BYTES].replace(b"\n", b" ") + b"\n")


def prctl(option: int, value: int) -> None:
    """Raises OSError when the kernel refuses."""
    libc = ctypes.CDLL(None, use_errno=True)
    arguments = [ctypes.c_ulong(number) for number in (value, 0, 0, 0)]
    if libc.prctl(option, *arguments) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"prctl {option}: {os.strerror(number)}")


def stat_fields(pid: int) -> list[bytes]:
    """Fields 3 and up of /proc/PID/stat: [0] state, [1] parent, [3] session, [19] start time; empty when it is gone."""
    try:
        descriptor = os.open(f"/proc/{pid}/stat", os.O_RDONLY)
    except OSError:
        return []
    try:
        return os.read(descriptor, 4096).rpartition(b")")[2].split()
    except OSError:
        return []
    finally:
        os.close(descriptor)


def start_time(pid: int) -> int:
    """Clock ticks since boot, or 0 when there is no such process."""
    fields = stat_fields(pid)
    return int(fields[19]) if fields else 0


def descendants(root: int) -> list[int]:
    """Everything below a process, the dead but unreaped included; parents before children; without itself."""
    parents: dict[int, list[int]] = {}
    for name in os.listdir("/proc"):
        if name.isdigit() and (fields := stat_fields(int(name))):
            parents.setdefault(int(fields[1]), []).append(int(name))
    return list(_below(root, parents))


def _below(root: int, parents: dict[int, list[int]]) -> Iterator[int]:
    for pid in parents.get(root, ()):
        yield pid
        yield from _below(pid, parents)


def send(pid: int, number: int, family: set[int]) -> None:
    """Signal a process that is a child of one of the family, and nobody else that got its number meanwhile."""
    assert pid >= 2, f"pid {pid} is never ours"
    try:
        descriptor = os.pidfd_open(pid)
    except OSError:
        return
    try:
        # The descriptor names one process for certain; only now is it worth asking whose child that is.
        fields = stat_fields(pid)
        if fields and int(fields[1]) in family:
            signal.pidfd_send_signal(descriptor, number)
    except OSError:  # gone meanwhile
        return
    finally:
        os.close(descriptor)


def _noted(_number: int, _frame: object) -> None:
    """The number is already in the wake-up pipe."""


def main() -> NoReturn:
    """Never returns."""
    settings = Settings(sys.argv[2:])
    # Whoever started the engine may have left it descriptors that programs inherit: none of them is ours.
    os.closerange(LOCK + settings.locked, HIGHEST)
    wakeup, writer = os.pipe()
    os.set_blocking(writer, False)
    os.set_blocking(LIFELINE, False)
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    for name in ("SIGTERM", "SIGCHLD", "SIGINT", "SIGHUP"):
        signal.signal(getattr(signal, name), _noted)
    for descriptor in (LIFELINE, STATUS):
        os.set_inheritable(descriptor, False)
    prctl(PR_SET_CHILD_SUBREAPER, 1)
    prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != settings.engine:
        os._exit(REFUSED)  # the engine died before the signal was armed
    guardian = Guardian(settings, wakeup)
    try:
        status = guardian.run()
    except BaseException as error:  # a process ends here, and never without its tree
        guardian.abandon()
        say(f"failed {type(error).__name__}: {error}")
        say(f"gone {REFUSED} 0")
        status = REFUSED
    os._exit(status)


if __name__ == "__main__":
    main()
