"""The kill switch of training, the engine's side: ends a job that makes the model worse at what it could do before.

    asked (questions written) ─► baseline: answers before the first step ─► answers after every `kill_cadence` steps
                                                                                   │            ▲
                                            judged, stored, told ──ruling: goes on─┴────────────┘
                                                   └──ruling: halted ─► the job fails, nothing is published

The trainer child answers; this side judges, remembers and rules. What a job is asked and how it did is one durable file
in its place, so an engine that dies goes on with the same tasks and the same baseline, and a look that was ruled on is
not made again. A halted job stays halted: its checkpoints are of a model that got worse, or was about to. Its best
checkpoint is not published either: that was chosen by the held-out loss, and nobody knows what it can still do.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from pydantic import Field, JsonValue, ValidationError

from engine.api_learning import SuiteTask
from engine.api_models import Frozen
from engine.config import TrainSection
from engine.errors import TrainingError
from engine.inference.provider import Completion, Message
from engine.training.protocol import Answer, Ruling, encode
from engine.training.spec import LookSpec, Question, Turn
from registry.crash import crash_point
from registry.files import run_to_end, sync_directory

ADVICE = "Take a lower learning rate, fewer steps or other data."


class Benchmark(Protocol):
    """What the kill switch measures with (`engine.evaluation.training_benchmark.TrainingBenchmark`)."""

    async def choose(self, recipe: TrainSection, seed: int) -> tuple[SuiteTask, ...]:
        """The tasks that a job of this recipe is asked.

        Raises:
            NotFoundError: there is no such suite.
            InputError: it has too few tasks, or the settings cannot work.
        """
        ...

    async def questions(self, tasks: Sequence[SuiteTask]) -> tuple[tuple[Message, ...], ...]:
        """Each task as a model is asked it in an evaluation."""
        ...

    async def solved(self, tasks: Sequence[SuiteTask], answers: Sequence[Completion]) -> int:
        """How many of these answers pass their task's tests.

        Raises:
            EnvironmentUnfitError: the judge could not say it of each.
        """
        ...

    def halts(self, recipe: TrainSection, baseline: int, now: int) -> bool:
        """Whether a training is to end that solved `baseline` tasks before its first step and solves `now`."""
        ...

    def can_halt(self, recipe: TrainSection, baseline: int) -> bool:
        """Whether anything can be lost from that baseline."""
        ...


class Look(Frozen):
    """What the model could do after a step; 0 is before the first."""

    step: int
    solved: int


class Record(Frozen):
    """What a job is asked, and how it did so far."""

    tasks: tuple[SuiteTask, ...]
    max_tokens: int
    looks: tuple[Look, ...] = ()
    """In the order of steps; the first is the baseline."""
    halted: str = Field(default="")
    """Why the job was ended."""


@dataclass(frozen=True)
class Judged:
    """The newest look, stored."""

    look: Look
    baseline: Look
    total: int
    halt: str

    @property
    def score(self) -> float:
        """Share of the tasks that is solved now."""
        return self.look.solved / self.total

    @property
    def baseline_score(self) -> float:
        """Share of the tasks that was solved before the first step."""
        return self.baseline.solved / self.total


@dataclass(frozen=True)
class Files:
    """Where one job's kill switch keeps its things: `kill-switch/` in the job's place. Everything here blocks."""

    root: Path

    @property
    def questions(self) -> Path:
        """What the child asks the model."""
        return self.root / "questions.jsonl"

    @property
    def rulings(self) -> Path:
        """The pipe to the child; there while an attempt runs."""
        return self.root / "rulings"

    @property
    def _record(self) -> Path:
        return self.root / "record.json"

    def read(self) -> Record | None:
        """None where the job was not prepared yet.

        Raises:
            TrainingError: it is damaged.
        """
        try:
            return Record.model_validate_json(self._record.read_bytes())
        except FileNotFoundError:
            return None
        except (OSError, ValidationError) as error:
            raise TrainingError(
                "The record of the kill switch is damaged, so what the model could do before is not known; "
                "`rune-tui jobs retry` starts the job over."
            ) from error

    def begin(self, record: Record, questions: Sequence[Sequence[Message]]) -> None:
        """Keep what the job is asked."""
        self.root.mkdir(mode=0o700, exist_ok=True)
        turns = [tuple(Turn(role=one.role, content=one.content) for one in question) for question in questions]
        lines = [Question(messages=messages).model_dump_json() + "\n" for messages in turns]
        _write(self.questions, "".join(lines))
        self.keep(record)

    def keep(self, record: Record) -> None:
        """Make the record durable; it is the old one or the new one whatever happens."""
        _write(self._record, record.model_dump_json())

    def open_pipe(self) -> int:
        """A fresh pipe. Open for both directions: neither this side nor the child then waits for the other."""
        self.rulings.unlink(missing_ok=True)
        os.mkfifo(self.rulings, 0o600)
        return os.open(self.rulings, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)


def _write(path: Path, text: str) -> None:
    partial = path.with_name(f".{path.name}.partial")
    with partial.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    partial.rename(path)
    sync_directory(path.parent)


class KillSwitch:
    """Watches one job. Made by `prepare`; `open` before an attempt's child is started, `close` when it has ended."""

    def __init__(self, benchmark: Benchmark, recipe: TrainSection, files: Files, record: Record) -> None:
        self._benchmark = benchmark
        self._recipe = recipe
        self._files = files
        self._record = record
        self._answers: list[Answer] = []
        self._pipe: int | None = None

    @classmethod
    async def prepare(
        cls, benchmark: Benchmark, recipe: TrainSection, seed: int, root: Path, max_tokens: int
    ) -> KillSwitch:
        """What an earlier attempt left, or else chosen now.

        Args:
            root: of its files; its parent exists.
            max_tokens: of one answer, where nothing was chosen yet.

        Raises:
            TrainingError: an earlier attempt was halted, or its record is damaged.
            InputError, NotFoundError: see `Benchmark.choose`.
            OSError: the disk is full, or worse.
        """
        files = Files(root)
        record = await run_to_end(files.read)
        if record is None:
            record = Record(tasks=await benchmark.choose(recipe, seed), max_tokens=max_tokens)
            fresh, questions = record, await benchmark.questions(record.tasks)
            await run_to_end(lambda: files.begin(fresh, questions))
        if record.halted:
            raise TrainingError(record.halted)
        return cls(benchmark, recipe, files, record)

    def spec(self, context_tokens: int) -> LookSpec:
        """What the child is told."""
        return LookSpec(
            questions=self._files.questions,
            rulings=self._files.rulings,
            cadence=self._recipe.kill_cadence,
            max_tokens=self._record.max_tokens,
            context_tokens=context_tokens,
            looked=self._record.looks[-1].step if self._record.looks else None,
        )

    async def open(self) -> None:
        """Be ready for a child; answers that an earlier one did not complete are forgotten.

        Raises:
            OSError: the pipe cannot be made.
        """
        self.close()
        self._answers = []
        self._pipe = await run_to_end(self._files.open_pipe)

    def close(self) -> None:
        """Its child has ended."""
        if self._pipe is not None:
            os.close(self._pipe)
            self._pipe = None

    async def take(self, answer: Answer) -> Judged | None:
        """Take one answer in; the last one of a step is judged with all others, and what came of it stored.

        Raises:
            TrainingError: the child was not to say that now, or the record cannot be stored.
            EnvironmentUnfitError: whether the model got worse cannot be told.
        """
        self._check(answer)
        self._answers.append(answer)
        tasks = self._record.tasks
        if len(self._answers) < len(tasks):
            return None
        written, self._answers = self._answers, []
        solved = await self._benchmark.solved(tasks, [_completion(one) for one in written])
        return await self._store(Look(step=answer.step, solved=solved))

    def rule(self, judged: Judged) -> None:
        """Tell the child."""
        assert self._pipe is not None, "it is told while its child runs"
        with suppress(BlockingIOError):  # a child that reads nothing falls silent, and is ended for that
            os.write(self._pipe, encode(Ruling(step=judged.look.step, halt=judged.halt)))

    def metrics(self) -> dict[str, JsonValue]:
        """What a finished job says of it."""
        if not self._record.looks:
            return {}
        first, last = self._record.looks[0], self._record.looks[-1]
        total = len(self._record.tasks)
        return {"baseline_score": first.solved / total, "score": last.solved / total, "score_step": last.step}

    def warning(self, judged: Judged) -> str:
        """Said of a baseline from which nothing can be lost; else empty."""
        if judged.look.step or self._benchmark.can_halt(self._recipe, judged.baseline.solved):
            return ""
        return f"the kill switch cannot act: {self._recipe.kill_benchmark} is at {judged.score:.2f} before training"

    def _check(self, answer: Answer) -> None:
        looks, cadence = self._record.looks, self._recipe.kill_cadence
        due = answer.step > looks[-1].step and answer.step % cadence == 0 if looks else answer.step == 0
        begun = self._answers[0].step if self._answers else answer.step
        if not due or answer.step != begun or answer.number != len(self._answers):
            raise TrainingError(f"The trainer gave answer {answer.number} of step {answer.step}, which nobody asked.")

    async def _store(self, look: Look) -> Judged:
        looks = (*self._record.looks, look)
        halt = self._reason(looks[0], look)
        record = self._record.model_copy(update={"looks": looks, "halted": halt})
        try:
            await run_to_end(lambda: self._files.keep(record))
        except OSError as error:
            raise TrainingError(f"The score after step {look.step} cannot be stored: {error}") from error
        self._record = record
        crash_point("training.after_look")
        return Judged(look, looks[0], len(record.tasks), halt)

    def _reason(self, baseline: Look, now: Look) -> str:
        recipe = self._recipe
        if not now.step or not self._benchmark.halts(recipe, baseline.solved, now.solved):
            return ""
        before, after = (look.solved / len(self._record.tasks) for look in (baseline, now))
        return (
            f"The kill switch: {recipe.kill_benchmark} {before:.2f} before, {after:.2f} now at step {now.step}, "
            f"and {recipe.kill_delta:g} less is allowed; nothing is published. {ADVICE}"
        )


def _completion(answer: Answer) -> Completion:
    return Completion(answer.text, "", None, 0, 0, "length" if answer.cut else "stop")


def sentence(recipe: TrainSection, steps: int) -> str:
    """For a preview: what the switch will do in a job of so many steps; empty where it is off."""
    if not recipe.kill_switch:
        return ""
    every = f"every {recipe.kill_cadence} steps"
    asked = f"Kill switch: {recipe.kill_samples} tasks of {recipe.kill_benchmark} before the first step and {every}"
    if steps < recipe.kill_cadence:
        return f"{asked}, and there are only {steps}: it would never act; lower train.kill_cadence."
    return f"{asked}, which the time does not count; it ends the job more than {recipe.kill_delta:g} below the start."
