"""Whether an adapter may be promoted: everything that was measured in, one verdict with its reasons out. Pure.

Every rule gives findings; the worst one is the verdict:

    a rule speaks against it ─────────────► refused
    something asked for is not shown ─────► not proven
    otherwise ────────────────────────────► proven

The rules: it was really this adapter that answered, on tasks that may decide; it beats the incumbent (e-value and
cluster interval) there; no deciding task was learned from; what it was not trained for is kept (anchors, and the
perplexity of a general text, where it was measured); and above the tier `task` it also gains out of distribution: a
memoriser stays where it is.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from engine.api_evolution import AnchorResult, Contamination, Evidence, TextDrift, TierName, Verdict
from engine.api_learning import BASE, EvaluationReport, RateRecord, Split
from engine.evaluation.gates import is_memoriser
from engine.evaluation.metrics import wilson
from engine.evaluation.statistics import (
    MIN_CLUSTERS,
    Paired,
    Tally,
    cluster_interval,
    e_value,
    first_samples,
    pair,
    tally,
)
from engine.evolution.looks import budget_share
from engine.evolution.noise import noise_floor

IN_GROUP = "in"
OOD_GROUPS = frozenset({"deeper", "other"})
"""Groups of tasks out of distribution: what was learned does not give them away."""
DECIDING_SPLITS = frozenset({Split.GATE, Split.AUDIT})
"""Nothing that was learned from, or chosen by, may decide."""
MAX_DROPPED = 0.1
"""Share of tasks without an outcome. Answers that break the judge must not make a rate better by dropping out."""


@dataclass(frozen=True, slots=True)
class Rules:
    """The numbers that the rules go by; see [evaluation] and [evolution] of config.toml."""

    e_threshold: float = 20.0
    max_loss: float = 0.05
    max_perplexity_rise: float = 0.03
    """Of the general text, relative."""
    perplexity_tier: TierName = "domain"
    """The lowest tier that such a rise keeps an adapter from."""
    resamples: int = 2000
    min_evaluations: int = 1


@dataclass(frozen=True, slots=True)
class Versus:
    """An adapter and what it is compared with, on the same tasks."""

    name: str
    adapter: EvaluationReport
    reference: EvaluationReport


@dataclass(frozen=True, slots=True)
class Measured:
    """All that a decision rests on."""

    adapter: str
    adapter_digest: str
    incumbent: str
    """Whom it must beat: the champion, or `base`."""
    to_tier: TierName
    candidate: EvaluationReport
    """On the deciding split of the suite."""
    reference: EvaluationReport
    """The incumbent's there."""
    contamination: Contamination
    base: EvaluationReport | None = None
    """The base model's there; None where the incumbent is the base model."""
    ood: Versus | None = None
    """Against the base model on a suite out of distribution; used where the deciding suite has no such group."""
    anchors: tuple[Versus, ...] = ()
    candidates: int = 1
    """How many share the error budget."""
    evaluations: int = 1
    """How often the adapter was measured, this time included."""
    earlier_looks: int = 0
    """With other seeds, at this adapter and suite for this task type: each has spent of the error budget."""
    text: TextDrift | None = None
    text_unmeasured: str = "nobody asked for it"
    """Why `text` is None."""
    again: tuple[EvaluationReport, ...] = ()
    """The incumbent on the tasks that decide, under other seeds; empty where the noise floor was not asked for."""


@dataclass(frozen=True, slots=True)
class _Effect:
    """A paired difference with its 95 % interval."""

    tasks: int
    templates: int
    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{_points(self.value)} [{_points(self.low)}, {_points(self.high)}]"


@dataclass(frozen=True, slots=True)
class _Found:
    """One rule's word. `verdict` PROVEN: nothing stands in the way."""

    verdict: Verdict
    reason: str


_TIERS: tuple[TierName, ...] = ("task", "domain", "project")
_WORST_FIRST = (Verdict.REFUSED, Verdict.NOT_PROVEN, Verdict.PROVEN)


def decide(measured: Measured, rules: Rules) -> Evidence:
    """The evidence with its verdict. The same measurements always give the same one.

    Raises:
        ValueError: reports that are to be compared are not of the same tasks, asked in the same way.
    """
    groups = _deciding_groups(measured.candidate)
    pairs = pair(measured.candidate, measured.reference, groups)
    counted = tally(pairs)
    effect = _effect(pairs, measured.candidate.seed, rules)
    ood = _ood_effect(measured, rules)
    memoriser = ood is not None and _is_memoriser(_gain_on_base(measured, rules), ood)
    anchors = tuple(_anchor(versus, rules) for versus in measured.anchors)
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
        adapter_rate=_rate([paired.candidate for paired in pairs]),
        incumbent_rate=_rate([paired.reference for paired in pairs]),
        ood_delta=ood.value if ood else None,
        ood_low=ood.low if ood else None,
        memoriser=memoriser,
        anchors=anchors,
        contamination=measured.contamination,
        text=measured.text,
        text_unmeasured="" if measured.text else measured.text_unmeasured,
        verdict=found[0].verdict,
        reasons=tuple(one.reason for one in found),
        reports=_report_keys(measured),
    )


def _by_rule(
    measured: Measured,
    counted: Tally,
    effect: _Effect,
    ood: _Effect | None,
    anchors: Sequence[AnchorResult],
    *,
    memoriser: bool,
    rules: Rules,
) -> list[_Found]:
    """What every rule says, the worst first."""
    found = [
        *_measurement(measured, rules),
        *_gain(measured, counted, effect, rules),
        *_seen_before(measured.contamination),
        *_generalisation(measured, ood, memoriser),
        *_kept(measured, anchors, rules),
        _ordinary_text(measured, rules),
    ]
    return sorted(found, key=lambda one: _WORST_FIRST.index(one.verdict))


def _deciding_groups(report: EvaluationReport) -> frozenset[str]:
    """Tasks as trained; where the suite does not name them so, all that are not out of distribution."""
    groups = frozenset(sampled.group for sampled in report.sampled)
    return frozenset({IN_GROUP}) if IN_GROUP in groups else groups - OOD_GROUPS


def _base_report(measured: Measured) -> EvaluationReport | None:
    return measured.reference if measured.incumbent == BASE else measured.base


def _effect(pairs: Sequence[Paired], seed: int, rules: Rules) -> _Effect:
    value, low, high = cluster_interval(pairs, seed, rules.resamples)
    return _Effect(len(pairs), len({paired.template for paired in pairs}), value, low, high)


def _gain_on_base(measured: Measured, rules: Rules) -> _Effect:
    """In distribution. A champion that knows the same tasks by heart must not hide that the adapter does."""
    base = _base_report(measured) or measured.reference
    pairs = pair(measured.candidate, base, _deciding_groups(measured.candidate))
    return _effect(pairs, measured.candidate.seed, rules)


def _is_memoriser(gain: _Effect, ood: _Effect) -> bool:
    """An interval that says nothing labels nobody."""
    return ood.templates >= MIN_CLUSTERS and is_memoriser(gain.low, ood.low, ood.high)


def _ood_effect(measured: Measured, rules: Rules) -> _Effect | None:
    """Adapter minus base model out of distribution; None where nothing of that was measured."""
    base = _base_report(measured)
    if base is not None and (pairs := pair(measured.candidate, base, OOD_GROUPS)):
        return _effect(pairs, measured.candidate.seed, rules)
    if measured.ood is None or not (pairs := pair(measured.ood.adapter, measured.ood.reference)):
        return None
    return _effect(pairs, measured.ood.adapter.seed, rules)


def _anchor(versus: Versus, rules: Rules) -> AnchorResult:
    pairs = pair(versus.adapter, versus.reference)
    effect = _effect(pairs, versus.adapter.seed, rules)
    return AnchorResult(
        name=versus.name,
        adapter=_rate([paired.candidate for paired in pairs]),
        reference=_rate([paired.reference for paired in pairs]),
        difference_low=effect.low,
        kept=effect.low > -rules.max_loss,
    )


# --- the rules -----------------------------------------------------------------------------------------------


def _measurement(measured: Measured, rules: Rules) -> Iterator[_Found]:
    """It was this adapter that answered, on tasks that may decide, and nearly all of them have an outcome."""
    for name, report in _adapter_reports(measured):
        if report.adapter_digest != measured.adapter_digest:
            yield _Found(Verdict.REFUSED, f"The report on {name} is of other weights than the adapter's.")
        elif not report.digest_proven:
            yield _Found(Verdict.REFUSED, f"On {name} the server did not prove that it served this adapter.")
    if not measured.reference.digest_proven:
        yield _Found(Verdict.REFUSED, f"The server did not prove that it served {measured.incumbent}.")
    if measured.incumbent == BASE and measured.reference.adapter_digest is not None:
        yield _Found(Verdict.REFUSED, "The report of the base model was made with an adapter.")
    if measured.candidate.split not in DECIDING_SPLITS:
        yield _Found(Verdict.REFUSED, f"The split {measured.candidate.split} may not decide: gate or audit must.")
    if measured.evaluations < rules.min_evaluations:
        yield _Found(
            Verdict.NOT_PROVEN, f"It was measured {measured.evaluations} times; {rules.min_evaluations} are asked for."
        )
    dropped, tasks = _dropped(measured.candidate, measured.reference)
    if dropped > MAX_DROPPED * tasks:
        yield _Found(
            Verdict.NOT_PROVEN, f"{dropped} of {tasks} tasks have no outcome because the server or the judge failed."
        )


def _adapter_reports(measured: Measured) -> Iterator[tuple[str, EvaluationReport]]:
    yield measured.candidate.suite, measured.candidate
    if measured.ood is not None:
        yield measured.ood.name, measured.ood.adapter
    yield from ((versus.name, versus.adapter) for versus in measured.anchors)


def _dropped(candidate: EvaluationReport, reference: EvaluationReport) -> tuple[int, int]:
    tasks = first_samples(candidate).keys() & first_samples(reference).keys()
    return len(tasks) - len(pair(candidate, reference)), len(tasks)


def _gain(measured: Measured, counted: Tally, effect: _Effect, rules: Rules) -> Iterator[_Found]:
    threshold = rules.e_threshold * budget_share(measured.candidates, measured.earlier_looks)
    for_it, against_it = e_value(counted.wins, counted.losses), e_value(counted.losses, counted.wins)
    score = f"{counted.wins} wins and {counted.losses} losses against {measured.incumbent} in {effect.tasks} tasks"
    if not effect.tasks:
        yield _Found(Verdict.NOT_PROVEN, f"No task of {measured.candidate.suite} has an outcome for both.")
    elif against_it >= threshold:
        yield _Found(Verdict.REFUSED, f"It is worse: {score}, e-value of the loss {_number(against_it)}.")
    elif for_it < threshold:
        yield _Found(
            Verdict.NOT_PROVEN, f"No gain is proven: {score}, e-value {_number(for_it)} of {_number(threshold)}."
        )
    elif effect.templates < MIN_CLUSTERS:
        yield _Found(
            Verdict.NOT_PROVEN, f"The gain is over {effect.templates} templates; {MIN_CLUSTERS} are the least."
        )
    elif effect.low <= 0:
        yield _Found(Verdict.NOT_PROVEN, f"The gain may come from few templates: difference {effect}.")
    else:
        yield _Found(
            Verdict.PROVEN, f"{score}, e-value {_number(for_it)} of {_number(threshold)}, difference {effect}."
        )
    if looks := measured.earlier_looks:
        times = "once" if looks == 1 else f"{looks} times"
        asked = f"{_number(threshold)} must be reached"
        yield _Found(Verdict.PROVEN, f"It was looked at {times} before with other seeds: {asked}.")


def _seen_before(contamination: Contamination) -> Iterator[_Found]:
    if not contamination.checked:
        yield _Found(Verdict.NOT_PROVEN, "It is not known what it learned from, so the tasks may have been seen.")
    elif contamination.exact or contamination.near:
        yield _Found(
            Verdict.REFUSED,
            f"Of the deciding tasks it learned from {contamination.exact} as they are and from"
            f" {contamination.near} nearly so.",
        )
    else:
        yield _Found(Verdict.PROVEN, f"None of the deciding tasks is in the {contamination.rows} rows it learned from.")


def _generalisation(measured: Measured, ood: _Effect | None, memoriser: bool) -> Iterator[_Found]:
    """A task adapter may be one that only knows its task; it is labelled, and stays there."""
    above_task = measured.to_tier != "task"
    if ood is None:
        if above_task:
            yield _Found(Verdict.NOT_PROVEN, "It was not measured out of distribution against the base model.")
    elif ood.high < 0:
        yield _Found(Verdict.REFUSED, f"Out of distribution it is worse than the base model: {ood}.")
    elif above_task and ood.templates < MIN_CLUSTERS:
        yield _Found(
            Verdict.NOT_PROVEN,
            f"Out of distribution it was measured on {ood.templates} templates; {MIN_CLUSTERS} are the least.",
        )
    elif memoriser:
        verdict = Verdict.REFUSED if above_task else Verdict.PROVEN
        yield _Found(verdict, f"Memoriser: it gains on what it was trained for, and out of distribution {ood}.")
    elif ood.low > 0:
        yield _Found(Verdict.PROVEN, f"Out of distribution it gains on the base model: {ood}.")
    elif above_task:
        yield _Found(Verdict.NOT_PROVEN, f"Out of distribution no gain on the base model is shown: {ood}.")


def _kept(measured: Measured, anchors: Sequence[AnchorResult], rules: Rules) -> Iterator[_Found]:
    if not anchors and measured.to_tier != "task":
        yield _Found(Verdict.NOT_PROVEN, "What it does to other tasks was not measured: there is no anchor.")
    for anchor in anchors:
        ours, theirs = anchor.adapter, anchor.reference
        loss = f"{anchor.name}: {ours.passed}/{ours.total} against {theirs.passed}/{theirs.total}"
        if anchor.kept:
            yield _Found(Verdict.PROVEN, f"{loss}: kept.")
        elif ours.value - theirs.value < -rules.max_loss:
            yield _Found(Verdict.REFUSED, f"{loss}: it loses more than {rules.max_loss:.0%}.")
        else:
            low = _points(anchor.difference_low)
            yield _Found(Verdict.NOT_PROVEN, f"{loss}: a loss down to {low} cannot be ruled out.")


def _ordinary_text(measured: Measured, rules: Rules) -> _Found:
    """A task adapter answers tasks of its own type only, so below `perplexity_tier` a rise is said and no more."""
    text = measured.text
    if text is None:
        return _Found(Verdict.PROVEN, f"Perplexity of the general text: not measured: {measured.text_unmeasured}")
    what = (
        f"Perplexity of the general text: {text.adapter_perplexity:.4g} against"
        f" {text.base_perplexity:.4g} of the base model ({text.change}),"
        f" KL drift {_number(text.kl)} nats per token"
    )
    if not text.rise > rules.max_perplexity_rise:
        return _Found(Verdict.PROVEN, f"{what}: kept.")
    if _TIERS.index(measured.to_tier) < _TIERS.index(rules.perplexity_tier):
        return _Found(Verdict.PROVEN, f"{what}: too much for the tier {rules.perplexity_tier}.")
    return _Found(Verdict.REFUSED, f"{what}: it may rise by {rules.max_perplexity_rise:.1%}.")


# --- words ---------------------------------------------------------------------------------------------------


def _rate(outcomes: Sequence[bool]) -> RateRecord:
    rate = wilson(sum(outcomes), len(outcomes))
    return RateRecord(passed=rate.passed, total=rate.total, value=rate.value, low=rate.low, high=rate.high)


def _points(difference: float) -> str:
    return f"{100 * difference:+.1f} points"


def _number(value: float) -> str:
    return f"{value:.3g}"


def _report_keys(measured: Measured) -> tuple[str, ...]:
    reports = [measured.candidate, measured.reference]
    reports += [report for report in (measured.base, *measured.again) if report is not None]
    pairs = [*measured.anchors, *([measured.ood] if measured.ood else [])]
    reports += [report for versus in pairs for report in (versus.adapter, versus.reference)]
    return tuple(dict.fromkeys(report.key for report in reports))
