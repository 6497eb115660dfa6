"""Fakes of what stands outside the pipeline: a model server that answers by rule, and a judge that runs nothing.

Both are deterministic and plain enough to run in a subprocess that a test kills.
"""

from __future__ import annotations

import asyncio
import json
import os
import tempfile
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Generator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from support.engine_parts import SETS

from engine.api_models import AttemptRecord, PhaseName, PhaseStatus, StreamChunk
from engine.config import Config, load_config
from engine.evaluation.judge import Checks, Solution
from engine.evaluation.verdict import Strength, TestFailure, Verdict
from engine.inference.provider import Capabilities, Completion, Delta, FinishReason, Health, Request
from engine.pipeline.parts import Judge, Parts
from engine.pipeline.prompts import load_prompts
from engine.training.trajectories import TrajectoryStore
from registry.clock import Clock, SeededClock
from registry.db import Database
from registry.journal import MemoryRecorder

PIECES = 3
"""An answer streams in so many pieces."""


@dataclass(frozen=True)
class Reply:
    """What the fake model says."""

    text: str
    finish_reason: FinishReason = "stop"
    prompt_tokens: int = 10
    completion_tokens: int = 5


Rule = Callable[[Request, int], Reply | Exception]
"""Request and how many calls came before -> answer, or what goes wrong."""


class ScriptedProvider:
    """A model server in this process that answers by a rule and remembers what it was asked."""

    def __init__(self, rule: Rule) -> None:
        self._rule = rule
        self.requests: list[Request] = []
        self.closed_early = 0

    @property
    def capabilities(self) -> Capabilities:
        return Capabilities(adapters=True, json_schema=False, logprobs=False, sleep=False)

    async def generate(self, request: Request) -> Completion:
        reply = self._reply(request)
        tokens = (reply.prompt_tokens, reply.completion_tokens)
        return Completion(reply.text, "scripted", request.adapter, *tokens, reply.finish_reason)

    async def stream(self, request: Request) -> AsyncIterator[Delta]:
        reply = self._reply(request)
        done = False
        try:
            size = max(1, -(-len(reply.text) // PIECES))
            for start in range(0, len(reply.text), size):
                await asyncio.sleep(0)
                yield Delta(reply.text[start : start + size])
            yield Delta("", reply.finish_reason, reply.prompt_tokens, reply.completion_tokens)
            done = True
        finally:
            self.closed_early += not done

    async def load_adapter(self, name: str, path: str) -> None:
        raise NotImplementedError

    async def unload_adapter(self, name: str) -> None:
        raise NotImplementedError

    async def list_adapters(self) -> tuple[str, ...]:
        return ()

    async def health(self) -> Health:
        return Health(True, "scripted", "scripted")

    async def aclose(self) -> None:
        return None

    def prompts(self) -> list[str]:
        """The user messages in order."""
        return [request.messages[-1].content for request in self.requests]

    def _reply(self, request: Request) -> Reply:
        self.requests.append(request)
        reply = self._rule(request, len(self.requests) - 1)
        if isinstance(reply, Exception):
            raise reply
        return reply


def in_turn(replies: Sequence[str | Reply | Exception]) -> Rule:
    """Answers one after the other; the last one again and again."""

    def rule(request: Request, number: int) -> Reply | Exception:
        del request
        reply = replies[min(number, len(replies) - 1)]
        return Reply(reply) if isinstance(reply, str) else reply

    return rule


class FakeJudge:
    """Reads the verdict off the code instead of running it: `# pass`, `# fail 2/3`, `# opaque`, `# broken judge`."""

    def __init__(self) -> None:
        self.checked: list[tuple[Solution, Checks | None]] = []

    async def check(self, solution: Solution, checks: Checks) -> Verdict:
        self.checked.append((solution, checks))
        strength = Strength.IN_PROCESS if checks.in_process else Strength.VERIFIED
        hidden = checks.tests is not None and "hidden" in checks.tests
        return self._verdict(
            solution.code.replace("# pass", "# pass" if "# honest" in solution.code else "# fail 0/1")
            if hidden
            else solution.code,
            strength,
        )

    async def self_check(self, solution: Solution) -> Verdict:
        self.checked.append((solution, None))
        return self._verdict(solution.code, Strength.SELF_CHECKED)

    def _verdict(self, code: str, strength: Strength) -> Verdict:
        if "# broken judge" in code:
            return Verdict(False, Strength.NONE, infrastructure=True, error="the sandbox is gone")
        if "# pass" in code:
            return Verdict(True, strength, ran=3, sandbox_level="strict")
        if "# opaque" in code:
            failure = TestFailure("test_it", "AssertionError")
            stderr = "AssertionError"
            return Verdict(False, strength, ran=1, failed=1, failures=(failure,), stderr=stderr, exit_code=1)
        passed, total = (
            (int(part) for part in code.split("# fail ")[1].split()[0].split("/")) if "# fail" in code else (0, 1)
        )
        failure = TestFailure("test_add", "mismatch", expected="3", got="4", line=2, source_line="return a - b")
        return Verdict(
            False,
            strength,
            ran=total,
            failed=total - passed,
            failures=(failure,),
            stdout="printed by the code",
            stderr="boom: AssertionError: 3 != 4",
            exit_code=1,
            sandbox_level="strict",
        )


@dataclass(frozen=True)
class Ground:
    """What a session of a test stands on."""

    home: Path
    store: TrajectoryStore
    events: MemoryRecorder


@contextmanager
def memory_directory() -> Generator[Path]:
    """A directory in memory where there is such a place: fsync costs nothing there, and a SIGKILL loses no page."""
    shared = Path("/dev/shm")
    place = shared if os.access(shared, os.W_OK) else None
    with tempfile.TemporaryDirectory(dir=place, prefix="rt-pipeline-") as directory:
        yield Path(directory)


@asynccontextmanager
async def open_ground(home: Path) -> AsyncGenerator[Ground]:
    """A database with the trajectory store, in `home`."""
    clock = SeededClock()
    db = await Database.open(home / "rune.db", SETS, clock)
    recorder = MemoryRecorder()
    try:
        yield Ground(home, TrajectoryStore(db, recorder, clock), recorder)
    finally:
        await db.close()


@dataclass
class Told:
    """A reporter that remembers."""

    phases: list[PhaseStatus] = field(default_factory=list[PhaseStatus])
    attempts: list[AttemptRecord] = field(default_factory=list[AttemptRecord])
    chunks: list[StreamChunk] = field(default_factory=list[StreamChunk])
    on_phase: Callable[[PhaseStatus], None] | None = None

    async def phase(self, status: PhaseStatus) -> None:
        self.phases.append(status)
        if self.on_phase is not None:
            self.on_phase(status)

    async def attempt(self, record: AttemptRecord) -> None:
        self.attempts.append(record)

    def chunk(self, chunk: StreamChunk) -> None:
        self.chunks.append(chunk)

    def ended(self) -> list[PhaseName]:
        """Phases in the order in which they ended."""
        return [status.phase for status in self.phases if status.state in ("done", "failed")]


SHIPPED = load_config(Path("/nonexistent/config.toml"))
PROMPTS = load_prompts()
"""Read once, at import: not in a test's event loop."""


def defaults(**pipeline: object) -> Config:
    """The shipped configuration, without the user's, with some settings of the section [pipeline]."""
    return SHIPPED.model_copy(update={"pipeline": SHIPPED.pipeline.model_copy(update=pipeline)})


def make_parts(
    home: Path,
    store: TrajectoryStore,
    provider: ScriptedProvider,
    *,
    judge: Judge | None = None,
    report: Told | None = None,
    clock: Clock | None = None,
    config: Config | None = None,
    **more: object,
) -> Parts:
    """Parts on fakes; `more` replaces single fields."""

    async def ready() -> ScriptedProvider:
        return provider

    settings = config or defaults()
    values: dict[str, object] = {
        "pipeline": settings.pipeline,
        "generation": settings.generation,
        "provider": ready,
        "judge": judge or FakeJudge(),
        "store": store,
        "report": report or Told(),
        "prompts": PROMPTS,
        "checkpoints": home / "checkpoints.db",
        "clock": clock or SeededClock(),
        "parallel": settings.inference.parallel,
        "backend": "scripted",
        "model": "scripted",
    }
    return Parts(**{**values, **more})  # pyright: ignore[reportArgumentType]


def comparable(records: Sequence[AttemptRecord]) -> list[str]:
    """Attempts without what time decides: numbers of attempts made side by side, durations, moments."""
    timed = ("number", "created_at", "generate_seconds", "execute_seconds")
    return sorted(json.dumps(record.model_dump(mode="json", exclude=set(timed)), sort_keys=True) for record in records)
