"""The bar of the proof: which lines were to be met, and which were, each with its figure. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from benchmarks.learn_results import DEEPER, IN, OTHER, PARAPHRASE, Results, Role, Row, best_merge, mean_kept
from engine.api_evolution import Evidence, Verdict
from engine.evaluation.metrics import Rate

BASE_UNDER = 0.05
"""Of unseen compositions, so that a gain is one; also what no control may reach."""
GATE, WORDINGS, DEEP, KEPT = 0.9, 0.6, 0.5, 0.9
E_THRESHOLD = 20.0
"""From which on an e-value proves an effect, as for a promotion."""
P_NOISE = 0.05
"""Two-sided p of the exact sign test, under which a fall is more than noise."""
MINUTES = 60


@dataclass(frozen=True)
class Line:
    """One line of the bar."""

    text: str
    met: bool


def bar(results: Results) -> list[Line]:
    """Each line of the bar that these results can tell."""
    return [
        *_learned(results),
        *_merges(results),
        *_loop(results),
        *_anchors(results),
        *_controls(results),
        *_memoriser(results),
        *_measured(results),
    ]


def _learned(results: Results) -> Iterator[Line]:
    base = results.base.rate(IN)
    yield Line(f"the base model passes under 5 % of unseen compositions: {said(base)}", base.value < BASE_UNDER)
    for row in results.of(Role.ADAPTER):
        name, found = row.condition.name, row.rate(IN)
        e = row.against(results.base, IN).gain
        text = f"{name}: at least 90 % of unseen compositions: {said(found)}, e-value {e:.3g}"
        yield Line(text, found.value >= GATE and e >= E_THRESHOLD)
        if PARAPHRASE in row.reports:
            wordings = row.rate(PARAPHRASE)
            yield Line(f"{name}: at least 60 % of unseen wordings: {said(wordings)}", wordings.value >= WORDINGS)


def _merges(results: Results) -> Iterator[Line]:
    """Chosen by method, over the mean of its seeds: the best of several draws would be better than the method is."""
    if not results.of(Role.MERGE):
        return
    rows = best_merge(results)
    shares = mean_kept(results, rows)
    name = rows[0].condition.family + (f", mean of {len(rows)} seeds" if len(rows) > 1 else "")
    text = f"the best merge ({name}) keeps at least 90 % of each parent's gain: {_kept(shares)}"
    rivals = [
        f"{row.condition.name} {_kept(mean_kept(results, [row]))}"
        for role in (Role.PEFT, Role.RANDOM_PARENT)
        for row in results.of(role)
    ]
    yield Line(f"{text} (to compare: {'; '.join(rivals)})" if rivals else text, min(shares.values()) >= KEPT)


def _kept(shares: dict[str, float]) -> str:
    return f"{shares[IN]:.0%} of the first's, {shares[OTHER]:.0%} of the second's"


def _loop(results: Results) -> Iterator[Line]:
    for row in results.of(Role.LOOP):
        found, before = row.rate(DEEPER), results.first.rate(DEEPER)
        e = row.against(results.first, DEEPER).gain
        text = f"{row.condition.name}: at least 50 % of deeper compositions: {said(found)}, before it {said(before)}"
        yield Line(f"{text}, e-value of the difference {e:.3g}", found.value >= DEEP)


def _anchors(results: Results) -> Iterator[Line]:
    anchors = [name for name in results.columns if name not in (IN, DEEPER, PARAPHRASE, OTHER)]
    for row in (results.first, *results.of(Role.LOOP)):
        for probe in (name for name in anchors if name in row.reports):
            yield _anchor(row, results.base, probe)


def _anchor(row: Row, base: Row, probe: str) -> Line:
    """Paired on the same tasks: how often one passed what the other did not says what noise is."""
    found = row.against(base, probe)
    wins, losses = found.counts
    value, low, high = found.difference
    figures = f"{said(row.rate(probe))} against {said(base.rate(probe))}, {wins} won and {losses} lost"
    tests = f"sign test p {found.p:.2g}, e-value of the loss {found.loss:.2g}, {value:+.1%} [{low:+.1%}, {high:+.1%}]"
    text = f"{row.condition.name}: {probe} does not fall by more than its noise: {figures}, {tests}"
    return Line(text, not (losses > wins and found.p < P_NOISE))


# --- what must fail -----------------------------------------------------------------------------------------------


def _controls(results: Results) -> Iterator[Line]:
    for role in (Role.BOOK, Role.RANDOM, Role.SHUFFLED, Role.OTHER):
        for row in results.of(role):
            yield _fails(row, results.base, IN)
    for row in results.of(Role.RANDOM_PARENT):
        yield _fails(row, results.base, OTHER)
    for row in results.of(Role.ZERO):
        yield _same(row, results.base)


def _fails(row: Row, base: Row, probe: str) -> Line:
    found, versus = row.rate(probe), row.against(base, probe)
    where = "" if probe == IN else f" on {probe}"
    text = f"control fails{where}: {row.condition.name}: {said(found)}, e-value {versus.gain:.3g}"
    return Line(text, found.value < BASE_UNDER and versus.gain < E_THRESHOLD)


def _same(row: Row, base: Row) -> Line:
    """An adapter that changes nothing and is served as one: what differs then is not the adapter's doing."""
    compared = {probe: row.differing(base, probe) for probe in row.reports}
    tasks = sum(report.tasks for report in row.reports.values())
    outcomes, words = (sum(len(found[part]) for found in compared.values()) for part in (0, 1))
    text = f"control fails: {row.condition.name}: differs from base in the outcome of {outcomes} of {tasks} tasks"
    return Line(f"{text}, and in the error message of {words - outcomes}", outcomes == 0)


# --- promotion ----------------------------------------------------------------------------------------------------


def _memoriser(results: Results) -> Iterator[Line]:
    """Refused while deeper compositions fail, and by that rule."""
    short, first, after = (results.evidence.get(which) for which in ("short", "first", "after"))
    for row, found in zip(results.of(Role.SHORT), [short] if short else [], strict=False):
        text = f"the memoriser ({row.condition.name}) is refused promotion to domain: deeper {said(row.rate(DEEPER))}"
        yield Line(f"{text}: {ruling(found)}", found.memoriser and found.verdict is Verdict.REFUSED)
    if first is not None:
        text = f"{first.adapter} gets to domain by its deeper compositions or not at all: "
        text += f"{said(results.first.rate(DEEPER))}: {ruling(first)}"
        yield Line(text, _generalises(first) or first.verdict is not Verdict.PROVEN)
    if after is not None:
        text = f"after the loop the rule that refuses memorisers lets {after.adapter} pass"
        yield Line(f"{text}: {ruling(after)}", _generalises(after))


def _generalises(evidence: Evidence) -> bool:
    return not evidence.memoriser and (evidence.ood_low or 0) > 0


def ruling(evidence: Evidence) -> str:
    """Verdict, label and effect in one line."""
    label = "a memoriser" if evidence.memoriser else "not labelled a memoriser"
    delta, low = evidence.ood_delta, evidence.ood_low
    effect = "not measured" if delta is None or low is None else f"{delta:+.1%}, from {low:+.1%} on"
    return f"{evidence.verdict.value}, {label}, out of distribution {effect}, against {evidence.incumbent}"


# --- the measurement ----------------------------------------------------------------------------------------------


def _measured(results: Results) -> Iterator[Line]:
    reports = [report for row in results.rows for report in row.reports.values()]
    proven = sum(report.digest_proven for report in reports)
    lost = sum(report.infrastructure for report in reports)
    text = f"the published file is what answered: its digest is proven in {proven} of {len(reports)} reports"
    yield Line(f"{text}; {lost} answers were lost", proven == len(reports))
    if results.seconds:
        minutes = sum(results.seconds.values()) / 60
        yield Line(f"the stages took under 60 minutes: {minutes:.1f}", minutes < MINUTES)


def said(rate: Rate) -> str:
    """Such as `59/60 = 98 %`."""
    return f"{rate.passed}/{rate.total} = {100 * rate.value:.0f} %"
