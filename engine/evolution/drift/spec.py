"""What one measuring child is asked, and what it answers; shared by both sides of the process boundary.

engine ──spec.json──► child: python -m engine.evolution.drift spec.json
engine ◄──stdout────  one JSON object a line: `progress`, ..., then `figures` | `failure`
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, FiniteFloat, TypeAdapter, ValidationError

from engine.api_models import Frozen
from engine.errors import RuneError
from engine.evolution.merging.spec import AbsolutePath, Limits, ParentFiles

MAX_SPEC_BYTES = 1 << 20
MAX_REASON = 300
MAX_CHARACTERS = 100_000
"""Of the text: it is read twice by the whole model."""


class UnmeasuredError(RuneError):
    """Perplexity cannot be measured here; the message says why."""

    status = 422


class DriftSpec(Frozen):
    """Measure one adapter against the base model on a text."""

    base_directory: AbsolutePath
    """Hugging Face directory."""
    adapter: ParentFiles
    limits: Limits
    text: str = Field(min_length=1, max_length=MAX_CHARACTERS)


class Progress(Frozen):
    """Windows done."""

    word: Literal["progress"] = "progress"
    done: int
    total: int


class Figures(Frozen):
    """All that was measured."""

    word: Literal["figures"] = "figures"
    tokens: int = Field(ge=1)
    """Positions whose next token was predicted."""
    base_perplexity: FiniteFloat = Field(ge=1)
    adapter_perplexity: FiniteFloat = Field(ge=1)
    kl: FiniteFloat = Field(ge=0)
    """Mean KL(base || adapter), nats per token."""
    seconds: float = Field(ge=0)
    peak_mib: int = Field(ge=0)


class Failure(Frozen):
    """It cannot be measured."""

    word: Literal["failure"] = "failure"
    reason: str


Word = Progress | Figures | Failure
_WORD: TypeAdapter[Word] = TypeAdapter(Annotated[Word, Field(discriminator="word")])


def read_spec(path: Path) -> DriftSpec:
    """Read a spec.

    Raises:
        UnmeasuredError: it is not there or not valid.
    """
    try:
        with path.open("rb") as file:
            return DriftSpec.model_validate_json(file.read(MAX_SPEC_BYTES))
    except (OSError, ValidationError) as error:
        raise UnmeasuredError(f"The spec cannot be read: {str(error)[:MAX_REASON]}") from error


def read_word(line: bytes) -> Word:
    """One line of a child's output.

    Raises:
        UnmeasuredError: it is not one of its words.
    """
    try:
        return _WORD.validate_json(line)
    except ValidationError as error:
        raise UnmeasuredError(f"The measuring process said something unknown: {line[:100]!r}") from error
