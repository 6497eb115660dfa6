"""What a session runs on, and what comes of it: the seams of the pipeline on one screen."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from engine.api_models import AttemptRecord, Outcome, PhaseName, PhaseStatus, StreamChunk
from engine.config import GenerationSection, PipelineSection
from engine.evaluation.judge import Checks, Solution
from engine.evaluation.verdict import Verdict
from engine.inference.provider import Provider
from engine.pipeline.limits import Stopwatch
from engine.pipeline.prompts import Prompts
from engine.sandbox.types import Program, SandboxResult
from engine.training.trajectories import TrajectoryStore
from registry.clock import Clock


class Judge(Protocol):
    """Decides about code (`engine.evaluation.judge.Judge`)."""

    async def check(self, solution: Solution, checks: Checks) -> Verdict:
        """The verdict of given tests and cases."""
        ...

    async def self_check(self, solution: Solution) -> Verdict:
        """The verdict of the tests that the code brings with it."""
        ...


class SandboxRuns(Protocol):
    """Runs programs in isolation (`engine.sandbox.run.Sandbox`)."""

    async def run(self, program: Program) -> SandboxResult:
        """Run to the end, whatever that is."""
        ...


class Reporter(Protocol):
    """Who is told how a session goes; the engine's core persists and publishes it."""

    async def phase(self, status: PhaseStatus) -> None:
        """A phase changed. Told again for the same change after a resume: must be idempotent."""
        ...

    async def attempt(self, record: AttemptRecord) -> None:
        """An attempt was recorded; told once more at most when a crash came between recording and telling."""
        ...

    def chunk(self, chunk: StreamChunk) -> None:
        """A piece of model output; live only."""
        ...


async def always_open(phase: PhaseName) -> None:
    """The gate of a session that nobody pauses."""
    del phase


@dataclass(frozen=True)
class Parts:
    """Everything that `run_session` needs; nothing is taken from the environment."""

    pipeline: PipelineSection
    generation: GenerationSection
    provider: Callable[[], Awaitable[Provider]]
    """Gives the model server, started if need be."""
    judge: Judge
    store: TrajectoryStore
    report: Reporter
    prompts: Prompts
    """`await asyncio.to_thread(load_prompts, folder)`, once."""
    checkpoints: Path
    """The file of LangGraph's checkpointer: `home/checkpoints.db`."""
    clock: Clock
    parallel: int
    """Subtasks that are worked on side by side; `inference.parallel`."""
    adapter: str | None = None
    """Id of the adapter that every phase uses, or None for the base model."""
    adapter_digest: str | None = None
    """Its digest: the name that the model server has it under."""
    backend: str = ""
    """Recorded where the provider does not say which one answered."""
    model: str = ""
    sandbox: SandboxRuns | None = None
    """For the explorer, which runs many programs at once; whatever it finds goes to the judge."""
    explorer_programs: int = 20_000
    """`evolution.explorer_programs`."""
    stopwatch: Stopwatch = field(default_factory=Stopwatch)
    """Paused by the provider while a request waits for the model."""
    gate: Callable[[PhaseName], Awaitable[None]] = always_open
    """Awaited before each phase: hold it to pause there, or to ask for approval."""


@dataclass(frozen=True)
class SessionResult:
    """How a session ended."""

    outcome: Outcome
    reason: str
    """Why it is not verified, in plain words; empty when it is."""
    code: str
    """The final program; empty when there is none."""
    summary: Mapping[str, Any]
    """By phase and subtask: see `engine.pipeline.summary`."""
    attempts: int
    """Attempts recorded over all runs of the session."""
    tokens: int
    """Prompt and completion tokens of those attempts."""
    sandbox_level: str = ""
    phases: tuple[PhaseStatus, ...] = field(default=())
