"""Runs a batch: sends the tasks to an engine, follows its events, and reports each task as it ends.

A batch is a client like any other: it uses the engine that runs, or hosts one in its own process when none answers.
Its state is in the engine's database under a run id that follows from the input file's path, so a later `--resume`
needs nothing but the same file.

    steps (batch_plan) ──► window of open sessions ──► events ──► ended? ──► task record, files, next step
                                                              └─► SIGINT/SIGTERM: cancel what is open, `done`, 130

Only a window of sessions is queued at a time: what was never queued need not be cancelled, and an engine that
outlives an interrupted batch has little left over.
"""

from __future__ import annotations

import asyncio
import signal
import time
from collections import deque
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing, asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from engine.api_models import FINAL_STATES, Event, SessionCreate, SessionRecord
from engine.config import Config, load_config
from engine.errors import ConflictError, ExitCode, InputError, RuneError
from rune_tui.atomic_file import write_atomically
from rune_tui.batch_input import Batch, read_batch
from rune_tui.batch_output import check_destination, check_file_destination, write_run, write_task
from rune_tui.batch_plan import Move, Step, last_run, plan, run_name
from rune_tui.batch_records import TaskResult, count, exit_code, launch_record, task_result
from rune_tui.client import EngineClient
from rune_tui.host import Attached, engine_client
from rune_tui.junit import junit_xml
from rune_tui.narration import Narrator, duration, narrator

AHEAD = 4
"""Sessions queued beyond those that run, so that the engine never waits for the next."""

CANCEL_DEADLINE_S = 20.0
"""An interrupted batch waits this long for its sessions to reach a safe point."""

Emit = Callable[[Mapping[str, object]], None]


@dataclass(frozen=True)
class BatchOptions:
    """What the command line asked for."""

    source: Path
    home: Path
    output: Path | None = None
    junit: Path | None = None
    resume: bool = False
    backend: str | None = None
    overrides: tuple[str, ...] = ()


@dataclass
class _Progress:
    """What has happened so far; only `_Run` changes it."""

    steps: deque[Step]
    open: dict[str, str] = field(default_factory=dict[str, str])
    """Sessions that have not ended: their id and their task's."""
    results: list[TaskResult] = field(default_factory=list[TaskResult])


async def run_batch(options: BatchOptions, batch: Batch, config: Config, emit: Emit) -> ExitCode:
    """The whole batch, from the `launch` record to the `done` record.

    Args:
        batch, config: from `prepare`.
        emit: takes each record, in order, in a thread of its own: a reader that is slow holds up nothing else.

    Raises:
        InputError: an option does not fit the engine that runs; nothing was run.
        EnvironmentUnfitError: no engine can run here.
    """
    async with engine_client(config, options.home) as attached:
        _check_options(options, attached)
        run_id, steps = await _steps(batch, attached.client, resume=options.resume)
        with narrator(len(batch.tasks)) as voice:
            await asyncio.to_thread(emit, _launch(batch, attached, run_id))
            await asyncio.to_thread(_greet, voice, options, attached, steps)
            run = _Run(options, attached.client, run_id, voice, emit, steps, config.pipeline.sessions_at_once + AHEAD)
            return await run.to_end(batch)


def prepare(options: BatchOptions) -> tuple[Batch, Config]:
    """Check everything that can be wrong with the input before anything runs or is written.

    Raises:
        InputError: one line with the place and the remedy.
    """
    overrides = [*options.overrides, *([f"inference.backend={options.backend}"] if options.backend else [])]
    config = load_config(options.home / "config.toml", overrides)
    batch = read_batch(options.source)
    if options.output is not None:
        check_destination(options.output, batch)
    if options.junit is not None:
        check_file_destination("--junit", options.junit)
    return batch, config


def _check_options(options: BatchOptions, attached: Attached) -> None:
    """An option that the running engine would ignore is refused, not ignored."""
    if attached.embedded:
        return
    remedy = "stop it with `rune-tui engine stop`, or leave the option out"
    if options.overrides:
        raise InputError(f"-c {options.overrides[0]}: an engine with its own configuration runs already; {remedy}.")
    if options.backend not in (None, attached.status.backend):
        raise InputError(f"--backend {options.backend}: the running engine uses {attached.status.backend}; {remedy}.")


async def _steps(batch: Batch, client: EngineClient, *, resume: bool) -> tuple[str, tuple[Step, ...]]:
    async def exists(number: int) -> bool:
        return bool(await client.sessions(run_id=run_name(batch.path, number), limit=1))

    last = await last_run(exists)
    if not resume or last == 0:
        return run_name(batch.path, last + 1), plan(batch.tasks, ())
    run_id = run_name(batch.path, last)
    return run_id, plan(batch.tasks, await client.all_sessions(run_id=run_id))


def _launch(batch: Batch, attached: Attached, run_id: str) -> dict[str, object]:
    return launch_record(
        attached.status,
        run_id=run_id,
        source=str(batch.path),
        tasks=len(batch.tasks),
        embedded=attached.embedded,
    )


def _greet(voice: Narrator, options: BatchOptions, attached: Attached, steps: tuple[Step, ...]) -> None:
    status = attached.status
    voice.say(f"{len(steps)} tasks, backend {status.backend}, sandbox {status.sandbox_level or 'unknown'}")
    if options.resume and all(step.move is Move.START for step in steps):
        voice.say("nothing to resume: no earlier run of this input has these tasks; starting anew")


class _Run:
    """One run of the steps against one engine."""

    def __init__(
        self,
        options: BatchOptions,
        client: EngineClient,
        run_id: str,
        voice: Narrator,
        emit: Emit,
        steps: tuple[Step, ...],
        window: int,
    ) -> None:
        self._options = options
        self._client = client
        self._run_id = run_id
        self._voice = voice
        self._emit = emit
        self._window = window
        self._progress = _Progress(deque(steps))
        self._started = time.monotonic()

    async def to_end(self, batch: Batch) -> ExitCode:
        """Drive until every task has ended or the user interrupts; then the summary and the exit code."""
        interrupted = await self._drive_until_interrupted()
        if interrupted:
            await self._cancel_open()
        counts = count(self._progress.results, len(batch.tasks))
        await asyncio.to_thread(self._write_files, batch)
        done = counts.record(run_id=self._run_id, seconds=self._seconds(), interrupted=interrupted)
        await asyncio.to_thread(self._emit, done)
        await asyncio.to_thread(self._voice.say, self._farewell(interrupted=interrupted))
        return exit_code(counts, interrupted=interrupted)

    async def _drive_until_interrupted(self) -> bool:
        """True when SIGINT or SIGTERM came first."""
        async with _stop_signal() as stop, asyncio.TaskGroup() as group:
            work = group.create_task(self._drive(), name="batch")
            waiting = group.create_task(stop.wait(), name="batch stop signal")
            await asyncio.wait((work, waiting), return_when=asyncio.FIRST_COMPLETED)
            interrupted = not work.done()
            work.cancel()
            waiting.cancel()
        return interrupted

    async def _drive(self) -> None:
        since = (await self._client.health()).last_sequence
        await self._fill()
        await self._follow(since)

    async def _follow(self, since: int) -> None:
        """Take events until no session is open."""
        if not self._progress.open:
            return
        async with aclosing(self._client.events(since, chunks=False)) as items:
            async for item in items:
                if isinstance(item, Event) and await self._take(item) and not self._progress.open:
                    return

    async def _fill(self) -> None:
        """Open sessions until the window is full or no step is left."""
        progress = self._progress
        while progress.steps and len(progress.open) < self._window:
            step = progress.steps[0]
            session = await self._begin(step)
            progress.steps.popleft()
            if session.state in FINAL_STATES:
                await self._report(session, resumed=step.move is Move.FINISHED)
            else:
                progress.open[session.id] = session.task.id

    async def _begin(self, step: Step) -> SessionRecord:
        client = self._client
        if step.session is None:
            return await client.create_session(SessionCreate(task=step.task, run_id=self._run_id))
        match step.move:
            case Move.RESUME:
                with suppress(ConflictError):  # somebody else resumed it first: follow it
                    return await client.resume_session(step.session.id)
                return await client.session(step.session.id)
            case _:
                return await client.session(step.session.id)

    async def _take(self, event: Event) -> bool:
        """Act on an event; True when it ended one of our sessions."""
        session_id = event.subject.removeprefix("session/")
        if session_id not in self._progress.open:
            return False
        if event.payload.get("state") not in FINAL_STATES:
            await self._narrate(session_id, event)
            return False
        session = await self._client.session(session_id)
        if session.state not in FINAL_STATES:
            return False  # an old event: it was resumed since
        self._progress.open.pop(session_id, None)
        await self._report(session)
        await self._fill()
        return True

    async def _narrate(self, session_id: str, event: Event) -> None:
        phases: list[dict[str, object]] = event.payload.get("phases") or []
        running = [str(phase.get("phase")) for phase in phases if phase.get("state") == "running"]
        if running:
            await asyncio.to_thread(self._voice.step, self._progress.open[session_id], running[-1])

    async def _report(self, session: SessionRecord, *, resumed: bool = False) -> None:
        """Files first: whoever reads the record may open them."""
        if self._options.output is not None:
            trajectory = await self._client.trajectory(session.id)
            await asyncio.to_thread(write_task, self._options.output, trajectory)
        result = task_result(session, resumed=resumed)
        self._progress.results.append(result)
        await asyncio.to_thread(self._emit, result.record())
        await asyncio.to_thread(self._voice.ended, result)

    async def _cancel_open(self) -> None:
        """Cancel what is open and wait, for a while, until the engine has put it aside."""
        await asyncio.to_thread(self._voice.say, "stopping: the running task goes to its last finished step")
        with suppress(TimeoutError, RuneError):
            async with asyncio.timeout(CANCEL_DEADLINE_S):
                since = (await self._client.health()).last_sequence
                self._progress.steps.clear()
                for session_id in tuple(self._progress.open):
                    await self._cancel(session_id)
                await self._follow(since)

    async def _cancel(self, session_id: str) -> None:
        with suppress(ConflictError):  # it has just ended
            await self._client.cancel_session(session_id)
        session = await self._client.session(session_id)
        if session.state in FINAL_STATES:
            self._progress.open.pop(session_id, None)
            await self._report(session)

    def _write_files(self, batch: Batch) -> None:
        """Those of the whole batch."""
        if self._options.output is not None:
            write_run(self._options.output, self._progress.results)
        if self._options.junit is not None:
            write_atomically(self._options.junit, junit_xml(batch.path.name, self._progress.results))

    def _farewell(self, *, interrupted: bool) -> str:
        if interrupted:
            return "interrupted; run the same command with --resume to go on"
        return f"all tasks have ended after {duration(self._seconds())}"

    def _seconds(self) -> float:
        return time.monotonic() - self._started


@asynccontextmanager
async def _stop_signal() -> AsyncGenerator[asyncio.Event]:
    """Set at the first SIGINT or SIGTERM; from then on the signals have their usual effect again."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    numbers = (signal.SIGINT, signal.SIGTERM)

    def first() -> None:
        stop.set()
        for number in numbers:
            loop.remove_signal_handler(number)

    for number in numbers:
        loop.add_signal_handler(number, first)
    try:
        yield stop
    finally:
        for number in numbers:
            loop.remove_signal_handler(number)
