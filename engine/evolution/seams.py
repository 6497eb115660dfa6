"""What evolution needs of the rest of the engine, as it sees it: nothing here does anything.

Measuring an adapter, merging adapters and training one on take minutes and processes of their own. A sweep decides
what is to be done and in which order, and is tested against small honest stand-ins for these.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from pydantic import JsonValue

from engine.api_evolution import MergeRequest, TextDrift
from engine.api_learning import EvaluateRequest, EvaluationReport, Split, SuiteTask
from engine.evolution.merging.spec import Learning
from engine.operations import Progress
from registry.models import LoadableAdapter


class Measuring(Protocol):
    """Runs a suite with an adapter, or with the base model."""

    async def evaluate(self, request: EvaluateRequest, progress: Progress) -> EvaluationReport:
        """The report; what was measured before under the same circumstances is not measured again.

        Raises:
            RuneError, RegistryError: there is no such suite or adapter, or nothing serves it.
        """
        ...


class SuiteTasks(Protocol):
    """The tasks of suites. Blocks."""

    def tasks(self, name: str, seed: int, split: Split | None = None) -> tuple[SuiteTask, ...]:
        """In the suite's order.

        Raises:
            NotFoundError: there is no such suite.
        """
        ...


class Drifting(Protocol):
    """Compares an adapter with the base model on ordinary text."""

    async def measure(self, adapter: LoadableAdapter, progress: Progress) -> TextDrift:
        """The figures; what was measured before for the same weights is not measured again.

        Raises:
            RuneError, RegistryError: it cannot be measured here; the sentence says why.
        """
        ...


@dataclass(frozen=True)
class Made:
    """An adapter that was made and not published yet."""

    directory: Path
    """PEFT directory; gone when the block that made it ends."""
    gguf: Path | None
    """The same weights for llama.cpp, where the base model is a GGUF file."""
    facts: Mapping[str, JsonValue] = field(default_factory=dict[str, JsonValue])
    """What is to be remembered of the making: rank, retained energy and their like."""


class Breeding(Protocol):
    """Makes adapters of adapters. What it makes lies in a directory that its block removes, however it ends."""

    def merge(
        self,
        request: MergeRequest,
        parents: Sequence[LoadableAdapter],
        progress: Progress,
        learning: Learning | None = None,
    ) -> AbstractAsyncContextManager[Made]:
        """One adapter of several.

        Args:
            learning: what `cat-learned` learns its scalars from; no other method needs it.

        Raises (on entering):
            RuneError, RegistryError: they cannot be merged; the sentence says why.
        """
        ...

    def random_like(self, adapter: LoadableAdapter, seed: int) -> AbstractAsyncContextManager[Made]:
        """Random weights with each matrix's norm as the adapter has it."""
        ...

    async def cosines(self, adapters: Sequence[LoadableAdapter]) -> Mapping[frozenset[str], float]:
        """Cosine of the deltas of each pair of ids; a pair that cannot be compared (other base) is not a key.

        Raises:
            RuneError, RegistryError: one of them cannot be read.
        """
        ...


class Schooling(Protocol):
    """Trains an adapter longer on what it learned from."""

    async def train_on(self, adapter_id: str, new_id: str, progress: Progress) -> str:
        """Start from its weights, see its data once more, publish as `new_id`; gives a note on the budget.

        Goes on with what an earlier call for the same `new_id` began. Cancelled, it takes the training back.

        Raises:
            RuneError, RegistryError: it was not trained here, or the training failed.
        """
        ...

    async def give_up(self, new_id: str) -> None:
        """Cancel whatever training would still make `new_id`; nothing where nothing would."""
        ...
