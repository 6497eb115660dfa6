"""What the registry knows of an adapter: plain frozen data, and the rules of its names."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from registry.errors import AdapterRejected

RESERVED_PREFIXES = ("oracle_", "round2_")
"""Ids that only the program itself may begin so."""

_NAME = re.compile(r"[A-Za-z0-9_-](?:[A-Za-z0-9._-]{0,98}[A-Za-z0-9_-])?")
_ALIAS = re.compile(rf"(?:{_NAME.pattern})@[a-z]{{1,19}}")


class Tier(StrEnum):
    """How widely an adapter is used; promotion moves it one or more steps up."""

    TASK = "task"
    """For the kind of task that it was made from."""
    DOMAIN = "domain"
    """For every task of its domain."""
    PROJECT = "project"
    """For everything."""

    @property
    def level(self) -> int:
        """0 for task, 1 for domain, 2 for project."""
        return list(Tier).index(self)


class Source(StrEnum):
    """What made the adapter."""

    DISTILLATION = "distillation"
    EVOLUTION = "evolution"
    MANUAL = "manual"
    QLORA = "qlora"
    HYPERNETWORK = "hypernetwork"
    PHASED_PIPELINE = "phased-pipeline"
    ITERATION = "iteration"


@dataclass(frozen=True, slots=True)
class NewAdapter:
    """What a publisher says about an adapter; what its files say (rank, alpha, modules) is read from them."""

    id: str
    task_type: str
    source: Source
    base_model_id: str | None = None
    """None takes the name in the adapter's own config; a name that contradicts it is refused."""
    version: int = 1
    tier: Tier = Tier.TASK
    session_id: str | None = None
    agent_id: str | None = None
    training_task_hash: str | None = None
    parent_ids: tuple[str, ...] = ()
    generation: int | None = None
    """None means one more than the highest parent's, or 0 without parents."""


@dataclass(frozen=True, slots=True)
class Adapter:
    """An adapter as the registry lists it."""

    id: str
    version: int
    task_type: str
    base_model_id: str
    rank: int
    alpha: float
    target_modules: tuple[str, ...]
    created_at: str
    """ISO 8601, UTC."""
    digest: str
    """SHA-256 over both files: the name of the adapter's directory, and what it is served under."""
    file_path: str
    """The directory, relative to the registry's root."""
    file_hash: str
    """SHA-256 of the weights file."""
    file_size_bytes: int
    """Bytes of the weights file."""
    pass_rate: float | None
    fitness_score: float | None
    tier: Tier
    source: Source
    session_id: str | None
    agent_id: str | None
    training_task_hash: str | None
    is_archived: bool
    is_quarantined: bool
    parent_ids: tuple[str, ...]
    generation: int
    verified_at: str
    """When its digest was last found right by `publish` or `verify`."""

    def as_json(self) -> dict[str, object]:
        """Every field as JSON data, without the file path: paths do not leave the registry."""
        names = [name for name in self.__slots__ if name != "file_path"]
        values = {name: getattr(self, name) for name in names}
        return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}


@dataclass(frozen=True, slots=True)
class Evaluation:
    """One measurement of an adapter; the newest is the adapter's present score."""

    adapter_id: str
    fitness_score: float
    pass_rate: float | None
    session_id: str | None
    recorded_at: str


@dataclass(frozen=True, slots=True)
class Promotion:
    """One move between tiers, or to the front of its own."""

    adapter_id: str
    from_tier: Tier
    to_tier: Tier
    reason: str
    recorded_at: str
    evidence: Mapping[str, object] | None = None
    """What it rests on, as JSON data."""
    forced: bool = False
    """Done against the evidence, or without any."""


@dataclass(frozen=True, slots=True)
class Champions:
    """Whom a task type's aliases name. None: the base model, or nobody."""

    champion: str | None = None
    challenger: str | None = None
    previous: str | None = None
    """The champion before this one: where `rollback` goes."""


@dataclass(frozen=True, slots=True)
class LoadableAdapter:
    """An adapter whose files were verified just now, for a model server to load."""

    adapter: Adapter
    directory: Path
    """The PEFT directory."""
    gguf: Path | None
    """Its GGUF form, if one was made and is whole."""
    gguf_sha256: str | None = None
    """Of the GGUF form, as it was published: whoever reads the file later can see that it still is that one."""


def check_id(text: str, what: str = "id") -> str:
    """Give `text` back if it may name something here.

    Raises:
        AdapterRejected: not 1 to 100 of letters, digits, '.', '_', '-', or with a dot at either end.
    """
    if _NAME.fullmatch(text) is None:
        raise AdapterRejected(
            f"{what} {text[:100]!r} is not valid: use 1 to 100 letters, digits, '.', '_', '-', no dot at either end"
        )
    return text


def check_alias(text: str) -> str:
    """Give `text` back if it is an alias such as `code-gen@champion`.

    Raises:
        AdapterRejected: it is not.
    """
    if _ALIAS.fullmatch(text) is None:
        raise AdapterRejected(f"alias {text[:100]!r} is not valid: write it as code-gen@champion")
    return text


def alias_of(task_type: str, role: str) -> str:
    """The alias of a role (champion, challenger, previous) in a task type."""
    return f"{task_type}@{role}"


def check_score(value: float, what: str) -> float:
    """Give `value` back if it is in [0, 1].

    Raises:
        AdapterRejected: it is outside, or not a number.
    """
    if not math.isfinite(value) or not 0 <= value <= 1:
        raise AdapterRejected(f"{what} is {value}: a score is between 0 and 1")
    return float(value)
