"""What the proof found: rows of scores, and how two of them compare on the same tasks. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from functools import cached_property
from typing import Any

from engine.api_evolution import Evidence, ImproveReport, TextDrift
from engine.api_learning import EvaluationReport
from engine.evaluation.metrics import Rate, wilson
from engine.evaluation.statistics import Paired, cluster_interval, e_value, first_samples, mcnemar, pair, tally

BOOTSTRAP_SEED = 0
RESAMPLES = 2000
IN, DEEPER, PARAPHRASE, OTHER = "in", "deeper", "paraphrase", "other"
"""Probes that the code knows by name."""


class Role(StrEnum):
    """What a row is there for."""

    BASE = "base"
    BOOK = "book"
    """The base model with the documentation in its prompt."""
    ZERO = "zero"
    """An adapter that changes nothing: trained 0 steps."""
    RANDOM = "random"
    SHUFFLED = "shuffled"
    OTHER = "other"
    """The adapter of the other domain: a control in one column, the second parent in another."""
    ADAPTER = "adapter"
    SHORT = "short"
    """Trained for few steps: it knows what it was shown, and no more."""
    MERGE = "merge"
    PEFT = "peft"
    """The naive baseline of merging."""
    RANDOM_PARENT = "random parent"
    LOOP = "loop"


@dataclass(frozen=True)
class Condition:
    """A row before it is scored."""

    name: str
    adapter: str
    probes: tuple[str, ...]
    role: Role
    family: str = ""
    """Rows that differ in the seed only have one family."""

    def should_gain(self, probe: str) -> bool:
        """Whether the e-value asked for is that of a gain; elsewhere nothing is learned, and a loss is looked for."""
        merged = self.role in (Role.OTHER, Role.MERGE, Role.PEFT, Role.RANDOM_PARENT)
        return probe in (IN, DEEPER, PARAPHRASE) or (probe == OTHER and merged)


@dataclass(frozen=True)
class Against:
    """A row and another one on the tasks that both have an outcome of."""

    pairs: tuple[Paired, ...]

    @cached_property
    def counts(self) -> tuple[int, int]:
        """Wins and losses."""
        counted = tally(self.pairs)
        return counted.wins, counted.losses

    @property
    def gain(self) -> float:
        """E-value of the gain."""
        return e_value(*self.counts)

    @property
    def loss(self) -> float:
        """E-value of the loss."""
        wins, losses = self.counts
        return e_value(losses, wins)

    @property
    def p(self) -> float:
        """Two-sided p of the exact sign test (McNemar): these are tasks whose number was fixed before."""
        return mcnemar(*self.counts)

    @cached_property
    def difference(self) -> tuple[float, float, float]:
        """Of the pass rates, with its interval over templates."""
        return cluster_interval(self.pairs, BOOTSTRAP_SEED, RESAMPLES)

    def as_json(self) -> dict[str, Any]:
        """All of it."""
        wins, losses = self.counts
        value, low, high = self.difference
        effect = {"difference": value, "low": low, "high": high}
        return {"wins": wins, "losses": losses, "e_gain": self.gain, "e_loss": self.loss, "p": self.p, **effect}


@dataclass(frozen=True)
class Row:
    """A condition with what it came to, by probe."""

    condition: Condition
    reports: Mapping[str, EvaluationReport]

    def rate(self, probe: str) -> Rate:
        """Passed of all, with its interval."""
        found = self.reports[probe].pass_at_1
        return wilson(found.passed, found.total)

    def share(self, probe: str) -> float:
        """Pass rate."""
        return self.rate(probe).value

    def against(self, other: Row, probe: str) -> Against:
        """This row as the candidate."""
        return Against(pair(self.reports[probe], other.reports[probe]))

    def differing(self, other: Row, probe: str) -> tuple[list[str], list[str]]:
        """Tasks whose outcome, and whose outcome or reason for it, is not the other row's."""
        ours, theirs = first_samples(self.reports[probe]), first_samples(other.reports[probe])
        both = [(task, ours[task], theirs.get(task)) for task in ours]
        outcomes = [task for task, mine, its in both if its is None or mine.outcome is not its.outcome]
        words = [
            task for task, mine, its in both if its is None or (mine.outcome, mine.reason) != (its.outcome, its.reason)
        ]
        return outcomes, words


@dataclass(frozen=True)
class Results:
    """Everything that the table and the bar are made of."""

    columns: tuple[str, ...]
    rows: tuple[Row, ...]
    evidence: Mapping[str, Evidence] = field(default_factory=dict[str, Evidence])
    """Of promotions to the tier `domain`: of the `first` adapter, of the one that was trained for a `short` time, and
    `after` the loop of what it came to."""
    drift: Mapping[str, TextDrift] = field(default_factory=dict[str, TextDrift])
    """By the row's name."""
    loop: ImproveReport | None = None
    seconds: Mapping[str, float] = field(default_factory=dict[str, float])
    """Each thing that was done, when it was done."""

    def of(self, role: Role) -> list[Row]:
        """The rows with that role, in order."""
        return [row for row in self.rows if row.condition.role is role]

    @property
    def base(self) -> Row:
        """The base model's."""
        return self.of(Role.BASE)[0]

    @property
    def first(self) -> Row:
        """The first adapter's."""
        return self.of(Role.ADAPTER)[0]

    def against_base(self, row: Row) -> Iterator[tuple[str, Against]]:
        """Each column of a row, held against the base model."""
        return ((probe, row.against(self.base, probe)) for probe in self.columns if probe in row.reports)

    def families(self) -> dict[str, list[Row]]:
        """Rows that differ in the seed only, where there are several."""
        found: dict[str, list[Row]] = {}
        for row in self.rows:
            if row.condition.family:
                found.setdefault(row.condition.family, []).append(row)
        return {name: rows for name, rows in found.items() if len(rows) > 1}

    def as_json(self) -> dict[str, Any]:
        """All of it."""
        return {
            "rows": [self._row(row) for row in self.rows],
            "evidence": {name: found.model_dump(mode="json") for name, found in self.evidence.items()},
            "drift": {name: found.model_dump(mode="json") | {"rise": found.rise} for name, found in self.drift.items()},
            "loop": self.loop.model_dump(mode="json") if self.loop else None,
            "seconds": dict(self.seconds),
        }

    def _row(self, row: Row) -> dict[str, Any]:
        versus = {name: found.as_json() for name, found in self.against_base(row)} if row is not self.base else {}
        rates = {
            name: report.pass_at_1.model_dump()
            | {"key": report.key, "digest": report.adapter_digest, "proven": report.digest_proven}
            | {"infrastructure": report.infrastructure, "against_base": versus.get(name)}
            for name, report in row.reports.items()
        }
        return {"condition": asdict(row.condition), "rates": rates}


# --- merges -----------------------------------------------------------------------------------------------------


def kept(results: Results, row: Row) -> dict[str, float]:
    """Share of each parent's gain over the base model that a merge has, by probe."""
    base, parents = results.base, {IN: results.first, OTHER: results.of(Role.OTHER)[0]}
    gains = {probe: parent.share(probe) - base.share(probe) for probe, parent in parents.items()}
    return {probe: (row.share(probe) - base.share(probe)) / gain if gain > 0 else 0.0 for probe, gain in gains.items()}


def best_merge(results: Results) -> list[Row]:
    """The method that keeps most of the parent it keeps less of, over the mean of its seeds: its rows."""
    methods: dict[str, list[Row]] = {}
    for row in results.of(Role.MERGE):
        methods.setdefault(row.condition.family, []).append(row)
    return max(methods.values(), key=lambda rows: min(mean_kept(results, rows).values()))


def mean_kept(results: Results, rows: Sequence[Row]) -> dict[str, float]:
    """`kept`, over several seeds."""
    found = [kept(results, row) for row in rows]
    return {probe: sum(one[probe] for one in found) / len(found) for probe in found[0]}
