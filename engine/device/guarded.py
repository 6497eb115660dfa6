"""The engine's side of a guardian: starts it, hears from it, and ends what it leaves if it is killed itself.

    spawn ─► RUNNING ──child ends by itself──────────────────────────────► GONE: Exit(code, signal, reason)
                │ stop(grace): "stop" on the lifeline, guardian ends the tree ─► GONE
                │ guardian SIGKILLed: no "gone" was heard; its orphans are ours ─► killed here ─► GONE

Whatever way GONE is reached, no process of the tree is left then. A guardian is spawned by `posix_spawn` from the
main thread: the parent-death signal fires when the *thread* that forked ends, so a worker thread must not.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import re
import secrets
import signal
import sys
import threading
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from pathlib import Path

from engine.device import guardian
from engine.device.contracts import ProcessId
from engine.device.lock import DeviceLock
from engine.device.processes import (
    TREE_DIGITS,
    TREE_VARIABLE,
    Ended,
    Record,
    boot_id,
    end_survivors,
    read_record,
    reap_session,
    survivors,
)
from engine.errors import DeviceBusyError, EnvironmentUnfitError, StartInterruptedError
from registry.files import run_to_end

START = "import sys; sys.path.append(sys.argv[1]); import guardian; guardian.main()"
"""Imports the guardian instead of running it as a script: a script is compiled anew at every start."""
PROGRAM = Path(guardian.__file__).parent
START_S = 20.0
"""Until it says that its child runs: 1000 times what it takes, for a machine that swaps."""
ORPHAN_GRACE_S = 4.0
"""Of a tree whose engine is gone, unless its command says otherwise: all is to be gone within 5 s of a crash (P3),
and a trainer resumes from its last checkpoint."""
LAST_RESORT_S = 15.0
"""Beyond the grace, until a guardian that does not end its tree is killed and the tree is ended from here."""
LOG_LIMIT_BYTES = 10 << 20
"""A larger log is set aside (one generation) before the next start."""
STATUS_LIMIT = 4096
LINE_LIMIT = 1 << 20
"""Longest line of a child's standard output."""
FIRST_FREE = 10
"""Copies of our descriptors get numbers from here: the low ones are the guardian's own."""
ROLE = re.compile(r"[a-z][a-z0-9-]{0,31}")


@dataclass(frozen=True)
class Command:
    """A program to run under a guardian."""

    role: str
    """`server`, `trainer`, ...: names the record; one of each role at a time."""
    argv: tuple[str, ...]
    env: Mapping[str, str]
    """All of its environment but RUNE_TREE, which is added."""
    log: Path
    """Gets its stderr, and its stdout unless that is piped."""
    records: Path
    """`<home>/run/guardians`."""
    epoch: int
    term_grace_s: float
    """From TERM to KILL."""
    lock: DeviceLock | None
    """The device's; None for a program that does not use it."""
    pipe_stdout: bool = False
    orphan_grace_s: float | None = None
    """The same when the engine is gone; None: the term grace, ORPHAN_GRACE_S at most."""


@dataclass(frozen=True)
class Exit:
    """How a guarded program ended."""

    code: int | None
    """Its exit status; None when a signal ended it or nobody knows."""
    signal: signal.Signals | None
    reason: str
    """One clause without a full stop: "ended with status 1"."""


class Guarded:
    """A running program and its guardian. Lives on one event loop."""

    def __init__(
        self, record: Record, program: str, pipes: tuple[int, int], stdout: asyncio.StreamReader | None
    ) -> None:
        """
        Args:
            record: as its guardian writes it, without the child.
            pipes: our ends of its lifeline and of its status, both non-blocking; closed when it is gone.
        """
        self._record = record
        self._program = program
        self._lifeline, self._status = pipes
        self._heard = b""
        self._started = asyncio.Event()
        self._guardian_gone = asyncio.Event()
        self._settling = asyncio.Lock()
        self._exit: Exit | None = None
        self._pid = record.guardian.pid
        self.stdout = stdout
        self._loop = asyncio.get_running_loop()
        self._pidfd = os.pidfd_open(self._pid)
        self._loop.add_reader(self._pidfd, self._on_exit)
        self._loop.add_reader(self._status, self._on_status)

    @property
    def process(self) -> ProcessId:
        """The guardian."""
        return ProcessId(self._pid, int(self._said(b"child")[2]))

    @property
    def child_pid(self) -> int:
        """Of the program itself."""
        return int(self._said(b"child")[0])

    @property
    def ended(self) -> bool:
        """Whether the guardian is gone; `wait` then says how it ended."""
        return self._guardian_gone.is_set()

    async def wait(self) -> Exit:
        """Return once no process of the tree is left. May be called by several, and again."""
        await self._guardian_gone.wait()
        async with self._settling:
            if self._exit is None:
                self._exit = self._told() or await self._end_orphans()
            return self._exit

    async def stop(self, grace_s: float) -> Exit:
        """TERM, KILL after the grace, and return once nothing is left. A shorter grace overtakes a longer one."""
        self.request_stop(grace_s)
        try:
            async with asyncio.timeout(grace_s + LAST_RESORT_S):
                return await self.wait()
        except TimeoutError:  # the guardian itself hangs, or its tree is in the kernel's hands
            if not self.ended:
                os.kill(self._pid, signal.SIGKILL)
            return await self.wait()

    def request_stop(self, grace_s: float) -> None:
        """Ask for the end without waiting for it."""
        if not self.ended:
            with suppress(BlockingIOError, BrokenPipeError):  # it is ending already
                os.write(self._lifeline, b"stop %f\n" % grace_s)

    async def started(self) -> None:
        """Return once the program runs.

        Raises:
            StartInterruptedError: its guardian was killed before it could say anything.
            EnvironmentUnfitError: it could not be started. Nothing of it is left in either case.
        """
        try:
            async with asyncio.timeout(START_S):
                await self._started.wait()
            if self._said(b"failed") or not self._said(b"child"):
                raise await self._failure()
        except TimeoutError as error:
            await self.stop(0)
            raise EnvironmentUnfitError(f"{self._program} was not started within {START_S:.0f} s.") from error
        except BaseException:  # cancelled or failed: nothing is left behind
            await self.stop(0)
            raise

    async def _failure(self) -> EnvironmentUnfitError:
        ended = await self.stop(0)
        if told := b" ".join(self._said(b"failed")).decode(errors="replace"):
            return EnvironmentUnfitError(f"{self._program} could not be started: {told}.")
        kind = EnvironmentUnfitError if ended.signal is None else StartInterruptedError
        return kind(f"{self._program} could not be started: {ended.reason}.")

    # --- what the guardian says ---

    def _said(self, word: bytes) -> list[bytes]:
        """The rest of its first line that begins with the word; empty when it has not said it."""
        lines = (line.split() for line in self._heard.splitlines(keepends=True) if line.endswith(b"\n"))
        return next((line[1:] for line in lines if line[:1] == [word]), [])

    def _on_status(self) -> None:
        with suppress(BlockingIOError):
            data = os.read(self._status, STATUS_LIMIT)
            self._heard = (self._heard + data)[:STATUS_LIMIT]
            if not data:
                self._loop.remove_reader(self._status)
        if b"\n" in self._heard:
            self._started.set()

    def _on_exit(self) -> None:
        self._loop.remove_reader(self._pidfd)
        os.close(self._pidfd)
        with suppress(ChildProcessError):
            os.waitpid(self._pid, 0)
        self._on_status()
        self._loop.remove_reader(self._status)
        os.close(self._status)
        os.close(self._lifeline)
        self._started.set()
        self._guardian_gone.set()

    def _told(self) -> Exit | None:
        """None: it was killed before it could say how its program ended."""
        match self._said(b"gone"):
            case [code, number]:
                return explain(int(code), int(number))
            case _:
                return None

    async def _end_orphans(self) -> Exit:
        left = (await run_to_end(self._end_survivors)).alive
        rest = f"; {len(left)} of its processes cannot be ended" if left else ""
        return Exit(None, signal.SIGKILL, f"lost its guardian and was ended{rest}")

    def _end_survivors(self) -> Ended:
        child = self._said(b"child")
        found = ProcessId(int(child[0]), int(child[1])) if child else None
        ended = end_survivors([replace(self._record, child=found)])
        if found is not None:
            reap_session(found.pid)
        return ended


def explain(code: int, number: int) -> Exit:
    """An exit status (or -1) and a signal (or 0) in words."""
    if number:
        name = signal.Signals(number).name if number in set(signal.Signals) else f"signal {number}"
        known = signal.Signals(number) if number in set(signal.Signals) else None
        return Exit(None, known, f"was ended by {name}")
    return Exit(code, None, f"ended with status {code}")


async def spawn(command: Command) -> Guarded:
    """Start a program under a guardian of its own; it runs when this returns.

    Cancelled, it leaves nothing behind. Call it on the main thread's event loop.

    Raises:
        EnvironmentUnfitError: the program cannot be started.
        StartInterruptedError: it was killed meanwhile.
        DeviceBusyError: what the last program of this role left behind still lives.
    """
    assert ROLE.fullmatch(command.role), f"{command.role!r} is no role"
    if threading.current_thread() is not threading.main_thread():
        raise RuntimeError("a guardian dies with the thread that started it: spawn from the main thread")
    boot, log = await run_to_end(lambda: _prepare(command))
    with ExitStack() as theirs:
        theirs.callback(os.close, log)
        stdout, reader = (await _output(theirs)) if command.pipe_stdout else (log, None)
        guarded = _launch(command, boot, (stdout, log), reader)
    await guarded.started()
    return guarded


async def _output(theirs: ExitStack) -> tuple[int, asyncio.StreamReader]:
    """A pipe for the child's standard output: the end to write to, and a stream that ends when the tree has."""
    ours, writing = os.pipe()
    theirs.callback(os.close, writing)
    reader = asyncio.StreamReader(LINE_LIMIT)
    pipe = os.fdopen(ours, "rb", buffering=0)
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), pipe)
    return writing, reader


def _prepare(command: Command) -> tuple[str, int]:
    """This boot's id and the open log. Blocking."""
    for directory in (command.records, command.log.parent):
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    boot = boot_id()
    _require_no_survivors(_record_path(command), boot)
    if command.log.exists() and command.log.stat().st_size > LOG_LIMIT_BYTES:
        command.log.replace(command.log.with_name(command.log.name + ".1"))
    return boot, os.open(command.log, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)


def _require_no_survivors(path: Path, boot: str) -> None:
    """A record is the only way back to a tree without a guardian: it is not overwritten while that tree lives."""
    record = read_record(path)
    if record is not None and (left := survivors(record, boot)):
        pids = ", ".join(str(process.pid) for process in left)
        raise DeviceBusyError(f"The last {record.role} still runs (pid {pids}); it is to be ended first.")


def _record_path(command: Command) -> Path:
    return command.records / f"{command.role}.json"


def _launch(command: Command, boot: str, outputs: tuple[int, int], stdout: asyncio.StreamReader | None) -> Guarded:
    """Spawn the guardian; our ends of its pipes go to the result, its ends are closed here."""
    tree = secrets.token_hex(TREE_DIGITS // 2)
    with ExitStack() as ours, ExitStack() as theirs:
        life_end, lifeline = _pipe(theirs, ours)
        status, status_end = _pipe(ours, theirs)
        layout = {guardian.LIFELINE: life_end, 1: outputs[0], 2: outputs[1], guardian.STATUS: status_end}
        if command.lock is not None:
            layout[guardian.LOCK] = command.lock.fd
        for descriptor in (lifeline, status):
            os.set_blocking(descriptor, False)
        pid = os.posix_spawn(
            sys.executable,
            _argv(command, boot, tree),
            {**command.env, TREE_VARIABLE: tree},
            file_actions=_actions(layout, theirs),
            setsid=True,
            setsigmask=(),
        )
        ours.pop_all()
    # Its start time is not known yet: the guardian says it with its first word.
    record = Record(_record_path(command), command.role, ProcessId(pid, 0), None, command.epoch, boot, tree)
    return Guarded(record, command.argv[0], (lifeline, status), stdout)


def _pipe(reading: ExitStack, writing: ExitStack) -> tuple[int, int]:
    ends = os.pipe()
    reading.callback(os.close, ends[0])
    writing.callback(os.close, ends[1])
    return ends


def _actions(layout: Mapping[int, int], copies: ExitStack) -> list[tuple[int, int, int]]:
    """Put our descriptors at the guardian's numbers. Copies go first to high numbers, so that none is overwritten."""
    actions: list[tuple[int, int, int]] = []
    for target, source in layout.items():
        copy = fcntl.fcntl(source, fcntl.F_DUPFD_CLOEXEC, FIRST_FREE)
        copies.callback(os.close, copy)
        actions.append((os.POSIX_SPAWN_DUP2, copy, target))
    return actions


def _argv(command: Command, boot: str, tree: str) -> list[str]:
    orphan_grace = command.orphan_grace_s
    if orphan_grace is None:
        orphan_grace = min(command.term_grace_s, ORPHAN_GRACE_S)
    interpreter = [sys.executable, "-I", "-S", "-c", START, str(PROGRAM)]
    identity = [str(os.getpid()), str(_record_path(command)), command.role, str(command.epoch), boot, tree]
    ending = [str(command.term_grace_s), str(orphan_grace), "free" if command.lock is None else "locked"]
    return [*interpreter, *identity, *ending, "--", *command.argv]
