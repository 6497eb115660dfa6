"""What a sweep and a promotion ask of the evaluator: rates on `selection`, duels on `gate`.

The splits are kept apart here and nowhere else: what chooses between candidates (`selection`) never decides about
one of them (`gate`), and nobody below the command line asks for `audit`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from engine.api_learning import EvaluateRequest, EvaluationReport, RateRecord, Split
from engine.evaluation.statistics import Paired, e_value, pair, tally
from engine.evolution.seams import Measuring
from engine.operations import Progress
from registry.files import run_to_end

NO_RATE = RateRecord(passed=0, total=0, value=0.0, low=0.0, high=1.0)
"""Of what could not be measured: the interval that says nothing."""


@dataclass(frozen=True)
class Gate:
    """What decides about one promotion."""

    suite: str
    seed: int
    """Of the hidden inputs."""
    groups: tuple[str, ...]
    """Of the tasks; empty means all."""
    limit: int | None
    batch: int
    """Tasks between two looks."""
    threshold: float
    """E-value from which on the gain is proven."""


@dataclass(frozen=True)
class Duel:
    """Two adapters on the same tasks, as far as it was needed."""

    candidate: EvaluationReport
    incumbent: EvaluationReport
    pairs: tuple[Paired, ...]
    taken: int
    """The limit of both reports."""

    @property
    def e_value(self) -> float:
        """For the candidate."""
        counted = tally(self.pairs)
        return e_value(counted.wins, counted.losses)


PARTS = 100
"""Of a step, in the progress that is told: so that a long one has an ETA before it is done."""


class Steps:
    """Counts the steps of something long whose length shows as it goes.

    A step may have several parts, of which nobody knows how many come: each takes half of what is left of the step.
    """

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._done = 0
        self._total = 0
        self._begun = 0
        """Parts of the step under way that are taken: by what has begun in it so far."""

    def expect(self, steps: int) -> None:
        """So many more will come."""
        self._total += steps

    def inner(self, what: str) -> Progress:
        """For one part of the step under way: its own progress is told as a note."""
        start, size = self._begun, (PARTS - self._begun) // 2
        self._begun += size

        async def tell(done: int, total: int, note: str = "") -> None:
            parts = self._done * PARTS + start + size * done // max(1, total)
            await self._progress(parts, self._total * PARTS, f"{what}: {note or f'{done} of {total}'}")

        return tell

    async def did(self, note: str = "") -> None:
        """One step is done."""
        self._done += 1
        self._begun = 0
        self._total = max(self._total, self._done)
        await self._progress(self._done * PARTS, self._total * PARTS, note)


class Examiner:
    """Asks the evaluator."""

    def __init__(self, measuring: Measuring) -> None:
        self._measuring = measuring

    async def rate(self, adapter: str, suite: str, seed: int, progress: Progress) -> EvaluationReport:
        """On the whole `selection` split.

        Raises:
            RuneError, RegistryError: it cannot be measured.
        """
        request = EvaluateRequest(suite=suite, adapter=adapter, split=Split.SELECTION, seed=seed)
        return await self._measuring.evaluate(request, progress)

    async def on_gate(
        self, adapter: str, gate: Gate, progress: Progress, *, limit: int | None = None
    ) -> EvaluationReport:
        """On the gate's tasks, or the first `limit` of them.

        Raises:
            As `rate`.
        """
        request = EvaluateRequest(
            suite=gate.suite, adapter=adapter, split=Split.GATE, groups=gate.groups, limit=limit, seed=gate.seed
        )
        return await self._measuring.evaluate(request, progress)

    async def duel(
        self,
        candidate: str,
        incumbent: str,
        gate: Gate,
        progress: Callable[[str], Progress],
        is_settled: Callable[[Sequence[Paired]], bool],
    ) -> Duel:
        """Batch by batch until it is settled or the tasks are used up.

        Stopping as soon as it is settled is what the e-value allows and a test of fixed size does not.

        Raises:
            As `rate`.
        """
        taken, before = gate.batch, -1
        while True:
            taken = taken if gate.limit is None else min(taken, gate.limit)
            ours = await self.on_gate(candidate, gate, progress(candidate), limit=taken)
            theirs = await self.on_gate(incumbent, gate, progress(incumbent), limit=taken)
            duel = Duel(ours, theirs, pair(ours, theirs), taken)
            used_up = ours.tasks < taken or ours.tasks == before or taken == gate.limit
            if used_up or await run_to_end(lambda pairs=duel.pairs: is_settled(pairs)):
                return duel
            before, taken = ours.tasks, taken + gate.batch
