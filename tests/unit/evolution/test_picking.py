"""Which adapter a session gets, on a real registry with real training data: by evidence, type and likeness."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from support.evidence_house import evidence
from support.evolution_house import TASK_TYPE, World, open_world

from engine.api_evolution import Verdict
from engine.api_learning import REHEARSAL
from engine.api_models import RunState, SessionRecord, TaskMode, TaskSpec
from engine.errors import ConflictError
from engine.evolution.learned import Learned
from engine.evolution.picking import Picker
from engine.training.dataset import DataStore
from registry.models import NewAdapter, Source, Tier
from registry.samples import SAMPLE_BASE_MODEL

PROMPTS = tuple(f"zorbkit: flip the list, then add {number}." for number in range(10))
LIKE = "zorbkit: add 4, then flip the list."
UNLIKE = "Parse a date from an e-mail header."


@pytest.fixture
async def world(home: Path) -> AsyncIterator[World]:
    async with open_world(home) as opened:
        yield opened


ELSEWHERE = "inkwell: cut 4 letters, then turn the word round."


def picker(world: World, base: str = SAMPLE_BASE_MODEL, **settings: object) -> Picker:
    section = world.config.evolution.model_copy(update=settings)
    learned = Learned(world.db, world.registry, DataStore(world.home / "training"))
    return Picker(world.registry, learned, base, section)


def session(prompt: str = LIKE, task_type: str = TASK_TYPE, **fields: object) -> SessionRecord:
    mode = fields.pop("mode", TaskMode.ATTEMPT)
    task = TaskSpec.model_validate({"id": "t", "prompt": prompt, "task_type": task_type, "mode": mode})
    values: dict[str, object] = {"id": "rune-1", "task": task, "state": RunState.RUNNING, "created_at": "2026"}
    return SessionRecord.model_validate({**values, **fields})


async def promoted(
    world: World,
    name: str = "kit",
    verdict: Verdict = Verdict.PROVEN,
    *,
    forced: bool = False,
    besides: tuple[str, ...] = (),
) -> None:
    await world.lesson(name, *PROMPTS, *besides)
    adapter = await world.adapter(name, 1.0, trained=False)
    found = evidence(name, adapter.digest, verdict=verdict, to_tier="task").model_dump(mode="json")
    await world.registry.promote(name, Tier.TASK, "", evidence=found, forced=forced)


async def chosen(world: World, record: SessionRecord, **settings: Any) -> tuple[str | None, str]:
    picked = await picker(world, **settings).decide(record, "scripted")
    return picked.adapter.adapter.id if picked.adapter else None, picked.reason


async def test_the_proven_champion_gets_the_tasks_that_are_like_what_it_learned(world: World) -> None:
    await promoted(world)
    adapter, reason = await chosen(world, session())
    assert adapter == "kit"
    assert "champion" in reason and "proven" in reason


async def test_one_that_was_rolled_back_is_not_used_until_it_is_promoted_again_or_that_is_taken_back(
    world: World,
) -> None:
    await promoted(world)
    await world.registry.rollback(TASK_TYPE)
    assert await chosen(world, session()) == (None, "Base model: kit was rolled back.")
    await world.registry.rollback(TASK_TYPE)
    assert (await chosen(world, session()))[0] == "kit", "the second one takes the first one back"
    await world.registry.undo()
    await world.adapter("other", 1.0)
    found = evidence("other", (await world.registry.get("other")).digest, to_tier="task").model_dump(mode="json")
    await world.registry.promote("other", Tier.TASK, "", evidence=found)
    assert (await chosen(world, session()))[0] is None, "also once another one is the champion"
    found = evidence("kit", (await world.registry.get("kit")).digest, to_tier="task").model_dump(mode="json")
    await world.registry.promote("kit", Tier.TASK, "", evidence=found)
    assert (await chosen(world, session()))[0] == "kit"


async def test_what_an_adapter_rehearsed_is_not_what_it_is_for(world: World) -> None:
    """Rows of the other domain hold it where the base model is; all of them count as learned from, none as its own."""
    rows = tuple(f"inkwell: turn the word round, then cut {number} letters." for number in range(10))
    rehearsed = tuple(f"{REHEARSAL}inkwell/t: {row}" for row in rows)  # a lesson's tasks are called as its prompts
    await promoted(world, besides=rehearsed)
    assert (await chosen(world, session()))[0] == "kit"
    adapter, reason = await chosen(world, session(ELSEWHERE))
    assert adapter is None and "unlike" in reason
    learned = Learned(world.db, world.registry, DataStore(world.home / "training"))
    documents, taught = await learned.documents("kit"), await learned.taught("kit")
    assert documents is not None and taught is not None and (len(documents), len(taught)) == (20, 10)
    without_code = [document.text for document in documents if not document.code]
    assert len(without_code) == 10 and all("inkwell" in text for text in without_code), "answers of the base model"
    assert all(document.code for document in taught)


async def test_negative_control_rows_of_another_domain_without_the_mark_make_an_adapter_one_for_it(
    world: World,
) -> None:
    await promoted(world, besides=tuple(f"inkwell: turn the word round, then cut {n} letters." for n in range(10)))
    assert (await chosen(world, session(ELSEWHERE)))[0] == "kit"


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        (session(UNLIKE), "unlike"),
        (session(task_type="other"), "no adapter for other tasks"),
        (session(mode=TaskMode.EXPLORE), "explorer"),
        (session(adapter="base"), "asked for"),
    ],
    ids=["unlike", "other type", "explorer", "base asked for"],
)
async def test_everything_else_gets_the_base_model_and_the_reason(
    world: World, record: SessionRecord, reason: str
) -> None:
    await promoted(world)
    adapter, said = await chosen(world, record)
    assert adapter is None
    assert reason in said


async def test_without_evidence_or_against_it_the_base_model_is_used(world: World) -> None:
    """Negative control of the champion's test: the same adapter, only its evidence differs."""
    assert "no adapter" in (await chosen(world, session()))[1]
    await world.lesson("fresh", *PROMPTS)
    await world.adapter("fresh", 1.0, trained=False)
    assert await chosen(world, session()) == (None, "Base model: fresh has no evidence.")
    await world.registry.archive("fresh")
    await promoted(world, "refused", Verdict.REFUSED)
    adapter, reason = await chosen(world, session())
    assert adapter is None
    assert "refused" in reason


async def test_a_promotion_by_force_counts_as_its_users_word(world: World) -> None:
    await promoted(world, verdict=Verdict.NOT_PROVEN, forced=True)
    adapter, reason = await chosen(world, session())
    assert (adapter, "force" in reason) == ("kit", True)


async def test_switched_off_or_on_a_backend_without_adapters_nothing_is_picked(world: World) -> None:
    await promoted(world)
    assert await chosen(world, session(), select=False) == (None, "Base model: evolution.select is off.")
    picked = await picker(world).decide(session(), "ollama")
    assert (picked.adapter, picked.reason) == (None, "Base model: ollama serves no adapters.")


async def test_of_another_base_model_nothing_is_picked(world: World) -> None:
    await promoted(world)
    picked = await picker(world, "another-base").decide(session(), "scripted")
    assert picked.adapter is None


async def test_a_merged_child_is_known_by_what_its_parents_learned(world: World) -> None:
    for name in ("a", "b"):
        await world.lesson(name, *PROMPTS)
        await world.adapter(name, 1.0, trained=False)
    place = world.home / "samples" / "a"
    child = await world.registry.publish(place, NewAdapter("child", TASK_TYPE, Source.EVOLUTION, parent_ids=("a", "b")))
    found = evidence("child", child.digest, to_tier="task").model_dump(mode="json")
    await world.registry.promote("child", Tier.TASK, "", evidence=found)
    assert (await chosen(world, session()))[0] == "child"
    assert (await chosen(world, session(UNLIKE)))[0] is None


async def test_a_named_adapter_is_used_as_it_is_and_must_be_there(world: World) -> None:
    await world.adapter("mine", 0.0, trained=False)
    assert await chosen(world, session(UNLIKE, adapter="mine")) == ("mine", "Asked for.")
    with pytest.raises(ConflictError, match="gone"):
        await chosen(world, session(adapter="gone"))


async def test_what_was_decided_stands_when_the_session_is_resumed(world: World) -> None:
    decided = session(adapter_reason="Base model: there was no adapter.")
    await promoted(world)
    assert await chosen(world, decided) == (None, "Base model: there was no adapter.")
    kept = session(UNLIKE, adapter="kit", adapter_reason="kit: proven.")
    assert await chosen(world, kept) == ("kit", "kit: proven.")


async def test_a_picked_adapter_whose_files_are_damaged_costs_the_adapter_and_not_the_task(world: World) -> None:
    await promoted(world)
    for file in (world.home / "adapters").rglob("*.safetensors"):
        file.chmod(0o600)
        data = bytearray(file.read_bytes())
        data[-3] ^= 1
        file.write_bytes(data)
    adapter, reason = await chosen(world, session())
    assert adapter is None
    assert reason.startswith("Base model: Adapter kit:")
