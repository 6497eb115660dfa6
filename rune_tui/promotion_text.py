"""A promotion's case and the registry's history in words: the same on the command line and on the screen. Pure."""

from __future__ import annotations

from enum import StrEnum

from engine.api_evolution import AnchorResult, Change, Evidence, PromotionCase, Verdict
from engine.api_learning import RateRecord


class Weight(StrEnum):
    """What a line means for the promotion."""

    PLAIN = "plain"
    HEADING = "heading"
    GOOD = "good"
    WARN = "warn"
    BAD = "bad"


Line = tuple[str, Weight]

_VERDICTS = {
    Verdict.PROVEN: ("proven", Weight.GOOD),
    Verdict.NOT_PROVEN: ("not proven: too little for a decision", Weight.WARN),
    Verdict.REFUSED: ("refused", Weight.BAD),
}


def case_lines(case: PromotionCase) -> list[Line]:
    """What a promotion rests on, and what speaks against it: the objections last, next to the question."""
    lines: list[Line] = [
        (f"{case.adapter_id}: {case.from_tier} to {case.to_tier}, champion of {case.task_type}", Weight.HEADING),
        (f"It would take the place of {_whom(case.incumbent)}.", Weight.PLAIN),
    ]
    if case.evidence is not None:
        lines += evidence_lines(case.evidence)
    if case.objections:
        lines.append(("What speaks against it", Weight.HEADING))
        lines += [(f"! {sentence}", Weight.BAD) for sentence in case.objections]
    else:
        lines.append(("Nothing speaks against it.", Weight.GOOD))
    return lines


def evidence_lines(evidence: Evidence) -> list[Line]:
    """The measurement: verdict, rates, e-value, interval, anchors, contamination."""
    word, weight = _VERDICTS[evidence.verdict]
    played = f"{evidence.wins} won, {evidence.losses} lost, {evidence.ties} alike of {evidence.tasks} tasks"
    interval = f"[{evidence.difference_low:+.1%}, {evidence.difference_high:+.1%}]"
    strong = Weight.GOOD if evidence.e_value >= evidence.threshold else Weight.WARN
    return [
        (f"Evidence: {word}", weight),
        (f"  suite        {evidence.suite}, seed {evidence.seed}, against {_whom(evidence.incumbent)}", Weight.PLAIN),
        (f"  adapter      {rate_text(evidence.adapter_rate)}", Weight.PLAIN),
        (f"  incumbent    {rate_text(evidence.incumbent_rate)}", Weight.PLAIN),
        (f"  paired       {played}", Weight.PLAIN),
        (f"  e-value      {evidence.e_value:.4g}, needs {evidence.threshold:g}{_looks(evidence)}", strong),
        (f"  difference   {evidence.difference:+.1%} {interval}", Weight.PLAIN),
        *_noise(evidence),
        _elsewhere(evidence),
        *(_anchor(anchor) for anchor in evidence.anchors),
        _text(evidence),
        _contamination(evidence),
        *_of_parts(evidence),
    ]


def rate_text(rate: RateRecord) -> str:
    """`55/60 = 91.7% [81.9%, 96.4%]`."""
    return f"{rate.passed}/{rate.total} = {rate.value:.1%} [{rate.low:.1%}, {rate.high:.1%}]"


def change_text(change: Change) -> str:
    """One change: whose, what, from what to what."""
    changed = [
        f"{name} {_value(change.before[name])} to {_value(value)}"
        for name, value in change.after.items()
        if name in change.before and change.before[name] != value
    ]
    said = f": {', '.join(changed)}" if changed else ""
    return f"{change.subject.partition('/')[2]} {change.what}{said}"


def change_marks(change: Change) -> str:
    """`forced`, `undone`, both or nothing."""
    return " ".join(word for word, holds in (("forced", change.forced), ("undone", change.undone)) if holds)


def _whom(incumbent: str) -> str:
    return "the base model" if incumbent == "base" else incumbent


def _value(value: object) -> str:
    match value:
        case None:
            return "-"
        case bool():
            return "yes" if value else "no"
        case float():
            return f"{value:.3f}"
        case _:
            return str(value)


def _elsewhere(evidence: Evidence) -> Line:
    if evidence.ood_delta is None:
        return "  beyond       not measured: the suite has no such tasks", Weight.WARN
    low = "" if evidence.ood_low is None else f", at least {evidence.ood_low:+.1%}"
    if evidence.memoriser:
        return f"  beyond       {evidence.ood_delta:+.1%}{low}: a memoriser", Weight.BAD
    return f"  beyond       {evidence.ood_delta:+.1%}{low}", Weight.PLAIN


def _anchor(anchor: AnchorResult) -> Line:
    text = f"{anchor.adapter.value:.1%} was {anchor.reference.value:.1%}, at least {anchor.difference_low:+.1%}"
    if not anchor.usable:
        return f"  {anchor.name:<12} {text}: not usable, it learned from its tasks", Weight.WARN
    kept = "kept" if anchor.kept else "lost"
    return f"  {anchor.name:<12} {text}: {kept}", Weight.PLAIN if anchor.kept else Weight.BAD


def _looks(evidence: Evidence) -> str:
    return f" at look {evidence.earlier_looks + 1}" if evidence.earlier_looks else ""


def _noise(evidence: Evidence) -> list[Line]:
    if (noise := evidence.noise) is None:
        return []
    differs = f"{noise.rate:.1%} [{noise.low:.1%}, {noise.high:.1%}]"
    return [(f"  noise        the incumbent differs from itself by {differs}", Weight.PLAIN)]


def _text(evidence: Evidence) -> Line:
    if (text := evidence.text) is None:
        return (
            f"  perplexity   not measured{': ' if evidence.text_unmeasured else ''}{evidence.text_unmeasured}",
            Weight.WARN,
        )
    change = f"{text.adapter_perplexity:.4g} was {text.base_perplexity:.4g} ({text.change}), drift {text.kl:.3g} nats"
    return f"  perplexity   {change}", Weight.PLAIN


def _contamination(evidence: Evidence) -> Line:
    found = evidence.contamination
    if not found.checked:
        return "  overlap      not checked: it is not known what it learned from", Weight.WARN
    shared = found.exact + found.near
    text = f"{found.exact} exact and {found.near} near copies among {found.rows} training rows"
    return f"  overlap      {text if shared else f'none with {found.rows} training rows'}", (
        Weight.BAD if shared else Weight.PLAIN
    )


def _of_parts(evidence: Evidence) -> list[Line]:
    """Of what does not decide, where that was looked at: what overlaps, and that the rest does not."""
    checked = [found for found in evidence.contaminations if found.checked]
    shared = [found for found in checked if found.exact + found.near]
    lines: list[Line] = [
        (f"  overlap      {found.part}: {found.exact} exact and {found.near} near copies, left out", Weight.WARN)
        for found in shared
    ]
    if clean := [found.part for found in checked if found not in shared]:
        lines.append((f"  overlap      none of {'; '.join(clean)}", Weight.PLAIN))
    return lines
