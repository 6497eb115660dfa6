"""What one trainer child is asked to do: the file that the engine writes and `engine.training.qlora` reads.

No torch here: both sides of the process boundary share this module. Data rows are selected, de-duplicated and split by
the engine; the child only tokenizes them, leaves out those that are too long, and learns.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, ValidationError

from engine.api_models import Frozen, Identifier
from engine.config import TrainSection
from engine.errors import TrainingError

MAX_SPEC_BYTES = 64 << 10
"""A spec is thirty short fields; anything longer is not one."""
MAX_ROW_BYTES = 4 << 20
"""One example: 131,072 tokens of 32 bytes."""
ROUNDING_ONLY = frozenset({"micro_batch", "threads"})
"""Keys of a recipe that change the order of additions and nothing else: a checkpoint outlives a change of them."""
WATCHING_ONLY = frozenset({"kill_switch", "kill_benchmark", "kill_samples", "kill_cadence", "kill_delta"})
"""Keys that say when a run is ended, and change nothing of what it learns."""


def _absolute(path: Path) -> Path:
    if not path.is_absolute():
        raise ValueError("the path must be absolute")
    return path


AbsolutePath = Annotated[Path, AfterValidator(_absolute)]


class LookSpec(Frozen):
    """What the model being trained is asked for the kill switch: before the first step and every `cadence` steps."""

    questions: AbsolutePath
    """JSON Lines of `Question`."""
    rulings: AbsolutePath
    """A named pipe on which the engine answers, a `protocol.Ruling` a line."""
    cadence: int = Field(ge=1)
    max_tokens: int = Field(ge=1)
    """Of one answer."""
    context_tokens: int = Field(ge=1)
    """Of a question and its answer together: a longer question is not asked, its answer is empty."""
    looked: int | None = None
    """The last step after which the engine ruled that it goes on, in this run or an earlier one; 0 is before the
    first. None: what the model could do before is not known yet."""


class TrainSpec(Frozen):
    """One training job, complete: the same spec on the same machine gives the same adapter."""

    job_id: Identifier
    base_directory: AbsolutePath
    """Hugging Face directory: config.json, *.safetensors, the tokenizer with its chat template."""
    base_model_id: str = Field(min_length=1, max_length=200)
    """Written into the adapter's config as its base."""
    base_digest: str = ""
    """Digest of the base model's file; recorded, not checked here."""
    data: AbsolutePath
    """JSON Lines of `DataRow`."""
    recipe: TrainSection
    seed: int = Field(ge=0, lt=2**31)
    warm_start: AbsolutePath | None = None
    """Adapter directory whose weights to begin with; same rank and modules. None means off."""
    output: AbsolutePath
    """Made by the child, whole or not at all: the PEFT directory. Its parent exists."""
    checkpoints: AbsolutePath
    """Kept between the runs of one job. A checkpoint in it that fits the spec is resumed from."""
    compute: Literal["auto", "bfloat16", "float32"] = "auto"
    """Type of the arithmetic. auto: bfloat16 where the GPU or the CPU has units for it, else float32."""
    heartbeat_s: float = Field(default=30.0, gt=0, le=3600)
    """`device.heartbeat_s`: the child says something three times as often, as long as it gets on."""
    look: LookSpec | None = None
    """None: there is no kill switch."""

    def write(self, path: Path) -> None:
        """Put it into a file."""
        path.write_text(self.model_dump_json(), encoding="utf-8")

    def fingerprint(self, data_digest: str) -> str:
        """What must be equal for a checkpoint of one run to be continued by another."""
        irrelevant = ROUNDING_ONLY | WATCHING_ONLY
        recipe = {key: value for key, value in self.recipe.model_dump().items() if key not in irrelevant}
        warm_start = self.warm_start.name if self.warm_start else ""
        base = [self.base_model_id, self.base_digest, self.compute]
        return _digest([base, data_digest, recipe, self.seed, warm_start])


class Turn(Frozen):
    """One message of a conversation."""

    role: str = Field(min_length=1, max_length=20)
    content: str


class DataRow(Frozen):
    """One example: what the model is asked and what it shall answer."""

    messages: tuple[Turn, ...] = Field(min_length=1)
    completion: str = Field(min_length=1)
    task: str = ""
    """The split is by task; here it only names the row in messages."""
    held_out: bool = False
    """Evaluated on, never learned from."""
    keep: bool = False
    """Nothing of it is learned: what the base model thinks at each of its answer's tokens is kept."""
    cut: bool = False
    """The answer goes on after this: that it ends here is not learned."""


class Question(Frozen):
    """One task as the model is given it."""

    messages: tuple[Turn, ...] = Field(min_length=1)


def read_spec(path: Path) -> TrainSpec:
    """Read a spec.

    Raises:
        TrainingError: it is not there or not valid; names the field.
    """
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise TrainingError(f"The training spec cannot be read: {error}.") from error
    if len(raw) > MAX_SPEC_BYTES:
        raise TrainingError(f"The training spec has {len(raw)} bytes; {MAX_SPEC_BYTES} are allowed.")
    try:
        return TrainSpec.model_validate_json(raw)
    except ValidationError as error:
        raise TrainingError(f"The training spec is not valid: {_first(error)}.") from error


def parse_row(line: bytes, number: int) -> DataRow:
    """Read one line of the data.

    Raises:
        TrainingError: it is not a valid row; names its 1-based number and the field.
    """
    if len(line) > MAX_ROW_BYTES:
        raise TrainingError(f"Row {number} of the data has {len(line)} bytes; {MAX_ROW_BYTES} are allowed.")
    try:
        return DataRow.model_validate_json(line)
    except ValidationError as error:
        raise TrainingError(f"Row {number} of the data is not valid: {_first(error)}.") from error


def recipe_digest(recipe: TrainSection) -> str:
    """SHA-256 of the whole recipe: equal recipes, equal digests."""
    return _digest(recipe.model_dump())


def _digest(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def _first(error: ValidationError) -> str:
    problem = error.errors(include_url=False)[0]
    return f"{'.'.join(map(str, problem['loc'])) or 'the whole'}: {problem['msg']}"
