"""What a trainer child says: JSON lines on its standard output, an exit status at its end. No torch here.

    (loading | heartbeat)*  (progress | heartbeat | checkpoint | shrunk | loading | answer)*  (end | error | nothing)

`end` comes right before status 0, `error` right before 70 or 71; a child that was asked to stop (75) or was killed
says neither. Nothing else is ever on that stream: the child moves file descriptor 1 away before a library can write.

With a kill switch the child says one `answer` for each task, before the first step and at each cadence, and waits for
one `ruling` on the named pipe that its spec names: the only word that goes the other way.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Annotated, Literal

from pydantic import Field, TypeAdapter, ValidationError

from engine.api_models import Frozen
from engine.api_training import TrainProgress
from engine.errors import TrainingError

MAX_WORD_BYTES = 512 << 10
"""Longest line: an answer whose every character is escaped."""
MAX_ANSWER = 80_000
"""Characters of an answer; JSON makes at most six bytes of one. What is longer is cut off."""
MAX_REASON = 2000
"""Characters of a reason or a note: a paragraph. The whole traceback is in the log."""
FAULT_VARIABLE = "RUNE_TRAIN_FAULT"
"""Test hook of the child, see `engine.training.qlora.faults`."""


class TrainerExit(IntEnum):
    """Exit status of a trainer child. Any other, or a signal, means that it crashed."""

    DONE = 0
    """The PEFT directory is complete in `output`."""
    USAGE = 2
    REFUSED = 70
    """Refused or diverged; `error` said why. The same again would end the same."""
    OUT_OF_MEMORY = 71
    """Even one sequence at a time does not fit."""
    STOPPED = 75
    """Asked to stop; there is a checkpoint of all steps that were done."""


class Metrics(Frozen):
    """What came of a job. Losses are mean nats per answer token."""

    steps: int
    """Optimizer steps that were done."""
    planned_steps: int
    """Fewer were done where early stopping ended it."""
    best_step: int
    """The step whose weights are published."""
    final_loss: float
    best_loss: float
    """Lowest held-out loss; without held-out rows the loss of the last step."""
    held_out_start: float | None
    """Held-out loss before the first step; None without held-out rows."""
    held_out_loss: float | None
    """Held-out loss of what is published."""
    stopped_early: bool
    examples: int
    held_out: int
    too_long: int
    """Rows that were left out because they are longer than `max_tokens`."""
    tokens: int
    """Trained on, prompt and answer together, padding not counted."""
    answer_tokens: int
    seconds: float
    """Of training, over all runs of the job: no loading, no downtime."""
    tokens_per_second: float
    start_seconds: float
    """From the child's start to its first step, of the run that ended."""
    peak_mib: int
    """Of the run that ended."""
    micro_batch: int
    """As it was at the end; smaller than the recipe's where memory ran out."""
    parameters: int
    """Trained ones."""
    compute: str
    """`cuda/bfloat16`, `cpu/float32`, ..."""
    method: str
    resumed: int
    """How many times the job was continued from a checkpoint."""
    data_digest: str
    """SHA-256 of the data file."""
    recipe_digest: str
    base_digest: str
    seed: int


class Loading(Frozen):
    """Before the first step: what it is doing now."""

    type: Literal["loading"] = "loading"
    note: str = Field(max_length=MAX_REASON)


class Progress(Frozen):
    """One optimizer step was done."""

    type: Literal["progress"] = "progress"
    step: int
    """1-based."""
    steps: int
    loss: float
    held_out_loss: float | None = None
    """Of this step; None where it was not evaluated."""
    learning_rate: float
    grad_norm: float
    """Before it was clipped."""
    tokens_per_second: float
    memory_mib: int
    eta_seconds: float

    def of_job(self, job_id: str) -> TrainProgress:
        """The same as the API shows it."""
        return TrainProgress(job_id=job_id, **self.model_dump(exclude={"type"}))


class Heartbeat(Frozen):
    """It gets on, though there is nothing to tell."""

    type: Literal["heartbeat"] = "heartbeat"


class Checkpoint(Frozen):
    """All steps up to this one survive a SIGKILL and a power loss."""

    type: Literal["checkpoint"] = "checkpoint"
    step: int


class Shrunk(Frozen):
    """Memory ran out: fewer sequences at a time from now on, the same number in a step."""

    type: Literal["shrunk"] = "shrunk"
    micro_batch: int
    accumulation: int


class End(Frozen):
    """It succeeded."""

    type: Literal["end"] = "end"
    metrics: Metrics


class Failure(Frozen):
    """It did not succeed, and why, in one sentence."""

    type: Literal["error"] = "error"
    reason: str = Field(max_length=MAX_REASON)


class Answer(Frozen):
    """What the model being trained wrote for one task of the kill switch. Here it is text: only the engine runs it."""

    type: Literal["answer"] = "answer"
    step: int = Field(ge=0)
    """Steps done; 0 is before the first."""
    number: int = Field(ge=0)
    """0-based place of the task among the questions."""
    text: str = Field(max_length=MAX_ANSWER)
    cut: bool
    """It had not ended when the limit was reached."""


class Ruling(Frozen):
    """What the engine makes of all answers after one step."""

    type: Literal["ruling"] = "ruling"
    step: int
    halt: str = Field(default="", max_length=MAX_REASON)
    """Why the training must end; empty: it goes on."""


Word = Loading | Progress | Heartbeat | Checkpoint | Shrunk | Answer | End | Failure
"""Everything that a trainer can say."""

_WORD: TypeAdapter[Word] = TypeAdapter(Annotated[Word, Field(discriminator="type")])


def encode(word: Word | Ruling) -> bytes:
    """The line, with its newline."""
    return word.model_dump_json().encode() + b"\n"


def parse(line: bytes) -> Word:
    """Read one line.

    Raises:
        TrainingError: it is not a word of the protocol.
    """
    if len(line) > MAX_WORD_BYTES:
        raise TrainingError(f"The trainer wrote a line of {len(line)} bytes; {MAX_WORD_BYTES} are allowed.")
    try:
        return _WORD.validate_json(line)
    except ValidationError as error:
        raise TrainingError(
            f"The trainer wrote something that is not a word of its protocol: {line[:200]!r}."
        ) from error


def parse_ruling(line: bytes) -> Ruling:
    """Read one line of the engine's.

    Raises:
        TrainingError: it is not a ruling.
    """
    try:
        return Ruling.model_validate_json(line)
    except ValidationError as error:
        raise TrainingError(f"The engine wrote something that is not a ruling: {line[:200]!r}.") from error
