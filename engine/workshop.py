"""What a session is worked on with: sandbox, judge, prompts, the way to the model. Each is built when it is needed.

LangGraph, the OpenAI client and Jinja cost more than a second together; an engine that only lists sessions or serves
events never pays for them. Two things are looked at before the first session: a user's own templates, so that a
mistake in them stops the engine and not a session, and the sandbox, so that its level is shown from the start.
"""

from __future__ import annotations

import asyncio
import importlib
import logging
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from engine.api_device import DeviceState
from engine.api_models import AttemptRecord, Outcome, PhaseStatus, RunState, SessionRecord, StreamChunk, TaskMode
from engine.assembly import Stores
from engine.config import Config, SandboxSection
from engine.device.contracts import LiveAdapter
from engine.device.owner import Device
from engine.errors import BudgetExceededError, RuneError
from engine.events import Bus
from engine.inference.admitted import AdmittedProvider
from engine.runner import Ended
from engine.sessions import Changes
from registry.clock import Clock
from registry.models import LoadableAdapter

if TYPE_CHECKING:
    from engine.evaluation.judge import Judge
    from engine.evolution.picking import Picker
    from engine.pipeline.parts import Parts, SessionResult
    from engine.pipeline.prompts import Prompts
    from engine.sandbox.probe import SandboxReport
    from engine.sandbox.run import Sandbox

MODEL_STATES = {
    DeviceState.STARTING: "starting",
    DeviceState.WAKING: "starting",
    DeviceState.VERIFYING: "starting",
    DeviceState.SERVING: "serving",
    DeviceState.DRAINING: "serving",
    DeviceState.FAULT: "failed",
}
"""`EngineStatus.model_state` of each state of the device; in all others no model server can answer: `stopped`."""

STATES = {Outcome.ERROR: RunState.FAILED, Outcome.CANCELLED: RunState.CANCELLED}
"""State of a session by its outcome, where it did not run to its end; with any other outcome it succeeded."""

EXPLORER = "explorer"
"""Stands for backend and model where none was asked."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Facts:
    """What the workshop says about itself, as `EngineStatus` wants it."""

    backend: str
    model: str
    model_state: str
    sandbox_level: str
    """Empty until the sandbox was looked at."""
    sandbox_reason: str


class Workshop:
    """Owner of what sessions share."""

    def __init__(self, config: Config, home: Path, clock: Clock, stores: Stores, device: Device, bus: Bus) -> None:
        self._config = config
        self._home = home
        self._clock = clock
        self._stores = stores
        self._device = device
        self._bus = bus
        templates = config.pipeline.templates
        self._templates = Path(templates).expanduser() if templates else None
        self._building = asyncio.Lock()
        self._prompts: Prompts | None = None
        self._checkpoints: Path | None = None
        self._judge: Judge | None = None
        self._sandbox: Sandbox | None = None
        self._picker: Picker | None = None
        self._report: SandboxReport | None = None

    async def check(self) -> None:
        """Look at the user's own templates, so that a mistake in them stops the engine and not a session.

        Raises:
            ConfigError: `pipeline.templates` names a folder that cannot be used.
        """
        if self._templates is not None:
            await self.ready_prompts()

    def facts(self) -> Facts:
        """As last observed; the sandbox is unknown until something looked at it."""
        device = self._device.status()
        return Facts(
            backend=device.backend,
            model=self._config.model.base_id,
            model_state=MODEL_STATES.get(device.state, "stopped"),
            sandbox_level=self._report.level.value if self._report else "",
            sandbox_reason=self._report.reason if self._report else "not looked at yet",
        )

    async def look_at_sandbox(self) -> None:
        """Find out how well this machine can isolate generated code; from then on `facts` says it."""
        try:
            await self.ready_judge()
        except (RuneError, OSError) as error:  # the first session tries again, and then says so to its user
            log.error("the sandbox could not be looked at: %s", error)

    async def run(self, session: SessionRecord) -> Ended:
        """Work on one session until it ends.

        Raises:
            RuneError: it could not be worked on; the sentence says why.
        """
        await asyncio.to_thread(_import_pipeline)  # LangGraph: a second of imports
        from engine.pipeline.limits import Stopwatch
        from engine.pipeline.run import initial_phases, run_session

        if not session.phases:
            session = session.model_copy(update={"phases": initial_phases(session.task)})
            await self._stores.sessions.update(session.id, Changes(phases=session.phases))
        report = Progress(self._stores, self._bus, session)
        adapter = await self._adapter(session)
        live = LiveAdapter(adapter.adapter.digest, str(adapter.directory), adapter.gguf_sha256) if adapter else None
        stopwatch = Stopwatch()
        provider = AdmittedProvider(self._device, self._config.model.base_id, live, waiting=stopwatch.paused)
        started = self._clock.monotonic()

        def seconds() -> float:
            return session.seconds + self._clock.monotonic() - started

        try:
            parts = replace(await self._parts(provider, adapter, report), stopwatch=stopwatch)
            result = await run_session(session.id, session.task, parts)
        except BudgetExceededError as error:
            return Ended(RunState.FAILED, str(error), Changes(outcome=Outcome.FAILED, seconds=seconds()))
        except BaseException:  # cancelled or failed: the time was spent all the same
            await self._stores.sessions.update(session.id, Changes(seconds=seconds()))
            raise
        changes = replace(self._changes(session.task.mode, result, provider), seconds=seconds())
        return Ended(STATES.get(result.outcome, RunState.SUCCEEDED), result.reason, changes)

    def _changes(self, mode: TaskMode, result: SessionResult, provider: AdmittedProvider) -> Changes:
        explored = mode is TaskMode.EXPLORE
        return Changes(
            outcome=result.outcome,
            phases=result.phases or None,
            attempts=result.attempts,
            tokens=result.tokens,
            backend=EXPLORER if explored else provider.answered_by or self._device.status().backend,
            model=EXPLORER if explored else self._config.model.base_id,
            sandbox_level=result.sandbox_level,
            code=result.code or None,
            summary=result.summary,
        )

    async def _parts(self, provider: AdmittedProvider, adapter: LoadableAdapter | None, report: Progress) -> Parts:
        from engine.pipeline.parts import Parts

        async def admitted() -> AdmittedProvider:
            return provider

        return Parts(
            pipeline=self._config.pipeline,
            generation=self._config.generation,
            provider=admitted,
            judge=await self.ready_judge(),
            store=self._stores.trajectories,
            report=report,
            prompts=await self.ready_prompts(),
            checkpoints=await self._ready_checkpoints(),
            clock=self._clock,
            parallel=self._config.inference.parallel,
            adapter=adapter.adapter.id if adapter else None,
            adapter_digest=adapter.adapter.digest if adapter else None,
            backend=self._device.status().backend,
            model=self._config.model.base_id,
            sandbox=self._sandbox,
            explorer_programs=self._config.evolution.explorer_programs,
        )

    async def _adapter(self, session: SessionRecord) -> LoadableAdapter | None:
        """What the session is worked on with: decided once, and written down with the reason.

        Raises:
            ConflictError: the adapter that its user named cannot be used.
        """
        picked = await self._ready_picker().decide(session, self._device.status().backend)
        if not session.adapter_reason:
            adapter = picked.adapter.adapter.id if picked.adapter else None
            await self._stores.sessions.update(session.id, Changes(adapter=adapter, adapter_reason=picked.reason))
        return picked.adapter

    def _ready_picker(self) -> Picker:
        if self._picker is None:
            from engine.evolution.learned import Learned
            from engine.evolution.picking import Picker
            from engine.training.dataset import DataStore

            stores, config = self._stores, self._config
            learned = Learned(stores.db, stores.registry, DataStore(self._home / "training"))
            self._picker = Picker(stores.registry, learned, config.model.base_id, config.evolution)
        return self._picker

    async def ready_prompts(self) -> Prompts:
        """The templates, read on first use."""
        async with self._building:
            if self._prompts is None:
                self._prompts = await asyncio.to_thread(_load_prompts, self._templates)
            return self._prompts

    async def _ready_checkpoints(self) -> Path:
        async with self._building:
            if self._checkpoints is None:
                from engine.pipeline.graph import make_checkpoints

                path = self._home / "checkpoints.db"
                await make_checkpoints(path)
                self._checkpoints = path
            return self._checkpoints

    async def ready_judge(self) -> Judge:
        """The judge, made on first use: the sandbox is tried out then."""
        async with self._building:
            if self._judge is None:
                self._judge, self._sandbox, self._report = await asyncio.to_thread(_make_judge, self._config.sandbox)
            return self._judge


def _import_pipeline() -> None:
    for module in ("engine.pipeline.run", "engine.evolution.picking"):
        importlib.import_module(module)


def _load_prompts(templates: Path | None) -> Prompts:
    from engine.pipeline.prompts import load_prompts

    return load_prompts(templates)


def _make_judge(settings: SandboxSection) -> tuple[Judge, Sandbox, SandboxReport]:
    """Imports, tries the sandbox out, and makes the judge on what it found: in a thread, since all of it blocks."""
    from engine.evaluation.judge import Judge
    from engine.sandbox.probe import probe
    from engine.sandbox.run import Sandbox

    report = probe(settings)
    sandbox = Sandbox(settings, report)
    return Judge(sandbox), sandbox, report


class Progress:
    """Tells the world how one session goes: rows and events for its state, the bus alone for streamed output.

    Implements `engine.pipeline.parts.Reporter`.
    """

    def __init__(self, stores: Stores, bus: Bus, session: SessionRecord) -> None:
        self._stores = stores
        self._bus = bus
        self._id = session.id
        self._phases = {status.phase: status for status in session.phases}
        self._counted = set(range(1, session.attempts + 1))
        self._tokens = session.tokens

    async def phase(self, status: PhaseStatus) -> None:
        """Store and announce how far a phase is; saying it twice changes nothing."""
        self._phases[status.phase] = status
        await self._stores.sessions.update(self._id, Changes(phases=tuple(self._phases.values())))

    async def attempt(self, record: AttemptRecord) -> None:
        """Count an attempt; one that was counted before a crash is not counted again."""
        if record.number in self._counted:
            return
        self._counted.add(record.number)
        self._tokens += record.prompt_tokens + record.completion_tokens
        await self._stores.sessions.update(self._id, Changes(attempts=len(self._counted), tokens=self._tokens))

    def chunk(self, chunk: StreamChunk) -> None:
        """Show a piece of model output to whoever watches now."""
        self._bus.publish_chunk(chunk)
