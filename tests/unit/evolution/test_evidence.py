"""What evidence measures, when it stops, and that it refuses what must be refused (A63, A82)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from support.evolution_house import SUITE, TASK_TYPE, World, open_world, skilled, tell_nobody

from engine.api_evolution import Evidence, EvidenceRequest, Verdict
from engine.api_learning import REHEARSAL, Split
from engine.errors import InputError, NotFoundError
from engine.evolution.evidence import Settled, fresh_seed
from registry.models import NewAdapter, Source
from registry.samples import write_sample


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with open_world(tmp_path / "home") as world:
        yield world


async def gather(world: World, adapter: str = "a", **fields: object) -> Evidence:
    request = EvidenceRequest.model_validate({"adapter": adapter, "suite": SUITE, **fields})
    return await world.evidences.gather(request, tell_nobody)


async def test_a_real_gain_is_proven_from_a_part_of_the_tasks(world: World) -> None:
    """The e-value may be looked at after every batch: 25 of 60 tasks are enough here, and no more are run."""
    await world.adapter("a", 0.9)
    found = await gather(world)
    assert found.verdict is Verdict.PROVEN, found.reasons
    assert (found.tasks, found.wins, found.losses, found.incumbent, found.to_tier) == (25, 25, 0, "base", "domain")
    asked = [one for one in world.exam.asked if one.suite == SUITE and one.groups == ("in",)]
    assert {one.limit for one in asked} == {25} and {one.split for one in asked} == {Split.GATE}


async def test_no_gain_takes_every_task_and_is_not_proven(world: World) -> None:
    world.exam.skills["base"] = skilled(0.5)
    await world.adapter("a", 0.5)
    found = await gather(world)
    assert (found.verdict, found.tasks, found.wins) == (Verdict.NOT_PROVEN, 60, 0)


async def test_a_planted_regressor_is_refused(world: World) -> None:
    world.exam.skills["base"] = skilled(0.9)
    await world.adapter("a", 0.1)
    assert (await gather(world)).verdict is Verdict.REFUSED


async def test_a_planted_regressor_on_an_anchor_is_refused(world: World) -> None:
    world.exam.skills["base"] = {"anchor": 0.9}
    await world.adapter("a", 0.9)
    found = await gather(world)
    assert found.verdict is Verdict.REFUSED and not found.anchors[0].kept


async def test_a_planted_memoriser_is_refused_promotion_to_domain(world: World) -> None:
    await world.adapter("a", 1.0, deeper=0.0)
    found = await gather(world)
    assert found.memoriser and found.verdict is Verdict.REFUSED
    assert (await gather(world, to_tier="task")).verdict is Verdict.PROVEN, "where it is, it may stay"


async def test_a_planted_contamination_is_refused(world: World) -> None:
    """Two of its training rows ask what two tasks of the gate ask; with other rows the same adapter is proven."""
    gate = [task for task in world.exam.tasks(SUITE, 0, Split.GATE) if task.group == "in"]
    await world.lesson("a", *(task.prompt for task in gate[:2]), *(f"something else {n}" for n in range(8)))
    await world.adapter("a", 0.9, trained=False)
    found = await gather(world)
    assert found.contamination.checked and found.contamination.exact + found.contamination.near >= 2
    assert found.verdict is Verdict.REFUSED


def _prompts(world: World, suite: str, group: str, count: int) -> list[str]:
    return [task.prompt for task in world.exam.tasks(suite, 0, Split.GATE) if task.group == group][:count]


async def _taught(world: World, *prompts: str) -> Evidence:
    """Of an adapter that passes all, and learned from these and from what it was taught."""
    await world.lesson("a", *prompts, *(f"something else {number}" for number in range(8)))
    await world.adapter("a", 1.0, trained=False)
    return await gather(world)


async def test_a_planted_adapter_that_learned_the_deeper_tasks_is_no_generaliser(world: World) -> None:
    """All 30 of them; the deciding tasks are clean. Negative control: `test_a_real_gain_is_proven_...`."""
    found = await _taught(world, *_prompts(world, SUITE, "deeper", 30))
    assert found.contamination.exact + found.contamination.near == 0
    outside, anchor = found.contaminations
    assert (outside.part, outside.exact + outside.near) == (f"{SUITE}, out of distribution", 30)
    assert (anchor.part, anchor.exact + anchor.near, anchor.rows) == ("general", 0, 38)
    assert found.verdict is Verdict.REFUSED and found.ood_delta is None
    assert "it learned from 30 of 30 tasks" in found.reasons[0]


async def test_tasks_out_of_distribution_that_coincide_are_left_out(world: World) -> None:
    found = await _taught(world, *_prompts(world, SUITE, "deeper", 3))
    assert found.verdict is Verdict.PROVEN, found.reasons
    assert any("learned from 3 of 30 tasks, which are left out" in reason for reason in found.reasons)


async def test_a_planted_adapter_that_learned_the_anchors_has_none(world: World) -> None:
    """It keeps all 40. Negative control: of four that it learned, 36 are left, and those are kept."""
    world.exam.skills["base"] = {"anchor": 0.5}
    found = await _taught(world, *_prompts(world, "general", "anchor", 20))
    assert found.verdict is Verdict.NOT_PROVEN and not found.anchors[0].usable
    assert "general is no anchor for it: it learned from 20 of 40 tasks" in found.reasons[0]
    await world.lesson("b", *_prompts(world, "general", "anchor", 4), *(f"something else {n}" for n in range(8)))
    await world.adapter("b", 1.0, trained=False)
    other = await gather(world, "b")
    assert other.verdict is Verdict.PROVEN, other.reasons
    assert other.anchors[0].usable and other.anchors[0].adapter.total == 36


async def test_an_anchor_that_was_rehearsed_is_kept_by_heart_and_one_beside_it_is_not(world: World) -> None:
    """Rehearsed prompts count for what was asked; what the base model said to them is no solution."""
    asked = [f"{REHEARSAL}general/t\n{prompt}" for prompt in _prompts(world, "general", "anchor", 20)]
    found = await _taught(world, *asked)
    assert not found.anchors[0].usable and found.contaminations[1].exact == 0
    await world.lesson("b", *(f"{REHEARSAL}something everyday {n}" for n in range(20)))
    await world.adapter("b", 1.0, trained=False)
    assert (await gather(world, "b")).verdict is Verdict.PROVEN


async def test_what_an_ancestor_learned_from_counts(world: World) -> None:
    gate = [task for task in world.exam.tasks(SUITE, 0, Split.GATE) if task.group == "in"]
    await world.lesson("p0", *(task.prompt for task in gate[:10]))
    for name in ("p0", "p1"):
        await world.adapter(name, 0.5, trained=name == "p1")
    new = NewAdapter("a", TASK_TYPE, Source.EVOLUTION, parent_ids=("p0", "p1"))
    await world.registry.publish(await asyncio.to_thread(write_sample, world.home / "a", 77), new)
    world.exam.skills["a"] = skilled(0.9)
    found = await gather(world)
    assert found.contamination.rows == 20 and found.verdict is Verdict.REFUSED


async def test_an_unknown_ancestor_makes_the_whole_unknown(world: World) -> None:
    await world.adapter("a", 0.9, trained=False)
    found = await gather(world)
    assert not found.contamination.checked and found.verdict is Verdict.NOT_PROVEN


async def test_damaged_training_data_is_unknown_and_not_clean(world: World) -> None:
    await world.adapter("a", 0.9)

    def remove() -> None:
        for file in (world.home / "training").glob("*.jsonl"):
            file.unlink()

    await asyncio.to_thread(remove)
    assert not (await gather(world)).contamination.checked


async def test_the_champion_is_who_must_be_beaten_and_base_is_measured_too(world: World) -> None:
    await world.adapter("champion", 0.4)
    await world.registry.promote("champion")
    await world.adapter("a", 0.9)
    found = await gather(world)
    assert found.incumbent == "champion" and found.losses == 0 and found.verdict is Verdict.PROVEN, found.reasons
    assert {one.adapter for one in world.exam.asked if one.groups == ("in",)} == {"a", "champion", "base"}


async def test_candidates_share_the_error_budget(world: World) -> None:
    await world.adapter("a", 0.9)
    assert (await gather(world, candidates=3)).threshold == pytest.approx(60.0)


async def test_a_limit_bounds_the_gate(world: World) -> None:
    world.exam.skills["base"] = skilled(0.5)
    await world.adapter("a", 0.5)
    assert (await gather(world, limit=30)).tasks == 30


async def test_a_suite_without_a_gate_and_an_unknown_one_are_refused(world: World) -> None:
    await world.adapter("a", 0.9)
    with pytest.raises(NotFoundError):
        await gather(world, suite="nothing")
    with pytest.raises(NotFoundError):
        await gather(world, anchors=("nothing",))


async def test_gathering_changes_nothing_but_the_count_of_looks(world: World) -> None:
    adapter = await world.adapter("a", 0.9)
    before = await world.journal.last_sequence()
    await gather(world)
    (event,) = await world.journal.replay(since=before, limit=10)
    assert event.subject == f"evidence/{adapter.digest[:16]}"
    assert (event.payload["suite"], event.payload["seed"]) == (SUITE, 0)
    assert await world.registry.get("a") == adapter


async def test_another_seed_is_another_look_and_the_same_seed_is_the_same(world: World) -> None:
    """learning.md 4.3: with n earlier looks the e-value must reach 20 (n + 1)."""
    await world.adapter("a", 0.9)
    thresholds = [(await gather(world, seed=seed)).threshold for seed in (0, 1, 0, 2, 1)]
    assert thresholds == [20, 40, 20, 60, 40]
    third = await gather(world, seed=2)
    assert third.earlier_looks == 2 and any("looked at 2 times before" in reason for reason in third.reasons)


async def test_looks_are_of_one_candidate_and_one_suite(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    from support import evolution_house

    monkeypatch.setitem(evolution_house.SIZES, "other", evolution_house.SIZES[SUITE])
    for name in ("a", "b"):
        await world.adapter(name, 0.9)
        assert (await gather(world, name)).threshold == 20
    assert (await gather(world, suite="other", seed=1)).threshold == 20
    assert (await gather(world, "b", seed=1)).threshold == 40


async def test_looks_outlast_the_engine_and_a_look_that_was_broken_off_counts(tmp_path: Path) -> None:
    async with open_world(tmp_path / "home") as world:
        await world.adapter("a", 0.9)

        async def stop() -> None:
            raise InputError("stopped")

        world.exam.checkpoint = stop
        with pytest.raises(InputError, match="stopped"):
            await gather(world, seed=5)
    async with open_world(tmp_path / "home", seed=4) as world:
        world.exam.skills["a"] = skilled(0.9)
        assert (await gather(world, seed=6)).threshold == 40
        assert (await gather(world, seed=5)).threshold == 20


async def test_a_duel_that_counts_as_a_second_look_goes_on_until_it_proves_enough(world: World) -> None:
    """The duel itself knows the higher threshold: 25 tasks are no end where what they prove is too little."""
    world.exam.skills["base"] = skilled(0.3)
    await world.adapter("a", 0.43)
    first, second = await gather(world, seed=0), await gather(world, seed=1)
    assert (first.wins, first.tasks, first.e_value) == (7, 25, pytest.approx(255 / 8))
    assert (second.wins, second.tasks, second.e_value) == (8, 50, pytest.approx(511 / 9))


async def test_a_planted_regressor_on_general_text_is_refused_the_domain(world: World) -> None:
    await world.adapter("a", 0.9)
    assert (await gather(world)).verdict is Verdict.PROVEN, "not measured does not block"
    world.prose.rises["a"] = 0.05
    found = await gather(world)
    assert found.verdict is Verdict.REFUSED and found.reasons[0].startswith("Perplexity of the general text")
    assert found.text is not None and found.text.rise == pytest.approx(0.05)
    world.prose.rises["a"] = 0.02
    assert (await gather(world)).verdict is Verdict.PROVEN


async def test_why_the_text_was_not_measured_stands_in_the_evidence(world: World) -> None:
    await world.adapter("a", 0.9)
    found = await gather(world)
    assert (found.text, found.text_unmeasured) == (None, "There is no base model here.")
    assert any("not measured: There is no base model here." in reason for reason in found.reasons)


async def test_the_noise_floor_is_measured_when_it_is_asked_for_and_only_of_the_incumbent(world: World) -> None:
    """Three evaluations more, on the tasks of the duel; they are no looks at the candidate."""
    world.exam.skills["base"] = skilled(0.1)
    await world.adapter("a", 0.9)
    assert (await gather(world)).noise is None
    plain = len(world.exam.asked)
    found = await gather(world, noise_floor=True)
    more = world.exam.asked[2 * plain :]
    assert len(more) == 3 and {(one.adapter, one.limit) for one in more} == {("base", 25)}
    assert found.noise is not None and found.noise.seeds == tuple(one.seed for one in more)
    assert len({*found.noise.seeds, 0}) == 4 and (found.noise.compared, found.noise.disagreed) == (75, 0)
    assert (await gather(world, seed=1)).earlier_looks == 1


def test_settled_asks_for_more_than_an_e_value() -> None:
    """Seven wins of one template would be E = 31: proof of a template, not of a gain."""
    from engine.evaluation.statistics import Paired

    def wins(templates: int) -> list[Paired]:
        return [Paired(f"{n}", f"t{n % templates}", candidate=True, reference=False) for n in range(10)]

    settled = Settled(20.0, 0, 200)
    assert not settled(wins(1)) and not settled(wins(4)) and settled(wins(5))
    losses = [Paired(f"{n}", "t", candidate=False, reference=True) for n in range(10)]
    assert settled(losses), "a proven loss needs no more tasks"


def test_fresh_seeds_follow_from_the_digest() -> None:
    assert fresh_seed(0, "a" * 64) != fresh_seed(0, "b" * 64) != fresh_seed(1, "b" * 64)
    assert all(0 <= fresh_seed(0, f"{n:064x}") < 2**31 for n in range(100))


async def test_a_suite_with_an_empty_gate_is_an_input_error(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    from support import evolution_house

    monkeypatch.setitem(evolution_house.SIZES, "empty", {(Split.SELECTION, "in"): 5})
    await world.adapter("a", 0.9)
    with pytest.raises(InputError, match="no task on its gate"):
        await gather(world, suite="empty")
