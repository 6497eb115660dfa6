"""Whether an adapter may be promoted: everything that was measured in, one verdict with its reasons out. Pure.

Every rule gives findings; the worst one is the verdict:

    a rule speaks against it ─────────────► refused
    something asked for is not shown ─────► not proven
    otherwise ────────────────────────────► proven

The rules: it was really this adapter that answered, on tasks that may decide; it beats the incumbent (e-value and
cluster interval) there; no deciding task was learned from; what it was not trained for is kept (anchors, and the
perplexity of a general text, where it was measured); and above the tier `task` it also gains out of distribution: a
memoriser stays where it is. What was learned from counts for none of these.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from engine.api_evolution import AnchorResult, Contamination, Evidence, Verdict
from engine.api_learning import BASE, EvaluationReport, Split
from engine.evaluation.statistics import MIN_CLUSTERS, Tally, e_value, first_samples, pair, tally
from engine.evolution.elsewhere import (
    OOD_GROUPS,
    anchor_result,
    generalisation,
    kept,
    memorises,
    ood_effect,
    ordinary_text,
)
from engine.evolution.findings import Effect, Found, Measured, Rules, base_report, effect_of, number, rate_of
from engine.evolution.looks import budget_share
from engine.evolution.noise import noise_floor

IN_GROUP = "in"
DECIDING_SPLITS = frozenset({Split.GATE, Split.AUDIT})
"""Nothing that was learned from, or chosen by, may decide."""
MAX_DROPPED = 0.1
"""Share of tasks without an outcome. Answers that break the judge must not make a rate better by dropping out."""

_WORST_FIRST = (Verdict.REFUSED, Verdict.NOT_PROVEN, Verdict.PROVEN)


def decide(measured: Measured, rules: Rules) -> Evidence:
    """The evidence with its verdict. The same measurements always give the same one.

    Raises:
        ValueError: reports that are to be compared are not of the same tasks, asked in the same way.
    """
    groups = _deciding_groups(measured.candidate)
    pairs = pair(measured.candidate, measured.reference, groups)
    counted = tally(pairs)
    effect = effect_of(pairs, measured.candidate.seed, rules)
    ood = ood_effect(measured, rules)
    memoriser = memorises(_gain_on_base(measured, rules), ood)
    anchors = tuple(anchor_result(versus, rules) for versus in measured.anchors)
    elsewhere = (*((measured.ood,) if measured.ood else ()), *measured.anchors)
    found = _by_rule(measured, counted, effect, ood, anchors, memoriser=memoriser, rules=rules)
    return Evidence(
        adapter=measured.adapter,
        adapter_digest=measured.adapter_digest,
        incumbent=measured.incumbent,
        to_tier=measured.to_tier,
        suite=measured.candidate.suite,
        seed=measured.candidate.seed,
        tasks=len(pairs),
        wins=counted.wins,
        losses=counted.losses,
        ties=counted.ties,
        e_value=e_value(counted.wins, counted.losses),
        threshold=rules.e_threshold * budget_share(measured.candidates, measured.earlier_looks),
        earlier_looks=measured.earlier_looks,
        noise=noise_floor(measured.reference, measured.again, groups) if measured.again else None,
        difference=effect.value,
        difference_low=effect.low,
        difference_high=effect.high,
        adapter_rate=rate_of([paired.candidate for paired in pairs]),
        incumbent_rate=rate_of([paired.reference for paired in pairs]),
        ood_delta=ood.value if ood else None,
        ood_low=ood.low if ood else None,
        memoriser=memoriser,
        anchors=anchors,
        contamination=measured.contamination,
        contaminations=tuple(versus.seen.of_part(versus.name) for versus in elsewhere if versus.seen),
        text=measured.text,
        text_unmeasured="" if measured.text else measured.text_unmeasured,
        verdict=found[0].verdict,
        reasons=tuple(one.reason for one in found),
        reports=_report_keys(measured),
    )


def _by_rule(
    measured: Measured,
    counted: Tally,
    effect: Effect,
    ood: Effect | None,
    anchors: Sequence[AnchorResult],
    *,
    memoriser: bool,
    rules: Rules,
) -> list[Found]:
    """What every rule says, the worst first."""
    found = [
        *_measurement(measured, rules),
        *_gain(measured, counted, effect, rules),
        *_seen_before(measured.contamination),
        *generalisation(measured, ood, memoriser),
        *kept(measured, anchors, rules),
        ordinary_text(measured, rules),
    ]
    return sorted(found, key=lambda one: _WORST_FIRST.index(one.verdict))


def _deciding_groups(report: EvaluationReport) -> frozenset[str]:
    """Tasks as trained; where the suite does not name them so, all that are not out of distribution."""
    groups = frozenset(sampled.group for sampled in report.sampled)
    return frozenset({IN_GROUP}) if IN_GROUP in groups else groups - OOD_GROUPS


def _gain_on_base(measured: Measured, rules: Rules) -> Effect:
    """In distribution. A champion that knows the same tasks by heart must not hide that the adapter does."""
    base = base_report(measured) or measured.reference
    pairs = pair(measured.candidate, base, _deciding_groups(measured.candidate))
    return effect_of(pairs, measured.candidate.seed, rules)


# --- the rules -----------------------------------------------------------------------------------------------


def _measurement(measured: Measured, rules: Rules) -> Iterator[Found]:
    """It was this adapter that answered, on tasks that may decide, and nearly all of them have an outcome."""
    for name, report in _adapter_reports(measured):
        if report.adapter_digest != measured.adapter_digest:
            yield Found(Verdict.REFUSED, f"The report on {name} is of other weights than the adapter's.")
        elif not report.digest_proven:
            yield Found(Verdict.REFUSED, f"On {name} the server did not prove that it served this adapter.")
    if not measured.reference.digest_proven:
        yield Found(Verdict.REFUSED, f"The server did not prove that it served {measured.incumbent}.")
    if measured.incumbent == BASE and measured.reference.adapter_digest is not None:
        yield Found(Verdict.REFUSED, "The report of the base model was made with an adapter.")
    if measured.candidate.split not in DECIDING_SPLITS:
        yield Found(Verdict.REFUSED, f"The split {measured.candidate.split} may not decide: gate or audit must.")
    if measured.evaluations < rules.min_evaluations:
        yield Found(
            Verdict.NOT_PROVEN, f"It was measured {measured.evaluations} times; {rules.min_evaluations} are asked for."
        )
    for name, candidate, reference in _comparisons(measured):
        if reference is not measured.reference and not reference.digest_proven:
            yield Found(Verdict.REFUSED, f"On {name} the server did not prove that it served the base model.")
        dropped, tasks = _dropped(candidate, reference)
        if dropped > MAX_DROPPED * tasks:
            what = f"{dropped} of {tasks} tasks of {name} have no outcome"
            yield Found(Verdict.NOT_PROVEN, f"{what} because the server or the judge failed.")


def _adapter_reports(measured: Measured) -> Iterator[tuple[str, EvaluationReport]]:
    yield measured.candidate.suite, measured.candidate
    if measured.ood is not None:
        yield measured.ood.name, measured.ood.adapter
    yield from ((versus.name, versus.adapter) for versus in measured.anchors)


def _comparisons(measured: Measured) -> Iterator[tuple[str, EvaluationReport, EvaluationReport]]:
    """Every pair of reports that something is concluded from."""
    yield measured.candidate.suite, measured.candidate, measured.reference
    if measured.base is not None:
        yield measured.candidate.suite, measured.candidate, measured.base
    others = [*measured.anchors, *([measured.ood] if measured.ood else [])]
    yield from ((versus.name, versus.adapter, versus.reference) for versus in others)


def _dropped(candidate: EvaluationReport, reference: EvaluationReport) -> tuple[int, int]:
    tasks = first_samples(candidate).keys() & first_samples(reference).keys()
    return len(tasks) - len(pair(candidate, reference)), len(tasks)


def _gain(measured: Measured, counted: Tally, effect: Effect, rules: Rules) -> Iterator[Found]:
    threshold = rules.e_threshold * budget_share(measured.candidates, measured.earlier_looks)
    for_it, against_it = e_value(counted.wins, counted.losses), e_value(counted.losses, counted.wins)
    score = f"{counted.wins} wins and {counted.losses} losses against {measured.incumbent} in {effect.tasks} tasks"
    if not effect.tasks:
        yield Found(Verdict.NOT_PROVEN, f"No task of {measured.candidate.suite} has an outcome for both.")
    elif against_it >= threshold:
        yield Found(Verdict.REFUSED, f"It is worse: {score}, e-value of the loss {number(against_it)}.")
    elif for_it < threshold:
        yield Found(Verdict.NOT_PROVEN, f"No gain is proven: {score}, e-value {number(for_it)} of {number(threshold)}.")
    elif effect.templates < MIN_CLUSTERS:
        yield Found(Verdict.NOT_PROVEN, f"The gain is over {effect.templates} templates; {MIN_CLUSTERS} are the least.")
    elif effect.low <= 0:
        yield Found(Verdict.NOT_PROVEN, f"The gain may come from few templates: difference {effect}.")
    else:
        yield Found(Verdict.PROVEN, f"{score}, e-value {number(for_it)} of {number(threshold)}, difference {effect}.")
    if looks := measured.earlier_looks:
        times = "once" if looks == 1 else f"{looks} times"
        asked = f"{number(threshold)} must be reached"
        yield Found(Verdict.PROVEN, f"It was looked at {times} before with other seeds: {asked}.")


def _seen_before(contamination: Contamination) -> Iterator[Found]:
    if not contamination.checked:
        yield Found(Verdict.NOT_PROVEN, "It is not known what it learned from, so the tasks may have been seen.")
    elif contamination.exact or contamination.near:
        yield Found(
            Verdict.REFUSED,
            f"Of the deciding tasks it learned from {contamination.exact} as they are and from"
            f" {contamination.near} nearly so.",
        )
    else:
        yield Found(Verdict.PROVEN, f"None of the deciding tasks is in the {contamination.rows} rows it learned from.")


def _report_keys(measured: Measured) -> tuple[str, ...]:
    reports = [measured.candidate, measured.reference]
    reports += [report for report in (measured.base, *measured.again) if report is not None]
    pairs = [*measured.anchors, *([measured.ood] if measured.ood else [])]
    reports += [report for versus in pairs for report in (versus.adapter, versus.reference)]
    return tuple(dict.fromkeys(report.key for report in reports))
