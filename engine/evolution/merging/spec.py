"""What one merging child is asked to do, and what it answers; shared by both sides of the process boundary.

engine ──spec.json──► child: python -m engine.evolution.merging spec.json
engine ◄──stdout────  one JSON object a line: `progress`, ..., then `merged` | `measured` | `failure`
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, TypeAdapter, ValidationError

from engine.api_evolution import MergeMethod, MergeSpace, SignRule
from engine.api_models import Frozen, Identifier
from engine.errors import RuneError

WEIGHTS = "adapter_model.safetensors"
CONFIG = "adapter_config.json"
MAX_SPEC_BYTES = 4 << 20
"""Some rows of a learning set and a thousand paths."""
MAX_REASON = 1000
MAX_PARENTS = 4096
"""Of a population whose cosines are asked for; a merge's are limited by its request."""


class MergeRefusedError(RuneError):
    """These adapters cannot be merged so; the message says what is in the way."""

    status = 422


def _absolute(path: Path) -> Path:
    if not path.is_absolute():
        raise ValueError("the path must be absolute")
    return path


AbsolutePath = Annotated[Path, AfterValidator(_absolute)]


class ParentFiles(Frozen):
    """An adapter's directory."""

    id: Identifier
    directory: AbsolutePath
    sha256: str | None = None
    """Of the weights file; None: not checked."""
    key: str = ""
    """Its digest in the registry: names it in the seed of its random numbers. "" means the id."""


class Limits(Frozen):
    """See `registry.safeload.AdapterLimits`."""

    max_bytes: int = Field(ge=1)
    max_rank: int = Field(ge=1)


class Example(Frozen):
    """What `cat-learned` learns its scalars from: a conversation, and the right answer."""

    messages: tuple[tuple[str, str], ...] = Field(min_length=1)
    """(role, content)."""
    completion: str = Field(min_length=1)
    group: str = ""
    """Examples of one group have equal weight together, however many they are: no skill outvotes another."""


class Learning(Frozen):
    """How `cat-learned` finds its scalars."""

    base_directory: AbsolutePath
    """Hugging Face directory of the base model."""
    examples: tuple[Example, ...] = Field(min_length=1, max_length=512)
    evaluations: int = Field(default=40, ge=1, le=1000)


class Merge(Frozen):
    """Merge adapters."""

    do: Literal["merge"] = "merge"
    parents: tuple[ParentFiles, ...] = Field(min_length=1, max_length=MAX_PARENTS)
    base_model_id: str = Field(min_length=1, max_length=200)
    method: MergeMethod
    weights: tuple[float, ...] = ()
    density: float = 0.5
    sign: SignRule = SignRule.COUNT
    rank: int | None = None
    space: MergeSpace = MergeSpace.CORE
    seed: int = 0
    limits: Limits
    learning: Learning | None = None
    output: AbsolutePath
    """Made by the child, whole or not at all: a PEFT directory. Its parent exists."""


class RandomAdapter(Frozen):
    """Make an adapter of random directions whose delta has, module by module, the norm of another's."""

    do: Literal["random"] = "random"
    parents: tuple[ParentFiles, ...] = Field(min_length=1, max_length=1)
    base_model_id: str = Field(min_length=1, max_length=200)
    seed: int = 0
    limits: Limits
    output: AbsolutePath


class Cosines(Frozen):
    """Measure how alike the deltas of a population are."""

    do: Literal["cosines"] = "cosines"
    parents: tuple[ParentFiles, ...] = Field(min_length=1, max_length=MAX_PARENTS)
    limits: Limits


Spec = Annotated[Merge | RandomAdapter | Cosines, Field(discriminator="do")]


class Progress(Frozen):
    """Modules done."""

    word: Literal["progress"] = "progress"
    done: int
    total: int
    note: str = ""


class Merged(Frozen):
    """The output is whole."""

    word: Literal["merged"] = "merged"
    rank: int
    modules: int
    retained_energy: float
    """Share of the merged delta's squared norm that the rank keeps."""
    weights: tuple[float, ...]
    parent_cosines: dict[str, float]
    seconds: float
    peak_mib: int


class Measured(Frozen):
    """Cosines of a population, in the order of the spec's parents; 0 for a delta that is zero."""

    word: Literal["measured"] = "measured"
    cosines: tuple[tuple[float, ...], ...]


class Failure(Frozen):
    """It cannot be done; nothing was written."""

    word: Literal["failure"] = "failure"
    reason: str


Word = Annotated[Progress | Merged | Measured | Failure, Field(discriminator="word")]
_SPEC: TypeAdapter[Merge | RandomAdapter | Cosines] = TypeAdapter(Spec)
_WORD: TypeAdapter[Progress | Merged | Measured | Failure] = TypeAdapter(Word)


def read_spec(path: Path) -> Merge | RandomAdapter | Cosines:
    """Read a spec.

    Raises:
        MergeRefusedError: it is not there or not valid.
    """
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_SPEC_BYTES + 1)
        if len(raw) > MAX_SPEC_BYTES:
            raise MergeRefusedError(f"The spec is longer than {MAX_SPEC_BYTES} bytes.")
        return _SPEC.validate_json(raw)
    except (OSError, ValidationError) as error:
        raise MergeRefusedError(f"The spec cannot be read: {str(error)[:MAX_REASON]}") from error


def read_word(line: bytes) -> Progress | Merged | Measured | Failure:
    """One line of a child's output.

    Raises:
        MergeRefusedError: it is not one of its words.
    """
    try:
        return _WORD.validate_json(line)
    except ValidationError as error:
        raise MergeRefusedError(f"The merging process said something unknown: {line[:100]!r}") from error
