"""A60, A61, A62, A64: what a sweep does to a population, in which order, and what it says of it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest
from support.evolution_house import SUITE, TASK_TYPE, World, open_world, skilled, tell_nobody

from engine.api_learning import Split
from engine.errors import InputError, RuneError
from engine.evolution.controls import Family
from engine.evolution.measure import Steps
from engine.evolution.merging.spec import Learning, MergeRefusedError
from engine.evolution.records import Outcome
from engine.evolution.sweep import sweep
from registry.models import Tier

GOOD = (0.9, 0.8, 0.7, 0.65, 0.6)


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with open_world(tmp_path / "home") as world:
        yield world


async def test_a60_four_adapters_are_not_merged_and_five_are(world: World) -> None:
    await world.population(*GOOD[:4])
    before = (await world.sweep("first")).task_types[TASK_TYPE]
    assert (before.merged, before.active, before.child) == (0, 4, None)
    assert any("4 active adapters, 5 are needed" in reason for reason in before.reasons)
    await world.adapter("a4", GOOD[4])
    after = (await world.sweep("second")).task_types[TASK_TYPE]
    assert (after.merged, after.active) == (1, 6)
    assert world.nursery.merged == [("a0", "a1", "a2")], "the three fittest, and nobody else"


async def test_a60_prune_is_strictly_below_and_counts_add_up(world: World) -> None:
    """Fitness is 0.7 of the pass rate plus 0.3 of a full diversity: only what is alike can fall below 0.3."""
    await world.population(0.9, 0.0, 0.5)
    twin = await world.adapter("twin", 0.0)
    world.nursery.alike = {frozenset({"a1", "twin"}): 1.0}
    summary = (await world.sweep()).task_types[TASK_TYPE]
    assert (await world.registry.get("a2")).fitness_score == pytest.approx(0.7 * 0.5 + 0.3)
    assert (await world.registry.get("a1")).is_archived and (await world.registry.get(twin.id)).is_archived
    assert (summary.pruned, summary.merged, summary.active) == (2, 0, 2)
    assert await world.in_use() == ["a0", "a2"]


async def test_a60_fitness_of_just_the_threshold_is_kept(world: World) -> None:
    """0.0 passes and a diversity of 1 come to 0.3 exactly, which is not below 0.3."""
    await world.population(0.9, 0.0)
    await world.sweep()
    assert (await world.registry.get("a1")).fitness_score == pytest.approx(0.3)
    assert await world.in_use() == ["a0", "a1"]


async def test_a64_diversity_is_measured(world: World) -> None:
    await world.population(0.8, 0.8)
    world.nursery.alike = {frozenset({"a0", "a1"}): 0.75}
    await world.sweep()
    assert (await world.registry.get("a0")).fitness_score == pytest.approx(0.7 * 0.8 + 0.3 * 0.25)


async def test_a_proven_child_becomes_champion_and_is_gated_with_its_evidence(world: World) -> None:
    await world.population(*GOOD)
    summary = await world.sweep()
    found = summary.task_types[TASK_TYPE]
    assert found.promoted and found.child is not None, found.reasons
    child = await world.registry.get(found.child)
    assert (child.tier, child.generation, summary.generation) == (Tier.DOMAIN, 1, 1)
    assert set(child.parent_ids) == {"a0", "a1", "a2"}
    champions = await world.registry.get_champions(TASK_TYPE)
    assert (champions.champion, champions.challenger) == (child.id, None)
    (promotion,) = await world.registry.get_promotions(child.id)
    assert promotion.evidence is not None and promotion.evidence["verdict"] == "proven"
    (merge,) = await world.records.merges(TASK_TYPE)
    assert merge.outcome is Outcome.PROMOTED
    assert merge.operator["method"] == "ties" and merge.operator["seed"] == 0 and merge.generation == 1


async def test_a61_a_child_has_no_fitness_until_its_gate_was_looked_at(world: World) -> None:
    """Whoever picks adapters goes by fitness: while the child is measured, it has none, and no alias names it."""
    seen: list[tuple[bool, bool]] = []

    async def look() -> None:
        for merge in await world.records.merges(TASK_TYPE):
            child = await world.registry.get(merge.child_id)
            named = child.id in (await world.registry.get_aliases()).values()
            seen.append((child.fitness_score is None, named))

    world.exam.checkpoint = look
    await world.population(*GOOD)
    found = (await world.sweep()).task_types[TASK_TYPE]
    assert found.promoted
    asked = [request for request in world.exam.asked if request.adapter == found.child]
    assert {request.split for request in asked} == {Split.SELECTION, Split.GATE}
    assert len(seen) > 5 and set(seen) == {(True, False)}


async def test_the_gates_inputs_follow_from_the_childs_digest(world: World) -> None:
    """Selection is measured on the sweep's seed; the gate on one that nobody can have known before the child was."""
    await world.population(*GOOD)
    await world.sweep(seed=5)
    seeds = {split: {one.seed for one in world.exam.asked if one.split is split} for split in Split}
    assert seeds[Split.SELECTION] == {5} and 5 not in seeds[Split.GATE] and len(seeds[Split.GATE]) == 1
    assert not seeds[Split.AUDIT] and not seeds[Split.TRAIN]


@pytest.mark.parametrize("control", ["base", "a0", "control-random", "control-longer"])
async def test_a_control_that_does_as_well_keeps_the_child_from_promotion(world: World, control: str) -> None:
    """The negative control of every control: with it as good as the child, nothing is promoted, and it says why."""
    world.exam.skills["child"] = skilled(0.9)
    await world.population(0.85, 0.8, 0.7, 0.65, 0.6)
    world.exam.skills[control] = skilled(0.9)
    found = (await world.sweep()).task_types[TASK_TYPE]
    assert not found.promoted and found.merged == 1
    assert any("merging has shown nothing" in reason for reason in found.reasons), found.reasons
    assert (await world.registry.get_champions(TASK_TYPE)).champion is None
    (merge,) = await world.records.merges(TASK_TYPE)
    assert merge.outcome is Outcome.KEPT
    gates = [one for one in world.exam.asked if one.split is Split.GATE]
    assert not gates, "the gate is not looked at for nothing"


async def test_controls_are_measured_and_are_in_no_population(world: World) -> None:
    await world.population(*GOOD)
    found = (await world.sweep()).task_types[TASK_TYPE]
    names = [control.name for control in found.controls]
    assert names == ["parent a0", "parent a1", "parent a2", "base", "random of equal norm", "a0 trained on"]
    assert [control.rate.passed for control in found.controls] == [18, 16, 14, 0, 0, 4]
    assert await world.in_use() == sorted([*(f"a{number}" for number in range(5)), str(found.child)])
    controls = await world.records.controls()
    assert len(controls) == 2 and all(control.ended for control in controls)
    for control in controls:
        adapter = await world.registry.get(control.adapter_id)
        assert adapter.is_archived and adapter.fitness_score is None


async def test_a_control_is_measured_anew_for_other_tasks_and_only_for_those(world: World) -> None:
    await world.population(*GOOD)
    found = (await world.sweep(seed=5)).task_types[TASK_TYPE]
    child = await world.registry.get(str(found.child))
    parents = tuple([await world.registry.get(name) for name in ("a0", "a1", "a2")])
    for seed, new in ((5, 1), (6, 3), (6, 1)):  # the base is asked each time; the evaluator knows its answers
        known = len(world.exam.asked)
        family = Family("evolve-2", SUITE, seed, child, parents)
        again = await world.parts.controls.made(family, Steps(tell_nobody))
        assert [one.rate for one in again] == [one.rate for one in found.controls[-3:]]
        assert [one.seed for one in world.exam.asked[known:]] == [seed] * new


async def test_without_a_trained_parent_that_control_says_so(world: World) -> None:
    world.school.trained = False
    await world.population(*GOOD)
    found = (await world.sweep()).task_types[TASK_TYPE]
    assert found.controls[-1].note == "no parent was trained in this home" and found.controls[-1].rate.total == 0


async def test_without_controls_only_parents_are_compared(world: World) -> None:
    await world.population(*GOOD)
    found = (await world.sweep(controls=False)).task_types[TASK_TYPE]
    assert [control.name for control in found.controls] == ["parent a0", "parent a1", "parent a2"]
    assert not await world.records.controls()


async def test_a_memorising_child_is_kept_and_not_promoted(world: World) -> None:
    world.exam.skills["child"] = skilled(1.0, deeper=0.0)
    await world.population(*GOOD)
    found = (await world.sweep()).task_types[TASK_TYPE]
    assert not found.promoted and any("Memoriser" in reason for reason in found.reasons)


async def test_an_unproven_child_is_challenger(world: World) -> None:
    """Its ancestors were imported: what they learned from is unknown, so nothing is proven, and nothing refuted."""
    for number, skill in enumerate(GOOD):
        await world.adapter(f"a{number}", skill, trained=False)
    found = (await world.sweep()).task_types[TASK_TYPE]
    champions = await world.registry.get_champions(TASK_TYPE)
    assert not found.promoted and champions.champion is None and champions.challenger == found.child


async def test_a61_the_same_parents_are_never_merged_twice(world: World) -> None:
    world.exam.skills["child"] = skilled(0.1)
    await world.population(*GOOD)
    first = (await world.sweep("first")).task_types[TASK_TYPE]
    again = (await world.sweep("second")).task_types[TASK_TYPE]
    assert (first.merged, again.merged, len(world.nursery.merged)) == (1, 0, 1)
    assert any("were merged before" in reason for reason in again.reasons)


async def test_a_sweep_that_is_run_again_does_and_says_the_same(world: World) -> None:
    await world.population(*GOOD)
    first = await world.sweep()
    asked = len(world.exam.asked)
    again = await world.sweep()
    assert again.task_types == first.task_types and len(world.exam.asked) == asked


async def test_a62_parents_that_cannot_be_merged_are_a_reason_and_no_error(world: World) -> None:
    world.nursery.refusal = MergeRefusedError("a0 is for one model and a1 for another.")
    await world.population(*GOOD)
    found = (await world.sweep()).task_types[TASK_TYPE]
    assert (found.merged, found.active, found.child) == (0, 5, None)
    assert any("were not merged: a0 is for one model" in reason for reason in found.reasons)


async def test_wanted_parents_are_merged_however_many_there_are(world: World) -> None:
    await world.population(0.9, 0.8, 0.7)
    found = (await world.sweep(adapter_ids=("a1", "a2"))).task_types[TASK_TYPE]
    assert found.merged == 1 and world.nursery.merged == [("a1", "a2")]


async def test_wanted_parents_of_two_task_types_are_refused(world: World) -> None:
    await world.population(0.9)
    with pytest.raises(InputError, match="name those of one"):
        await world.sweep(adapter_ids=("a0",), task_type="other")


async def test_without_a_suite_nothing_is_measured_or_merged(world: World) -> None:
    await world.population(*GOOD)
    found = (await world.sweep(suite=None)).task_types[TASK_TYPE]
    assert (found.merged, found.pruned, found.active) == (0, 0, 5) and not world.exam.asked
    assert any("No suite decides" in reason for reason in found.reasons)


async def test_a_suite_without_that_split_is_a_reason(world: World) -> None:
    await world.population(*GOOD)
    found = (await world.sweep(suite="general")).task_types[TASK_TYPE]
    assert found.merged == 0 and any("cannot decide" in reason for reason in found.reasons)


async def test_an_empty_registry_has_nothing_to_sweep(world: World) -> None:
    assert (await world.sweep()).task_types == {}


async def test_what_fails_for_everybody_fails_the_sweep(world: World) -> None:
    async def gone() -> None:
        raise RuneError("the model server is gone")

    await world.population(*GOOD)
    world.exam.checkpoint = gone
    with pytest.raises(RuneError, match="is gone"):
        await world.sweep()


async def test_every_step_is_an_event_and_is_undone_by_history(world: World) -> None:
    await world.population(*GOOD)
    found = (await world.sweep()).task_types[TASK_TYPE]
    assert found.child is not None
    events = await world.events()
    steps = [action for subject, action in events if subject == f"adapter/{found.child}"]
    assert steps == ["published", "evaluated", "promoted"]
    assert f"evolution/{found.child}" in {subject for subject, _ in events}
    await world.registry.undo()  # the promotion, with the alias that it moved
    child = await world.registry.get(found.child)
    assert child.tier is Tier.TASK and (await world.registry.get_champions(TASK_TYPE)).champion is None
    await world.registry.undo()
    assert (await world.registry.get(found.child)).fitness_score is None, "and its score"


async def test_a_sweep_by_cat_learned_learns_its_scalars_from_the_suite(tmp_path: Path) -> None:
    """What it learns from is prepared by the request that is merged by; other methods are given nothing."""
    async with open_world(tmp_path / "learned", "evolution.method=cat-learned") as world:
        await world.population(*GOOD)
        found = (await world.sweep()).task_types[TASK_TYPE]
        assert found.merged == 1, found.reasons
        (learning,) = world.nursery.learned_from
        assert learning is not None and [one.group for one in learning.examples] == ["lists"]
    async with open_world(tmp_path / "ties") as world:
        await world.population(*GOOD)
        await world.sweep()
        assert world.nursery.learned_from == [None]


async def test_a_sweep_whose_suite_teaches_nothing_says_so_and_merges_nothing(tmp_path: Path) -> None:
    async def nothing(*_: object) -> Learning:
        raise InputError("lists has no tasks with a reference solution to learn scalars from; name a --suite.")

    async with open_world(tmp_path / "home", "evolution.method=cat-learned") as world:
        await world.population(*GOOD)
        parts = replace(world.parts, prepare=nothing)
        found = (await sweep(parts, "evolve-1", world.request(), tell_nobody)).task_types[TASK_TYPE]
        assert found.merged == 0 and any("no tasks with a reference solution" in reason for reason in found.reasons)
