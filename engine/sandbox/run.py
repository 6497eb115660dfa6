"""Runs programs in the sandbox: one `Sandbox` for the machine, one `Running` per program.

    launched --ready--> running --exit | timeout | limit | kill()--> ending --tree dead, files deleted--> ended
        \\--no "ready"--> SandboxUnavailableError: the program never started

The level is fixed when the Sandbox is made and stands in every result. What comes back (exit code, output) is data
from an opponent.
"""

from __future__ import annotations

import asyncio
import dataclasses
import signal
from asyncio.subprocess import PIPE, Process
from contextlib import suppress
from pathlib import Path
from types import TracebackType

from engine.config import SandboxSection
from engine.errors import SandboxUnavailableError
from engine.sandbox import watch
from engine.sandbox.launch import Prepared, Setup, default_scratch, prepare
from engine.sandbox.output import Capture
from engine.sandbox.plan import INSIDE
from engine.sandbox.probe import SandboxReport
from engine.sandbox.types import ORDER, Level, Limits, Program, SandboxResult
from registry.clock import Clock, SystemClock

START_S = 15.0
"""For a program to begin, before any generated code runs; 5 s were too few at a load of 10 on two cores."""
WATCH_EVERY_S = 0.1
CHUNK = 1 << 16
END_S = 2.0
"""How long a tree may take to die of what ends it by itself before it is killed process by process."""


def limits_of(settings: SandboxSection) -> Limits:
    """The configured limits."""
    return Limits(**{field.name: getattr(settings, field.name) for field in dataclasses.fields(Limits)})


class Sandbox:
    """Runs programs at one level of isolation, never at a weaker one than `settings.min_level`."""

    def __init__(
        self,
        settings: SandboxSection,
        report: SandboxReport,
        scratch: Path | None = None,
        *,
        clock: Clock | None = None,
        stage2: Path = INSIDE,
    ) -> None:
        """
        Args:
            report: what `probe` found.
            scratch: where runs below level strict keep their files; private to this user.
            stage2: directory of the stage 2 modules.
        """
        self._minimum = Level(settings.min_level)
        self._report = report
        self._clock = clock or SystemClock()
        self.limits = limits_of(settings)
        self._setup = Setup(report.level, report.bwrap_path, report.landlock_abi, scratch or default_scratch(), stage2)

    @property
    def level(self) -> Level:
        """The level that every run has."""
        return self._setup.level

    async def run(self, program: Program) -> SandboxResult:
        """Run to the end, whatever that is.

        Raises:
            SandboxUnavailableError: the required level is not there, or the sandbox did not start.
            InputError: the program's files or descriptors are not acceptable.
        """
        async with self.start(program) as running:
            return await running.wait()

    def start(self, program: Program) -> Running:
        """`async with sandbox.start(program) as running`: the program runs inside the block and is dead after it."""
        if ORDER.index(self.level) < ORDER.index(self._minimum):
            raise SandboxUnavailableError(
                f"The sandbox reaches level {self.level} here and sandbox.min_level is {self._minimum}: "
                f"{self._report.reason} {' '.join(self._report.fixes)}".strip()
            )
        return Running(self._setup, program, program.limits or self.limits, self._clock)


class Running:
    """One program while it runs. Made by `Sandbox.start`."""

    def __init__(self, setup: Setup, program: Program, limits: Limits, clock: Clock) -> None:
        self._setup = setup
        self._program = program
        self._limits = limits
        self._clock = clock
        self._stop = asyncio.Event()
        self._spawned = asyncio.Event()
        self._tasks = asyncio.TaskGroup()
        self._result: asyncio.Future[SandboxResult] = asyncio.get_running_loop().create_future()

    async def wait(self) -> SandboxResult:
        """The result, once the whole tree is dead. May be called again."""
        return await asyncio.shield(self._result)

    def kill(self) -> None:
        """End it now; `wait` then returns with `killed == "stopped"`."""
        self._stop.set()

    async def __aenter__(self) -> Running:
        """Returns once the process has its copies of the channel descriptors, so that the caller may close its own."""
        await self._tasks.__aenter__()
        self._tasks.create_task(self._live(), name="sandbox run")
        try:
            await self._spawned.wait()
        except asyncio.CancelledError:
            await self._finish()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._finish()

    async def _finish(self) -> None:
        self.kill()
        await self._tasks.__aexit__(None, None, None)
        if not self._result.done():
            self._result.cancel()
        elif not self._result.cancelled():
            self._result.exception()  # looked at: a caller that left early does not care why it ended

    async def _live(self) -> None:
        """The whole life of one run. Every outcome ends in the result; nothing is left behind."""
        try:
            result = await self._launch_and_run()
        except Exception as error:
            self._result.set_exception(error)
        else:
            self._result.set_result(result)
        finally:
            self._spawned.set()

    async def _launch_and_run(self) -> SandboxResult:
        prepared = await asyncio.to_thread(prepare, self._setup, self._program, self._limits, self._clock)
        try:
            process = await self._spawn(prepared)
            prepared.close_child_ends()
            self._spawned.set()
            try:
                return await self._attend(process, prepared)
            finally:
                await end_tree(process, prepared, strict=self._setup.level is Level.STRICT)
        finally:
            prepared.close()
            await asyncio.to_thread(prepared.remove)

    async def _spawn(self, prepared: Prepared) -> Process:
        try:
            return await asyncio.create_subprocess_exec(
                *prepared.argv,
                stdin=prepared.stdin,
                stdout=PIPE,
                stderr=PIPE,
                env={},
                start_new_session=True,
                pass_fds=prepared.pass_fds(self._program.channel_fds),
            )
        except OSError as error:
            raise SandboxUnavailableError(f"{prepared.argv[0]}: {error.strerror}; run `rune-tui doctor`.") from error

    async def _attend(self, process: Process, prepared: Prepared) -> SandboxResult:
        assert process.stdout and process.stderr  # both are pipes
        out, err = Capture(self._limits.output_bytes), Capture(self._limits.output_bytes)
        async with asyncio.TaskGroup() as group:
            readers = [
                group.create_task(_drain(process.stdout, out), name="sandbox stdout"),
                group.create_task(_drain(process.stderr, err), name="sandbox stderr"),
            ]
            refusal = await self._until_ready(prepared)
            started = self._clock.monotonic()
            killed = "" if refusal else await self._until_end(process, prepared)
            duration = self._clock.monotonic() - started
            await end_tree(process, prepared, strict=self._setup.level is Level.STRICT)
            await asyncio.wait(readers, timeout=END_S)
            for reader in readers:
                reader.cancel()
        if refusal:
            raise SandboxUnavailableError(f"The sandbox did not start: {refusal} {err.text()[-500:]}".strip())
        return self._conclude(process.returncode, killed, duration, (out, err))

    async def _until_ready(self, prepared: Prepared) -> str:
        """Empty when stage 2 says ready, else its reason."""
        try:
            async with asyncio.timeout(START_S):
                line = await asyncio.get_running_loop().sock_recv(prepared.control, CHUNK)
        except TimeoutError:
            return f"no answer within {START_S:.0f} s."
        except ConnectionResetError:
            return "it ended without a word."
        text = line.decode("utf-8", "replace").strip()
        return "" if text == "ready" else text or "it ended without a word."

    async def _until_end(self, process: Process, prepared: Prepared) -> str:
        """Wait for the program's end, or for a reason to end it."""
        scratch = str(prepared.scratch) if prepared.scratch else None
        async with asyncio.TaskGroup() as group:
            exited = group.create_task(process.wait(), name="sandbox exit")
            stopped = group.create_task(self._stop.wait(), name="sandbox stop")
            watched = group.create_task(self._watch(process.pid, scratch), name="sandbox watch")
            reasons = {exited, stopped, watched}
            done, _ = await asyncio.wait(reasons, timeout=self._limits.timeout_s, return_when=asyncio.FIRST_COMPLETED)
            for task in reasons:
                task.cancel()
        if exited in done:
            return ""
        if watched in done:
            return watched.result()
        return "stopped" if stopped in done else "timeout"

    async def _watch(self, root: int, scratch: str | None) -> str:
        while True:
            await asyncio.sleep(WATCH_EVERY_S)
            usage = await asyncio.to_thread(watch.measure, root, scratch)
            if reason := watch.breach(usage, self._limits):
                return reason

    def _conclude(
        self, status: int | None, killed: str, duration: float, output: tuple[Capture, Capture]
    ) -> SandboxResult:
        code = exit_code(status)
        if not killed and code == -signal.SIGXCPU:
            killed = "timeout"  # its CPU seconds are the same number; several threads spend them faster
        if killed and code == 0:
            code = -signal.SIGKILL  # it ended well in the moment in which it was to be killed: too late
        out, err = output
        return SandboxResult(
            stdout=out.text(),
            stderr=err.text(),
            exit_code=code,
            timed_out=killed == "timeout",
            truncated=out.truncated or err.truncated,
            level=self._setup.level,
            duration_s=duration,
            killed=killed,
        )


def exit_code(status: int | None) -> int:
    """The program's: bubblewrap and the warden report a signal the way a shell does, as 128 + its number."""
    if status is None:
        return -signal.SIGKILL
    return 128 - status if 128 < status <= 128 + signal.SIGRTMAX else status


async def end_tree(process: Process, prepared: Prepared, *, strict: bool) -> None:
    """Make sure that the whole tree is dead and reaped. Harmless when it already is.

    Below strict the warden does it when the control socket closes (it kills the group in one go); in a pid
    namespace the kernel does it when the namespace's init dies.
    """
    prepared.control.close()
    if not strict:
        await _exited(process, END_S)
    if process.returncode is None:
        await asyncio.to_thread(watch.kill_tree, process.pid)
        await _exited(process, END_S)


async def _exited(process: Process, seconds: float) -> None:
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await process.wait()


async def _drain(stream: asyncio.StreamReader, capture: Capture) -> None:
    while data := await stream.read(CHUNK):
        capture.feed(data)
