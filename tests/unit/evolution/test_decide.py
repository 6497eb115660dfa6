"""A63, A82, learning.md 4.3: what is promoted, what is refused, and what is not proven either way."""

from __future__ import annotations

from dataclasses import replace

import pytest
from support.learning_reports import DIGEST, planned

from engine.api_evolution import Contamination, Evidence, TextDrift, Verdict
from engine.api_learning import EvaluationReport, Split
from engine.evaluation.overlap import Document, contamination, find_overlaps
from engine.evolution.decide import decide
from engine.evolution.drift.figures import WORST
from engine.evolution.findings import Measured, Rules, Versus
from engine.evolution.noise import noise_floor
from engine.evolution.seen import Seen

CLEAN = Contamination(checked=True, rows=228, exact=0, near=0)
RULES = Rules(resamples=400)
BASE_FAILS = {"in": "f" * 100, "deeper": "f" * 60}
LEARNED = {"in": "p" * 92 + "f" * 8, "deeper": "pf" * 30}
ALL_PASS = {"anchor": "p" * 40}
MEMORISED = {"in": "p" * 92 + "f" * 8, "deeper": "f" * 60}


def _of_adapter(groups: dict[str, str], **changes: object) -> EvaluationReport:
    return planned(groups, adapter="a1", adapter_digest=DIGEST, **changes)


def _anchor(adapter: str, reference: str, name: str = "general") -> Versus:
    """An anchor whose tasks are templates of their own."""
    return Versus(
        name,
        _of_adapter({"anchor": adapter}, templates=1000, suite=name),
        planned({"anchor": reference}, templates=1000, suite=name),
    )


def _measured(ours: dict[str, str] = LEARNED, theirs: dict[str, str] = BASE_FAILS, **changes: object) -> Measured:
    good = Measured(
        adapter="a1",
        adapter_digest=DIGEST,
        incumbent="base",
        to_tier="domain",
        candidate=_of_adapter(ours),
        reference=planned(theirs),
        contamination=CLEAN,
        anchors=(_anchor("pf" * 20, "pf" * 20),),
    )
    return replace(good, **changes)


def _says(evidence: Evidence, *words: str) -> bool:
    return any(all(word in reason for word in words) for reason in evidence.reasons)


def test_an_adapter_that_learned_and_generalises_is_proven() -> None:
    evidence = decide(_measured(), RULES)
    assert evidence.verdict is Verdict.PROVEN
    assert (evidence.tasks, evidence.wins, evidence.losses, evidence.ties) == (100, 92, 0, 8)
    assert evidence.e_value > 1e20 and evidence.threshold == 20
    assert evidence.difference == pytest.approx(0.92)
    assert 0 < evidence.difference_low <= evidence.difference <= evidence.difference_high
    assert (evidence.adapter_rate.passed, evidence.incumbent_rate.passed) == (92, 0)
    assert evidence.ood_delta == pytest.approx(0.5) and evidence.ood_low is not None and evidence.ood_low > 0
    assert not evidence.memoriser
    assert evidence.anchors[0].kept
    assert len(evidence.reports) == len(set(evidence.reports)) == 4
    assert Evidence.model_validate_json(evidence.model_dump_json()) == evidence


def test_the_same_measurements_give_the_same_evidence() -> None:
    assert decide(_measured(), RULES) == decide(_measured(), RULES)


# --- planted frauds ------------------------------------------------------------------------------------------


def test_a_planted_memoriser_is_refused_the_domain_and_labelled() -> None:
    evidence = decide(_measured(MEMORISED), RULES)
    assert evidence.verdict is Verdict.REFUSED
    assert evidence.memoriser and evidence.ood_delta == 0.0
    assert _says(evidence, "Memoriser")
    generalises = decide(_measured(), RULES)  # negative control: only the deeper tasks differ
    assert generalises.verdict is Verdict.PROVEN and generalises.adapter_rate == evidence.adapter_rate


def test_a_memoriser_may_serve_its_own_task() -> None:
    evidence = decide(_measured(MEMORISED, to_tier="task"), RULES)
    assert evidence.verdict is Verdict.PROVEN and evidence.memoriser
    assert _says(evidence, "Memoriser")


def test_a_memoriser_is_found_out_behind_a_champion_that_memorised_the_same() -> None:
    """Against the champion it gains little; against the base model it is plain what it does."""
    champion = {"in": "p" * 60 + "f" * 40, "deeper": "f" * 60}
    measured = _measured(MEMORISED, champion, incumbent="old", base=planned(BASE_FAILS))
    assert decide(measured, RULES).memoriser


def test_a_planted_regressor_is_refused() -> None:
    """It learned its API and forgot a third of everything else."""
    anchor = _anchor("p" * 25 + "f" * 15, "p" * 39 + "f")
    evidence = decide(_measured(anchors=(_anchor("pf" * 20, "pf" * 20, "other"), anchor)), RULES)
    assert evidence.verdict is Verdict.REFUSED
    assert [result.kept for result in evidence.anchors] == [True, False]
    assert evidence.reasons[0].startswith("general: 25/40 against 39/40")


def test_an_adapter_that_loses_to_the_incumbent_is_refused() -> None:
    evidence = decide(_measured({"in": "f" * 100, "deeper": "f" * 60}, LEARNED), RULES)
    assert evidence.verdict is Verdict.REFUSED
    assert _says(evidence, "It is worse", "92 losses")


def test_a_planted_contaminated_suite_is_refused() -> None:
    """The adapter learned from one of the gate's solutions, renamed."""
    gate = [Document(f"in-{i}", f"Task {i}.", f"def solve(xs):\n    return call{i}(xs, {i})") for i in range(100)]
    stolen = [Document("row", "Something else.", "def g(a):\n    return call7(a, 3)")]
    honest = [Document("row", "Something else.", "def g(a):\n    return other(a, 3)")]
    evidence = decide(_measured(contamination=contamination(find_overlaps(gate, stolen))), RULES)
    assert evidence.verdict is Verdict.REFUSED
    assert evidence.contamination.examples == ("in-7 and row share the same code",)
    assert decide(_measured(contamination=contamination(find_overlaps(gate, honest))), RULES).verdict is Verdict.PROVEN


def test_an_adapter_of_unknown_origin_is_not_proven() -> None:
    evidence = decide(_measured(contamination=contamination(None)), RULES)
    assert evidence.verdict is Verdict.NOT_PROVEN
    assert _says(evidence, "not known what it learned from")


# --- learned from what does not decide -----------------------------------------------------------------------


def _seen(asked: int, group: str, *numbers: int) -> Seen:
    report = Contamination(checked=True, rows=228, exact=len(numbers), near=0)
    return Seen(asked, frozenset(f"{group}-{number}" for number in numbers), report)


def _outside(adapter: str, seen: Seen | None, **changes: object) -> Measured:
    """Its gain is real; out of distribution the adapter is measured against a base model that passes nothing."""
    inside = {"in": "p" * 92 + "f" * 8}
    ood = Versus("runekit, out of distribution", _of_adapter({"deeper": adapter}, templates=20),
                 planned({"deeper": "f" * len(adapter)}, templates=20), seen)  # fmt: skip
    return _measured(inside, {"in": "f" * 100}, ood=ood, **changes)


def test_an_adapter_that_learned_the_tasks_out_of_distribution_is_refused_the_domain() -> None:
    """It passes half of them, all learned. Negative controls: nobody looked; it passes so many and learned none."""
    passes = "p" * 30 + "f" * 30
    evidence = decide(_outside(passes, _seen(60, "deeper", *range(30))), RULES)
    assert evidence.verdict is Verdict.REFUSED
    assert evidence.ood_delta == 0.0 and evidence.memoriser, "what it does on the others is what it can"
    assert _says(evidence, "it learned from 30 of 60 tasks", "do not show whether it generalises; 10% may be")
    assert [(part.part, part.exact) for part in evidence.contaminations] == [("runekit, out of distribution", 30)]
    assert Evidence.model_validate_json(evidence.model_dump_json()) == evidence
    for seen in (None, _seen(60, "deeper")):
        honest = decide(_outside(passes, seen), RULES)
        assert honest.verdict is Verdict.PROVEN and honest.ood_delta == 0.5


def test_what_it_learned_out_of_distribution_is_refused_even_if_it_passes_the_others() -> None:
    learned = _seen(60, "deeper", *range(7))
    evidence = decide(_outside("p" * 60, learned), RULES)
    assert evidence.verdict is Verdict.REFUSED and not evidence.memoriser
    task = decide(_outside("p" * 60, learned, to_tier="task"), RULES)
    assert task.verdict is Verdict.PROVEN and _says(task, "it learned from 7 of 60 tasks")


def test_all_tasks_out_of_distribution_learned_leaves_nothing_to_generalise_on() -> None:
    evidence = decide(_outside("p" * 60, _seen(60, "deeper", *range(60))), RULES)
    assert (evidence.verdict, evidence.ood_delta) == (Verdict.REFUSED, None)
    assert _says(evidence, "runekit, out of distribution: no task is left") and not _says(evidence, "not measured out")


def test_a_few_tasks_that_coincide_are_left_out_and_the_others_decide() -> None:
    """Six of 60, and it passes those alone: a memoriser, which without a look would pass as a generaliser."""
    passes = "p" * 6 + "f" * 54
    evidence = decide(_outside(passes, _seen(60, "deeper", *range(6))), RULES)
    assert evidence.verdict is Verdict.REFUSED and evidence.memoriser and evidence.ood_delta == 0.0
    assert _says(evidence, "it learned from 6 of 60 tasks, which are left out")
    fooled = decide(_outside(passes, None), RULES)  # negative control
    assert fooled.verdict is Verdict.PROVEN and not fooled.memoriser
    assert decide(_outside("f" * 6 + "p" * 54, _seen(60, "deeper", *range(6))), RULES).verdict is Verdict.PROVEN


def test_an_anchor_that_was_learned_is_no_anchor() -> None:
    """Twenty of 40 learned, and all kept. Negative controls: nobody looked; none was learned."""
    anchor = _anchor("p" * 40, "p" * 40)
    learned = replace(anchor, seen=_seen(40, "anchor", *range(20)))
    for tier in ("task", "domain"):
        evidence = decide(_measured(anchors=(learned,), to_tier=tier), RULES)
        assert evidence.verdict is Verdict.NOT_PROVEN
        assert evidence.reasons[0] == "general is no anchor for it: it learned from 20 of 40 tasks; name another one."
        assert (evidence.anchors[0].usable, evidence.anchors[0].kept) == (False, False)
    lost = replace(_anchor("p" * 36 + "f" * 4, "p" * 40), seen=_seen(40, "anchor", *range(20)))
    assert decide(_measured(anchors=(lost,)), RULES).verdict is Verdict.REFUSED, "four of the other 20 are a loss"
    for seen in (None, _seen(40, "anchor")):
        evidence = decide(_measured(anchors=(replace(anchor, seen=seen),)), RULES)
        assert evidence.verdict is Verdict.PROVEN and evidence.anchors[0].usable


def test_a_loss_is_not_made_up_for_by_anchors_that_were_learned() -> None:
    """It lost four that it knew, and learned four that nobody knew: without a look that is no loss at all."""
    anchor = _anchor("p" * 4 + "f" * 4 + "p" * 32, "f" * 4 + "p" * 36)
    assert decide(_measured(anchors=(anchor,)), RULES).anchors[0].adapter.passed == 36  # negative control
    assert decide(_measured(anchors=(anchor,)), RULES).verdict is not Verdict.REFUSED
    evidence = decide(_measured(anchors=(replace(anchor, seen=_seen(40, "anchor", 0, 1, 2, 3)),)), RULES)
    assert evidence.verdict is Verdict.REFUSED
    assert evidence.reasons[0] == (
        "general: 32/36 against 36/36 (it learned from 4 of 40 tasks, which are left out): it loses more than 5%."
    )


def test_evidence_of_a_program_that_did_not_look_is_read() -> None:
    stored = decide(_measured(), RULES).model_dump(mode="json")
    assert stored.pop("contaminations") == [] and all(anchor.pop("usable") for anchor in stored["anchors"])
    assert Evidence.model_validate(stored) == decide(_measured(), RULES)


# --- is there a gain -----------------------------------------------------------------------------------------


def test_zero_against_zero_is_not_proven() -> None:
    """A83: nothing passes on either side."""
    evidence = decide(_measured(BASE_FAILS, BASE_FAILS), RULES)
    assert evidence.verdict is Verdict.NOT_PROVEN
    assert (evidence.e_value, evidence.wins, evidence.losses) == (1.0, 0, 0)


def _few(wins: int, losses: int) -> Measured:
    ours = {"in": "p" * wins + "f" * losses + "p" * 50, "deeper": "p" * 60}
    theirs = {"in": "f" * wins + "p" * losses + "p" * 50, "deeper": "f" * 60}
    return _measured(ours, theirs)


def test_seven_straight_wins_are_enough_and_six_are_not() -> None:
    assert decide(_few(7, 0), RULES).verdict is Verdict.PROVEN
    assert decide(_few(6, 0), RULES).verdict is Verdict.NOT_PROVEN


def test_candidates_of_one_round_share_the_error_budget() -> None:
    shared = decide(replace(_few(7, 0), candidates=2), RULES)
    assert shared.threshold == 40
    assert shared.verdict is Verdict.NOT_PROVEN
    assert decide(replace(_few(8, 0), candidates=2), RULES).verdict is Verdict.PROVEN


def test_a_gain_on_few_templates_is_not_proven() -> None:
    """All wins come from one template of ten: the e-value alone, which takes tasks as independent, says yes."""
    wins = ["p" if i % 10 == 0 else "f" for i in range(100)]
    evidence = decide(_measured({"in": "".join(wins), "deeper": "p" * 60}, BASE_FAILS), RULES)
    assert evidence.e_value > 20
    assert evidence.verdict is Verdict.NOT_PROVEN
    assert _says(evidence, "few templates")


def test_paraphrases_and_deeper_tasks_do_not_count_as_gain_in_distribution() -> None:
    ours = {"in": "f" * 100, "paraphrase": "p" * 60, "deeper": "p" * 60}
    theirs = {"in": "f" * 100, "paraphrase": "f" * 60, "deeper": "f" * 60}
    evidence = decide(_measured(ours, theirs), RULES)
    assert (evidence.tasks, evidence.wins) == (100, 0)


def test_a_suite_without_named_groups_decides_with_all_its_tasks() -> None:
    ood = replace(_anchor("p" * 20 + "f" * 20, "f" * 40, "ood"))
    measured = _measured({"anchor": "p" * 40}, {"anchor": "f" * 40}, ood=ood)
    evidence = decide(measured, RULES)
    assert (evidence.tasks, evidence.ood_delta) == (40, pytest.approx(0.5))
    assert evidence.verdict is Verdict.PROVEN


# --- what else is asked for ----------------------------------------------------------------------------------


@pytest.mark.parametrize("tier", ["domain", "project"])
def test_above_the_task_generalisation_and_anchors_must_be_measured(tier: str) -> None:
    evidence = decide(_measured({"in": "p" * 50}, {"in": "f" * 50}, anchors=(), to_tier=tier), RULES)
    assert evidence.verdict is Verdict.NOT_PROVEN
    assert evidence.ood_delta is None
    assert _says(evidence, "not measured out of distribution") and _says(evidence, "no anchor")
    task = _measured({"in": "p" * 50}, {"in": "f" * 50}, anchors=(), to_tier="task")
    assert decide(task, RULES).verdict is Verdict.PROVEN


def test_without_the_base_model_nothing_is_said_about_generalising() -> None:
    champion = {"in": "f" * 100, "deeper": "f" * 60}
    assert decide(_measured(LEARNED, champion, incumbent="old"), RULES).ood_delta is None
    assert decide(_measured(LEARNED, champion, incumbent="old", base=planned(BASE_FAILS)), RULES).ood_delta == 0.5


def test_worse_than_the_base_model_out_of_distribution_is_refused_even_for_the_task() -> None:
    ours = {"in": "p" * 100, "deeper": "f" * 60}
    theirs = {"in": "f" * 100, "deeper": "p" * 30 + "f" * 30}
    evidence = decide(_measured(ours, theirs, to_tier="task"), RULES)
    assert evidence.verdict is Verdict.REFUSED
    assert _says(evidence, "worse than the base model")


def test_too_few_templates_out_of_distribution_label_nobody() -> None:
    few = {"in": "p" * 100, "deeper": "f" * 4}
    evidence = decide(_measured(few, {"in": "f" * 100, "deeper": "f" * 4}), RULES)
    assert (evidence.verdict, evidence.memoriser) == (Verdict.NOT_PROVEN, False)


def test_a_loss_that_cannot_be_ruled_out_is_not_proven() -> None:
    """Two lost and one won of 40: 2.5 points down, but the interval reaches below minus five."""
    anchor = _anchor("f" * 2 + "p" * 38, "p" * 2 + "f" + "p" * 37)
    evidence = decide(_measured(anchors=(anchor,)), RULES)
    assert not evidence.anchors[0].kept
    assert evidence.verdict is Verdict.NOT_PROVEN


def test_minimum_evaluations() -> None:
    """A63."""
    rules = replace(RULES, min_evaluations=3)
    assert decide(_measured(evaluations=2), rules).verdict is Verdict.NOT_PROVEN
    assert decide(_measured(evaluations=3), rules).verdict is Verdict.PROVEN


# --- was it measured at all ----------------------------------------------------------------------------------


@pytest.mark.parametrize("split", [Split.TRAIN, Split.SELECTION])
def test_what_was_learned_from_or_chosen_by_may_not_decide(split: Split) -> None:
    measured = _measured(candidate=_of_adapter(LEARNED, split=split), reference=planned(BASE_FAILS, split=split))
    assert decide(measured, RULES).verdict is Verdict.REFUSED


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"candidate": _of_adapter(LEARNED, digest_proven=False)}, "did not prove that it served this adapter"),
        ({"candidate": planned(LEARNED, adapter="a1", adapter_digest="b" * 64)}, "other weights"),
        ({"reference": planned(BASE_FAILS, digest_proven=False)}, "did not prove that it served base"),
        ({"reference": planned(BASE_FAILS, adapter_digest="b" * 64)}, "made with an adapter"),
        (
            {"anchors": (Versus("general", planned({"anchor": "p" * 40}), planned({"anchor": "p" * 40})),)},
            "other weights",
        ),
        (
            {
                "anchors": (
                    replace(
                        _anchor("p" * 40, "p" * 40), reference=planned(ALL_PASS, suite="general", digest_proven=False)
                    ),
                )
            },
            "On general the server did not prove that it served the base model",
        ),
        ({"base": planned(BASE_FAILS, digest_proven=False)}, "did not prove that it served the base model"),
    ],
)
def test_a_measurement_of_something_else_is_refused(changes: dict[str, object], words: str) -> None:
    evidence = decide(_measured(**changes), RULES)
    assert evidence.verdict is Verdict.REFUSED
    assert _says(evidence, words)


def test_answers_that_break_the_judge_do_not_make_a_rate_better() -> None:
    evidence = decide(_measured({"in": "p" * 40 + "i" * 60, "deeper": "p" * 60}), RULES)
    assert (evidence.tasks, evidence.adapter_rate.value) == (40, 1.0)
    assert evidence.verdict is Verdict.NOT_PROVEN
    assert _says(evidence, "60 of 160 tasks of runekit have no outcome")


@pytest.mark.parametrize("change", ["anchors", "ood"])
def test_what_is_left_of_an_anchor_or_of_ood_tasks_is_not_all_of_it(change: str) -> None:
    """12 of 40 that agree would say that the anchor is kept."""
    broken = _anchor("p" * 12 + "i" * 28, "p" * 40)
    evidence = decide(_measured(**{change: (broken,) if change == "anchors" else broken}), RULES)
    assert evidence.verdict is Verdict.NOT_PROVEN
    assert _says(evidence, "28 of 40 tasks of general have no outcome")


def test_no_outcome_at_all_is_not_proven() -> None:
    evidence = decide(_measured({"in": "i" * 30, "deeper": "i" * 10}), RULES)
    assert (evidence.tasks, evidence.verdict, evidence.e_value) == (0, Verdict.NOT_PROVEN, 1.0)


def test_reports_of_other_tasks_are_an_error_and_no_verdict() -> None:
    with pytest.raises(ValueError, match="suite_digest"):
        decide(_measured(reference=planned(BASE_FAILS, suite_digest="1" * 64)), RULES)


def test_the_worst_reason_stands_first() -> None:
    evidence = decide(_measured(MEMORISED, anchors=(), to_tier="project"), RULES)
    assert evidence.reasons[0].startswith("Memoriser")
    assert "no anchor" in evidence.reasons[1]


# --- the general text, looks, the noise floor ----------------------------------------------------------------


def _drift(before: float, after: float) -> TextDrift:
    return TextDrift(
        text_digest="0" * 64,
        base_digest="1" * 64,
        tokens=2000,
        base_perplexity=before,
        adapter_perplexity=after,
        kl=0.1,
    )


def test_a_planted_regressor_on_general_text_is_refused_for_that_reason() -> None:
    """It wins its gate and keeps its anchors, and ordinary text surprises it: 3.1 % more; 2.9 % more is kept."""
    evidence = decide(_measured(text=_drift(20.0, 20.62)), RULES)
    assert evidence.verdict is Verdict.REFUSED
    assert evidence.reasons[0] == (
        "Perplexity of the general text: 20.62 against 20 of the base model (+3.1%), KL drift 0.1 nats per token: "
        "it may rise by 3.0%."
    )
    assert evidence.text is not None and evidence.text.rise == pytest.approx(0.031) and evidence.text_unmeasured == ""
    kept = decide(_measured(text=_drift(20.0, 20.58)), RULES)  # negative control: only the perplexity differs
    assert kept.verdict is Verdict.PROVEN and _says(kept, "Perplexity", "+2.9%", "kept")
    assert (
        decide(_measured(text=_drift(20.0, 20.62)), replace(RULES, max_perplexity_rise=0.04)).verdict is Verdict.PROVEN
    )
    assert decide(_measured(text=_drift(20.0, 15.0)), RULES).verdict is Verdict.PROVEN, "a fall is no loss"


def test_a_candidate_that_gives_no_numbers_on_the_text_is_refused_in_few_words() -> None:
    evidence = decide(_measured(text=_drift(20.0, WORST)), RULES)
    assert evidence.verdict is Verdict.REFUSED and _says(evidence, "Perplexity", "times")
    assert len(evidence.reasons[0]) < 200
    assert Evidence.model_validate_json(evidence.model_dump_json()) == evidence


def test_below_its_tier_a_rise_is_said_and_refuses_nothing() -> None:
    risen = _measured(text=_drift(20.0, 60.0), to_tier="task")
    evidence = decide(risen, RULES)
    assert evidence.verdict is Verdict.PROVEN and _says(evidence, "+200.0%", "too much for the tier domain")
    assert decide(risen, replace(RULES, perplexity_tier="task")).verdict is Verdict.REFUSED
    for tier in ("domain", "project"):
        assert decide(replace(risen, to_tier=tier), RULES).verdict is Verdict.REFUSED
    assert decide(replace(risen, to_tier="domain"), replace(RULES, perplexity_tier="project")).verdict is Verdict.PROVEN


def test_a_perplexity_that_was_not_measured_is_said_and_does_not_block() -> None:
    evidence = decide(_measured(text=None, text_unmeasured="900 MiB are free."), RULES)
    assert evidence.verdict is Verdict.PROVEN
    assert (evidence.text, evidence.text_unmeasured) == (None, "900 MiB are free.")
    assert _says(evidence, "Perplexity", "not measured: 900 MiB are free.") and not _says(
        evidence, "Perplexity", "kept"
    )


def test_earlier_looks_raise_what_must_be_reached() -> None:
    """Seven straight wins are E = 31.875: enough at the first look, too little at the second, of which 40 is asked."""
    first, second = decide(_few(7, 0), RULES), decide(replace(_few(7, 0), earlier_looks=1), RULES)
    assert (first.verdict, first.threshold, first.earlier_looks) == (Verdict.PROVEN, 20, 0)
    assert first.e_value == pytest.approx(255 / 8)
    assert (second.verdict, second.threshold, second.earlier_looks) == (Verdict.NOT_PROVEN, 40, 1)
    assert _says(second, "looked at once before") and not _says(first, "looked at")
    assert decide(replace(_few(8, 0), earlier_looks=1), RULES).verdict is Verdict.PROVEN, "E = 511/9 = 56.8"
    assert decide(replace(_few(8, 0), earlier_looks=2, candidates=3), RULES).threshold == 20 * 3 * 3


def test_the_noise_floor_is_the_incumbent_against_itself() -> None:
    """Of 100 tasks that decide it does 3, 0 and 6 otherwise under three other seeds: 9 of 300."""
    again = tuple(
        planned({"in": "p" * n + "f" * (100 - n), "deeper": "p" * 60}, seed=seed, suite_digest=f"{seed}" * 64,
                sampling={"temperature": 0.0, "seed": seed})
        for seed, n in ((7, 3), (8, 0), (9, 6))
    )  # fmt: skip
    evidence = decide(_measured(again=again), RULES)
    noise = evidence.noise
    assert noise is not None and (noise.seeds, noise.compared, noise.disagreed) == ((7, 8, 9), 300, 9)
    assert noise.rate == pytest.approx(0.03) and noise.low < 0.03 < noise.high
    assert evidence.verdict is Verdict.PROVEN and {report.key for report in again} <= set(evidence.reports)
    assert decide(_measured(), RULES).noise is None


def test_a_noise_floor_of_somebody_else_is_no_noise_floor() -> None:
    with pytest.raises(ValueError, match="not the same adapter"):
        noise_floor(planned(BASE_FAILS), [_of_adapter(BASE_FAILS, seed=4)])
    with pytest.raises(ValueError, match="cannot be compared"):
        noise_floor(planned(BASE_FAILS), [planned(BASE_FAILS, seed=4, split=Split.SELECTION)])
