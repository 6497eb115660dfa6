"""The table of the proof, and its bar: which lines were to be met, and which were."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from engine.api_learning import EvaluationReport
from engine.evaluation.statistics import e_value, pair

COLUMNS = ("in", "deeper", "paraphrase", "other", "general", "humaneval")


@dataclass(frozen=True)
class Condition:
    """A row before it is scored."""

    name: str
    adapter: str
    probes: tuple[str, ...]


@dataclass(frozen=True)
class Row:
    """A condition with what it came to, by probe."""

    condition: Condition
    reports: Mapping[str, EvaluationReport]

    def share(self, probe: str) -> float:
        """Pass rate."""
        return self.reports[probe].pass_at_1.value

    def as_json(self) -> dict[str, Any]:
        """Rates and keys of the reports."""
        rates = {name: report.pass_at_1.model_dump() | {"key": report.key} for name, report in self.reports.items()}
        return {"condition": asdict(self.condition), "rates": rates}


@dataclass(frozen=True)
class Line:
    """One line of the bar."""

    text: str
    met: bool


def render(rows: Sequence[Row], verdicts: Iterable[Line]) -> str:
    """Markdown: rates with Wilson intervals, e-values against the base, then the bar."""
    base = rows[0]
    head = ["| condition | " + " | ".join(COLUMNS) + " | e-value (in) |", "|---" * (len(COLUMNS) + 2) + "|"]
    body = [f"| {row.condition.name} | " + " | ".join(_cells(row)) + f" | {_evidence(row, base)} |" for row in rows]
    lines = [f"- {'met' if verdict.met else 'NOT met'}: {verdict.text}" for verdict in verdicts]
    return "\n".join([*head, *body, "", *lines])


def _cells(row: Row) -> Iterable[str]:
    for column in COLUMNS:
        report = row.reports.get(column)
        rate = report.pass_at_1 if report else None
        yield "" if rate is None else f"{rate.passed}/{rate.total} [{rate.low:.0%}, {rate.high:.0%}]"


def evidence(row: Row, base: Row, probe: str = "in") -> float:
    """The e-value of the row's gain over the base on the same tasks."""
    pairs = pair(row.reports[probe], base.reports[probe])
    wins = sum(one.candidate and not one.reference for one in pairs)
    losses = sum(one.reference and not one.candidate for one in pairs)
    return e_value(wins, losses)


def _evidence(row: Row, base: Row) -> str:
    if row is base or "in" not in row.reports:
        return ""
    return f"{evidence(row, base):.3g}"


def bar(rows: Sequence[Row]) -> list[Line]:
    """Each line of the bar that these rows can tell."""
    named = {row.condition.name: row for row in rows}
    base = named["base"]
    found = [Line("the base passes under 5 % of unseen compositions", base.share("in") < 0.05)]
    adapters = [row for name, row in named.items() if name.startswith("adapter, seed")]
    for row in adapters:
        found.append(Line(f"{row.condition.name}: at least 90 % of unseen compositions", row.share("in") >= 0.9))
        found.append(Line(f"{row.condition.name}: at least 60 % of unseen wordings", row.share("paraphrase") >= 0.6))
    controls = ("random of equal norm", "shuffled labels", "other domain", "base, documentation in the prompt")
    found += [Line(f"control fails: {name}", named[name].share("in") < 0.05) for name in controls]
    found += _merges(named, base, adapters[0])
    found += _anchors(base, adapters[0])
    if "best of loop" in named:
        best = named["best of loop"]
        found.append(Line("best of loop: at least 50 % of deeper compositions", best.share("deeper") >= 0.5))
    return found


def _merges(named: Mapping[str, Row], base: Row, first: Row) -> list[Line]:
    """The best merge keeps at least 90 % of each parent's gain."""
    text = named["other domain"]

    def kept(row: Row) -> float:
        gains = (
            (row.share("in") - base.share("in")) / max(1e-9, first.share("in") - base.share("in")),
            (row.share("other") - base.share("other")) / max(1e-9, text.share("other") - base.share("other")),
        )
        return min(gains)

    ours = [row for name, row in named.items() if name.startswith("merged: ") and "PEFT" not in name]
    best = max(ours, key=kept)
    said = f"the best merge ({best.condition.name}) keeps at least 90 % of each parent's gain: {kept(best):.0%}"
    return [Line(said, kept(best) >= 0.9)]


def _anchors(base: Row, adapter: Row) -> list[Line]:
    found: list[Line] = []
    for probe in ("general", "humaneval"):
        fall = base.share(probe) - adapter.share(probe)
        low = base.reports[probe].pass_at_1.low
        said = f"{probe} falls by no more than its noise: {fall:+.1%}"
        found.append(Line(said, adapter.share(probe) >= low))
    return found
