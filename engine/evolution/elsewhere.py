"""What an adapter does where it was not trained: out of distribution, on anchors, on ordinary text. Pure.

Each rule gives findings for `decide`. Tasks that the adapter learned from say nothing here, and are left out (see
`seen`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from engine.api_evolution import AnchorResult, Verdict
from engine.evaluation.gates import is_memoriser
from engine.evaluation.statistics import MIN_CLUSTERS, Paired, pair
from engine.evolution.findings import (
    TIERS,
    Effect,
    Found,
    Measured,
    Rules,
    Versus,
    base_report,
    effect_of,
    number,
    points,
    rate_of,
)
from engine.evolution.seen import MAX_SEEN

OOD_GROUPS = frozenset({"deeper", "other"})
"""Groups of tasks out of distribution: what was learned does not give them away."""


def ood_effect(measured: Measured, rules: Rules) -> Effect | None:
    """Adapter minus base model out of distribution; None where nothing of that was measured."""
    base = base_report(measured)
    if base is not None and (pairs := pair(measured.candidate, base, OOD_GROUPS)):
        return effect_of(pairs, measured.candidate.seed, rules)
    if measured.ood is None or not (pairs := _unseen(measured.ood)):
        return None
    return effect_of(pairs, measured.ood.adapter.seed, rules)


def memorises(gain: Effect, ood: Effect | None) -> bool:
    """An interval that says nothing labels nobody."""
    return ood is not None and ood.templates >= MIN_CLUSTERS and is_memoriser(gain.low, ood.low, ood.high)


def anchor_result(versus: Versus, rules: Rules) -> AnchorResult:
    """What the adapter does to one anchor."""
    pairs = _unseen(versus)
    found = effect_of(pairs, versus.adapter.seed, rules)
    usable = versus.seen is None or versus.seen.tells
    return AnchorResult(
        name=versus.name,
        adapter=rate_of([paired.candidate for paired in pairs]),
        reference=rate_of([paired.reference for paired in pairs]),
        difference_low=found.low,
        kept=usable and found.low > -rules.max_loss,
        usable=usable,
    )


def _unseen(versus: Versus) -> tuple[Paired, ...]:
    """Pairs of the tasks that the adapter did not learn from."""
    seen = versus.seen.tasks if versus.seen else frozenset[str]()
    return tuple(paired for paired in pair(versus.adapter, versus.reference) if paired.task not in seen)


# --- the rules -----------------------------------------------------------------------------------------------


def generalisation(measured: Measured, ood: Effect | None, memoriser: bool) -> Iterator[Found]:
    """A task adapter may be one that only knows its task; it is labelled, and stays there."""
    above_task = measured.to_tier != "task"
    if measured.ood is not None:
        yield from _seen_outside(measured.ood, above_task)
    if ood is None:
        if above_task:
            yield Found(Verdict.NOT_PROVEN, _unmeasured(measured.ood))
    elif ood.high < 0:
        yield Found(Verdict.REFUSED, f"Out of distribution it is worse than the base model: {ood}.")
    elif above_task and ood.templates < MIN_CLUSTERS:
        yield Found(
            Verdict.NOT_PROVEN,
            f"Out of distribution it was measured on {ood.templates} templates; {MIN_CLUSTERS} are the least.",
        )
    elif memoriser:
        verdict = Verdict.REFUSED if above_task else Verdict.PROVEN
        yield Found(verdict, f"Memoriser: it gains on what it was trained for, and out of distribution {ood}.")
    elif ood.low > 0:
        yield Found(Verdict.PROVEN, f"Out of distribution it gains on the base model: {ood}.")
    elif above_task:
        yield Found(Verdict.NOT_PROVEN, f"Out of distribution no gain on the base model is shown: {ood}.")


def _unmeasured(ood: Versus | None) -> str:
    if ood is None:
        return "It was not measured out of distribution against the base model."
    return f"{ood.name}: no task is left that has an outcome for both."


def _seen_outside(ood: Versus, above_task: bool) -> Iterator[Found]:
    if ood.seen is None or not ood.seen.tasks:
        return
    learned = f"{ood.name}: it learned from {len(ood.seen.tasks)} of {ood.seen.asked} tasks"
    if ood.seen.tells:
        yield Found(Verdict.PROVEN, f"{learned}, which are left out.")
    else:
        verdict = Verdict.REFUSED if above_task else Verdict.PROVEN
        yield Found(verdict, f"{learned}, so they do not show whether it generalises; {MAX_SEEN:.0%} may be.")


def kept(measured: Measured, anchors: Sequence[AnchorResult], rules: Rules) -> Iterator[Found]:
    """Every anchor is to be kept, and above a task there must be one."""
    if not anchors and measured.to_tier != "task":
        yield Found(Verdict.NOT_PROVEN, "What it does to other tasks was not measured: there is no anchor.")
    for versus, anchor in zip(measured.anchors, anchors, strict=True):
        yield _anchor(anchor, rules, versus)


def _anchor(anchor: AnchorResult, rules: Rules, versus: Versus) -> Found:
    ours, theirs = anchor.adapter, anchor.reference
    learned = f"it learned from {len(versus.seen.tasks)} of {versus.seen.asked} tasks" if versus.seen else ""
    left_out = f" ({learned}, which are left out)" if versus.seen and versus.seen.tasks else ""
    loss = f"{anchor.name}: {ours.passed}/{ours.total} against {theirs.passed}/{theirs.total}{left_out}"
    if ours.value - theirs.value < -rules.max_loss:
        return Found(Verdict.REFUSED, f"{loss}: it loses more than {rules.max_loss:.0%}.")
    if not anchor.usable:
        return Found(Verdict.NOT_PROVEN, f"{anchor.name} is no anchor for it: {learned}; name another one.")
    if anchor.kept:
        return Found(Verdict.PROVEN, f"{loss}: kept.")
    low = points(anchor.difference_low)
    return Found(Verdict.NOT_PROVEN, f"{loss}: a loss down to {low} cannot be ruled out.")


def ordinary_text(measured: Measured, rules: Rules) -> Found:
    """A task adapter answers tasks of its own type only, so below `perplexity_tier` a rise is said and no more."""
    text = measured.text
    if text is None:
        return Found(Verdict.PROVEN, f"Perplexity of the general text: not measured: {measured.text_unmeasured}")
    what = (
        f"Perplexity of the general text: {text.adapter_perplexity:.4g} against"
        f" {text.base_perplexity:.4g} of the base model ({text.change}),"
        f" KL drift {number(text.kl)} nats per token"
    )
    if not text.rise > rules.max_perplexity_rise:
        return Found(Verdict.PROVEN, f"{what}: kept.")
    if TIERS.index(measured.to_tier) < TIERS.index(rules.perplexity_tier):
        return Found(Verdict.PROVEN, f"{what}: too much for the tier {rules.perplexity_tier}.")
    return Found(Verdict.REFUSED, f"{what}: it may rise by {rules.max_perplexity_rise:.1%}.")
