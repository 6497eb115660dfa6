"""engine/evolution/promotion.py and pruning.py: what speaks against a promotion, and who may go against it (A63)."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from support.evidence_house import KnownOperations, evidence, operation
from support.registry_house import House, open_house

from engine.api_evolution import Evidence, PromoteRequest, Verdict
from engine.errors import ConflictError, NotFoundError
from engine.evolution.promotion import Found, Promotions, Wanted, incumbent, objections, target_tier
from engine.evolution.pruning import reasons, reasons_to_keep
from registry.errors import AdapterNotFound, TransitionRefused
from registry.models import Champions, Tier


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[House]:
    async with open_house(tmp_path) as opened:
        await opened.publish("a", seed=0)
        await opened.publish("b", seed=1)
        yield opened


async def proof(house: House, name: str = "a", **changes: Any) -> Evidence:
    return evidence(name, (await house.registry.get(name)).digest, **changes)


# --- pure ---


@pytest.mark.parametrize(
    ("champion", "expected"), [(None, "base"), ("a", "base"), ("b", "b")], ids=["nobody", "itself", "another"]
)
def test_the_one_to_beat_is_the_champion_or_the_base_model(champion: str | None, expected: str) -> None:
    assert incumbent(Champions(champion=champion), "a") == expected


async def test_the_tier_that_is_meant(house: House) -> None:
    adapter, nobody = await house.registry.get("a"), Champions()
    assert target_tier(adapter, nobody, None) is Tier.DOMAIN
    assert target_tier(adapter, nobody, "task") is Tier.TASK
    assert target_tier(replace(adapter, tier=Tier.PROJECT), nobody, None) is Tier.PROJECT
    for tier, to in ((Tier.PROJECT, "domain"), (Tier.PROJECT, None), (Tier.TASK, "task")):
        with pytest.raises(TransitionRefused):
            target_tier(replace(adapter, tier=tier), Champions(champion="a"), to)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({}, None),
        ({"verdict": Verdict.NOT_PROVEN, "reasons": ("E is 3 of 20.",)}, "E is 3 of 20."),
        ({"verdict": Verdict.REFUSED, "reasons": ("It is a memoriser.",)}, "It is a memoriser."),
        ({"adapter_digest": "cd" * 32}, "other files"),
        ({"incumbent": "b"}, "the one to beat is base now"),
        ({"to_tier": "project"}, "for the tier project"),
    ],
)
async def test_each_way_in_which_evidence_does_not_carry(
    house: House, changes: dict[str, Any], sentence: str | None
) -> None:
    found = Found("evidence-1", await proof(house, **changes))
    against = objections(Wanted(await house.registry.get("a"), Champions(), Tier.DOMAIN, found))
    assert bool(against) == (sentence is not None)
    assert sentence is None or any(sentence in said for said in against)


async def test_without_evidence_there_is_an_objection(house: House) -> None:
    [said] = objections(Wanted(await house.registry.get("a"), Champions(), Tier.DOMAIN, None))
    assert "rune-tui evidence" in said


# --- with a registry ---


async def test_a63_a_proven_adapter_is_promoted_with_its_evidence(house: House) -> None:
    found = await proof(house)
    promotions = Promotions(house.registry, KnownOperations(operation(found)))
    assert (await promotions.case("a")).objections == ()
    adapter = await promotions.promote(PromoteRequest(adapter_id="a"))
    assert adapter.tier is Tier.DOMAIN
    [move] = await house.registry.get_promotions("a")
    assert not move.forced
    assert Evidence.model_validate(move.evidence) == found
    assert "52 won, 1 lost" in move.reason


@pytest.mark.parametrize("known", ["nothing", "of another adapter", "of another tier", "not proven"])
async def test_a63_without_proof_only_force_promotes_and_is_recorded(house: House, known: str) -> None:
    kept = {
        "nothing": (),
        "of another adapter": (operation(await proof(house, "b")),),
        "of another tier": (operation(await proof(house, to_tier="project")),),
        "not proven": (operation(await proof(house, verdict=Verdict.NOT_PROVEN, reasons=("Too few.",))),),
    }[known]
    promotions = Promotions(house.registry, KnownOperations(*kept))
    with pytest.raises(ConflictError, match="not promoted"):
        await promotions.promote(PromoteRequest(adapter_id="a"))
    assert (await house.registry.get("a")).tier is Tier.TASK
    assert await house.registry.get_aliases() == {}
    await promotions.promote(PromoteRequest(adapter_id="a", force=True))
    [move] = await house.registry.get_promotions("a")
    assert move.forced
    assert move.reason.startswith("Forced. ")
    assert (move.evidence is not None) == (known == "not proven"), "evidence against it is kept with it"
    [change] = await house.registry.get_history(1)
    assert change.forced


async def test_force_that_was_not_needed_is_not_recorded_as_forced(house: House) -> None:
    promotions = Promotions(house.registry, KnownOperations(operation(await proof(house))))
    await promotions.promote(PromoteRequest(adapter_id="a", force=True))
    assert not (await house.registry.get_promotions("a"))[0].forced


async def test_the_newest_evidence_counts_also_where_an_older_one_is_named(house: House) -> None:
    against = operation(await proof(house, verdict=Verdict.REFUSED, reasons=("It regressed.",)), "evidence-2")
    promotions = Promotions(house.registry, KnownOperations(operation(await proof(house)), against))
    case = await promotions.case("a")
    assert (case.operation, "It regressed." in case.objections) == ("evidence-2", True)
    named = await promotions.case("a", operation_id="evidence-1")
    assert (named.operation, named.objections) == ("evidence-1", ("The newer evidence-2 says refused.",))
    assert (await promotions.case("a", operation_id="evidence-2")).objections == case.objections
    with pytest.raises(NotFoundError):
        await promotions.case("a", operation_id="evidence-9")
    with pytest.raises(ConflictError, match="no finished evidence about b"):
        await promotions.case("b", operation_id="evidence-1")
    with pytest.raises(AdapterNotFound):
        await promotions.case("nobody")


async def test_evidence_against_a_champion_who_is_no_more_does_not_carry(house: House) -> None:
    promotions = Promotions(house.registry, KnownOperations(operation(await proof(house))))
    await house.registry.promote("b")
    with pytest.raises(ConflictError, match="the one to beat is b now"):
        await promotions.promote(PromoteRequest(adapter_id="a"))


async def test_force_does_not_promote_what_is_archived(house: House) -> None:
    await house.registry.archive("a")
    with pytest.raises(TransitionRefused, match="archived"):
        await Promotions(house.registry, KnownOperations()).promote(PromoteRequest(adapter_id="a", force=True))


async def test_evidence_of_another_version_of_the_program_is_measured_anew(house: House) -> None:
    known = operation(await proof(house)).model_copy(update={"result": {"verdict": "proven"}})
    case = await Promotions(house.registry, KnownOperations(known)).case("a")
    assert case.evidence is None
    assert case.objections


# --- pruning by hand ---


async def test_what_rests_on_an_adapter_speaks_against_pruning_it(house: House) -> None:
    assert await reasons_to_keep(house.registry, "a") == ()
    await house.publish("child", seed=2, parent_ids=("a",))
    await house.publish("grandchild", seed=3, parent_ids=("child",))
    await house.registry.promote("a")
    assert await reasons_to_keep(house.registry, "a") == (
        "It is sort@champion.",
        "child was made from it and is in use.",
    )
    await house.registry.archive("child")
    assert "grandchild was made from it and is in use." in await reasons_to_keep(house.registry, "a")
    await house.registry.archive("grandchild")
    await house.registry.archive("b")
    assert await reasons_to_keep(house.registry, "a") == (
        "It is sort@champion.",
        "It is the last adapter in use for sort.",
    )
    await house.registry.archive("a")
    assert await reasons_to_keep(house.registry, "a") == ()


async def test_a_quarantined_sibling_is_no_reason_to_let_the_last_one_go(house: House) -> None:
    a, b = await house.registry.get("a"), await house.registry.get("b")
    assert reasons(a, [a, b], {}, None) == ()
    assert reasons(a, [a, replace(b, is_quarantined=True)], {}, None) == ("It is the last adapter in use for sort.",)
