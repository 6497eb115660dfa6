"""registry/history.py, aliases, rollback, undo and redo (A43, A91): on real files and a real database, reopened."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from importlib.resources import files
from pathlib import Path

import pytest
from support.registry_house import House, flip_bit, open_house

from engine.events import Bus, Journal, replay_state
from registry.changes import Changes
from registry.clock import SystemClock
from registry.db import Database, Migrations, Reader
from registry.errors import AdapterRejected, RegistryError, TransitionRefused
from registry.history import ChangeState
from registry.journal import MemoryRecorder
from registry.models import Champions, Tier
from registry.registry import MIGRATIONS, AdapterLimits, Registry

EVIDENCE = {"verdict": "proven", "wins": 14, "losses": 3, "e_value": 21.2}


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[House]:
    async with open_house(tmp_path) as opened:
        for number, name in enumerate("abc"):
            await opened.publish(name, seed=number)
        yield opened


# --- promotion and aliases ---


async def test_a43_a_promotion_moves_champion_and_previous_with_the_tier(house: House) -> None:
    registry = house.registry
    await registry.set_alias("sort@challenger", "a")
    await registry.promote("a", Tier.DOMAIN, "beats base", evidence=EVIDENCE)
    assert await registry.get_champions("sort") == Champions("a", None, None)
    await registry.promote("b", Tier.PROJECT, "because", forced=True)
    assert await registry.get_aliases() == {"sort@champion": "b", "sort@previous": "a"}
    assert await registry.get_champions("other") == Champions()
    [first], [second] = await registry.get_promotions("a"), await registry.get_promotions("b")
    assert (first.evidence, first.forced, first.reason) == (EVIDENCE, False, "beats base")
    assert (second.evidence, second.forced, second.to_tier) == (None, True, Tier.PROJECT)


async def test_an_adapter_can_become_the_champion_of_the_tier_it_is_at(house: House) -> None:
    """A memoriser is refused the domain, and may still serve the tasks it was made for."""
    adapter = await house.registry.promote("a", Tier.TASK, evidence=EVIDENCE)
    assert adapter.tier is Tier.TASK
    assert (await house.registry.get_champions("sort")).champion == "a"
    with pytest.raises(TransitionRefused):
        await house.registry.promote("a", Tier.TASK)
    with pytest.raises(TransitionRefused):
        await house.registry.demote("a", Tier.TASK)


async def test_a_promotion_decided_against_another_champion_is_refused(house: House) -> None:
    seen = await house.registry.get_champions("sort")
    await house.registry.promote("b")
    with pytest.raises(TransitionRefused, match="look again"):
        await house.registry.promote("a", expected=seen)
    assert (await house.registry.get("a")).tier is Tier.TASK
    await house.registry.promote("a", expected=Champions(champion="b"))


async def test_rollback_lets_champion_and_previous_change_places(house: House) -> None:
    registry = house.registry
    with pytest.raises(TransitionRefused, match="nothing to go back to"):
        await registry.rollback("sort")
    await registry.promote("a")
    await registry.promote("b")
    assert await registry.rollback("sort") == Champions("a", None, "b")
    assert await registry.rollback("sort") == Champions("b", None, "a")
    await registry.undo()
    assert await registry.get_champions("sort") == Champions("a", None, "b")


async def test_rollback_of_the_first_champion_leaves_the_base_model(house: House) -> None:
    await house.registry.promote("a")
    assert await house.registry.rollback("sort") == Champions(None, None, "a")
    assert await house.registry.rollback("sort") == Champions("a", None, None)


async def test_rollback_does_not_go_back_to_a_quarantined_adapter(house: House) -> None:
    registry = house.registry
    await registry.promote("a")
    await registry.promote("b")
    flip_bit((await registry.resolve_for_load("a")).directory / "adapter_model.safetensors")
    assert not await registry.verify("a")
    with pytest.raises(TransitionRefused, match="quarantined"):
        await registry.rollback("sort")
    assert (await registry.get_champions("sort")).champion == "b"


async def test_no_alias_names_an_archived_adapter(house: House) -> None:
    registry = house.registry
    await registry.promote("a")
    await registry.set_alias("sort@challenger", "b")
    await registry.archive("a")
    assert await registry.get_aliases() == {"sort@challenger": "b"}
    with pytest.raises(TransitionRefused, match="archived"):
        await registry.set_alias("sort@champion", "a")
    await registry.undo()
    assert await registry.get_aliases() == {"sort@champion": "a", "sort@challenger": "b"}
    assert not (await registry.get("a")).is_archived


async def test_an_alias_is_taken_away_by_compare_and_swap(house: House) -> None:
    registry = house.registry
    await registry.set_alias("v1.2-x@champion", "a")
    with pytest.raises(TransitionRefused):
        await registry.set_alias("v1.2-x@champion", None)
    await registry.set_alias("v1.2-x@champion", None, expected="a")
    assert await registry.get_aliases() == {}
    for bad in ("sort", "sort@", "@champion", "sort@Champion", ".x@champion", "a/b@champion"):
        with pytest.raises(AdapterRejected):
            await registry.set_alias(bad, "a")


# --- undo and redo ---


async def state(house: House) -> object:
    """All that undo and redo may touch."""
    adapters = {name: await house.registry.get(name) for name in "abc"}
    scores = {name: [one.fitness_score for one in await house.registry.get_evaluations(name)] for name in "abc"}
    moves = {
        name: [(one.from_tier, one.to_tier) for one in await house.registry.get_promotions(name)] for name in "abc"
    }
    return adapters, scores, moves, await house.registry.get_aliases()


EACH: dict[str, Callable[[Registry], Awaitable[object]]] = {
    "archive": lambda registry: registry.archive("a"),
    "promote": lambda registry: registry.promote("b", Tier.PROJECT, evidence=EVIDENCE),
    "demote": lambda registry: registry.demote("c"),
    "score": lambda registry: registry.update_fitness("a", 0.5, 0.25),
    "score again, without a pass rate": lambda registry: registry.update_fitness("c", 0.125),
    "alias": lambda registry: registry.set_alias("sort@challenger", "a"),
    "rollback": lambda registry: registry.rollback("sort"),
}


@pytest.mark.parametrize("what", EACH)
async def test_every_change_is_undone_and_redone_exactly(house: House, what: str) -> None:
    await house.registry.promote("c")
    await house.registry.update_fitness("c", 0.75, 0.5)
    before = await state(house)
    await EACH[what](house.registry)
    after = await state(house)
    assert after != before
    undone = await house.registry.undo()
    assert await state(house) == before
    redone = await house.registry.redo()
    assert await state(house) == after
    assert (undone.number, undone.state, redone.state) == (redone.number, ChangeState.UNDONE, ChangeState.DONE)


async def test_publishing_is_undone_by_archiving(house: House) -> None:
    change = await house.registry.undo()
    assert (change.what, change.subject) == ("published", "adapter/c")
    assert (await house.registry.get("c")).is_archived
    assert len(house.files()) == 6, "nothing is deleted"
    await house.registry.redo()
    assert not (await house.registry.get("c")).is_archived


async def test_undo_and_redo_work_after_a_restart(tmp_path: Path) -> None:
    async with open_house(tmp_path) as house:
        for name in "abc":
            await house.publish(name)
        await house.registry.promote("a", evidence=EVIDENCE)
        await house.registry.promote("b")
        before = await state(house)
        await house.registry.rollback("sort")
    async with open_house(tmp_path) as house:
        assert (await house.registry.undo()).what == "rolled back"
        assert await state(house) == before
        await house.registry.undo()
    async with open_house(tmp_path) as house:
        assert await house.registry.get_aliases() == {"sort@champion": "a"}
        assert (await house.registry.redo()).subject == "adapter/b"
        assert await state(house) == before


async def test_a_new_change_drops_what_was_undone(house: House) -> None:
    registry = house.registry
    await registry.archive("a")
    await registry.undo()
    await registry.archive("b")
    with pytest.raises(TransitionRefused, match="nothing to redo"):
        await registry.redo()
    states = {change.subject: change.state for change in await registry.get_history(2)}
    assert states == {"adapter/a": ChangeState.DROPPED, "adapter/b": ChangeState.DONE}
    assert (await registry.undo()).subject == "adapter/b"
    assert (await registry.undo()).subject == "adapter/c", "a dropped change is never undone again"


async def test_only_the_change_that_was_shown_is_undone(house: House) -> None:
    shown = await house.registry.get_next_undo()
    assert shown is not None
    await house.registry.archive("a")  # another terminal is faster
    with pytest.raises(TransitionRefused, match="look again"):
        await house.registry.undo(expected=shown.number)
    assert (await house.registry.get("a")).is_archived
    await house.registry.undo()
    assert (await house.registry.undo(expected=shown.number)).number == shown.number


async def test_values_changed_past_the_history_are_not_overwritten(house: House) -> None:
    await house.registry.promote("a")
    await house.db.write(lambda tx: tx.execute("UPDATE adapters SET tier = 'project' WHERE id = 'a'").rowcount)
    events = len(house.recorder.events)
    with pytest.raises(TransitionRefused, match="past the history"):
        await house.registry.undo()
    assert (await house.registry.get("a")).tier is Tier.PROJECT
    assert len(house.recorder.events) == events


async def test_the_history_pages_and_says_what_was_before(house: House) -> None:
    await house.registry.promote("a", evidence=EVIDENCE, forced=True)
    pages = [await house.registry.get_history(2), await house.registry.get_history(2, before=3)]
    assert [change.number for page in pages for change in page] == [4, 3, 2, 1]
    promoted = pages[0][0]
    assert (promoted.what, promoted.forced) == ("promoted", True)
    assert promoted.before == {"tier": "task", "sort@champion": None, "sort@previous": None}
    assert promoted.after == {"tier": "domain", "sort@champion": "a", "sort@previous": None}
    assert [change.what for change in await house.registry.get_history(adapter_id="a")] == ["promoted", "published"]
    for limit in (0, 501):
        with pytest.raises(AdapterRejected):
            await house.registry.get_history(limit)


async def test_c3_a_move_cancelled_at_any_await_is_whole_or_was_never_made(house: House) -> None:
    """C3, 120 seeds: tier, aliases, history, promotion and events move together."""
    outcomes: set[bool] = set()
    for seed in range(120):
        dice, before = random.Random(seed), await state(house)
        count = len(await house.registry.get_history(500))
        move = house.registry.undo if count > 3 and seed % 3 == 2 else partial(house.registry.promote, "abc"[seed % 3])
        task = asyncio.ensure_future(move())
        for _turn in range(dice.randrange(10)):
            await (asyncio.to_thread(os.getpid) if dice.random() < 0.5 else asyncio.sleep(0))
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError, TransitionRefused):
            await task
        await house.db.write(lambda tx: None)
        told = {event.subject for event in house.recorder.events if event.subject.startswith("change/")}
        history = await house.registry.get_history(500)
        assert {f"change/{one.number}" for one in history} == told, f"seed {seed}"
        newest = history[0]
        if newest.what == "promoted" and newest.state is ChangeState.DONE:
            name = newest.subject.partition("/")[2]
            assert (await house.registry.get_champions("sort")).champion == name, f"seed {seed}"
            assert (await house.registry.get(name)).tier == newest.after["tier"], f"seed {seed}"
            assert len(await house.registry.get_promotions(name)) == 1, f"seed {seed}"
        else:
            assert await house.registry.get_aliases() == {}, f"seed {seed}"
        outcomes.add(await state(house) == before)
        while (last := await house.registry.get_next_undo()) is not None and last.number > 3:
            await house.registry.undo()
    assert outcomes == {True, False}


# --- the journal ---


async def test_a91_the_journal_replays_to_adapters_aliases_and_history(tmp_path: Path) -> None:
    """Random moves; then the log alone gives every row of the three tables."""
    clock = SystemClock()
    sets = (MIGRATIONS, Migrations("engine", files("engine") / "migrations"))
    db = await Database.open(tmp_path / "rune.db", sets, clock)
    try:
        journal = Journal(db, Bus(10), clock, "registry")
        registry = Registry(db, tmp_path / "adapters", AdapterLimits(512 << 20, 256), clock, journal)
        house = House(tmp_path, db, registry, MemoryRecorder())
        for name in "abc":
            await house.publish(name)
        assert await move_at_random(registry, random.Random(7), 150) > 60
        await registry.undo()
        log = [event async for page in journal.pages() for event in page]
        replayed = replay_state(log)
        for name in "abc":
            known = (await house.registry.get(name)).as_json()
            assert {key: replayed[f"adapter/{name}"][key] for key in known} == json.loads(json.dumps(known))
        names = {key.removeprefix("alias/"): value["adapter"] for key, value in replayed.items() if key[:6] == "alias/"}
        assert names == await house.registry.get_aliases()
        history = {change.number: change for change in await house.registry.get_history(500)}
        told = {int(key[7:]): value for key, value in replayed.items() if key[:7] == "change/"}
        assert {number: (one["before"], one["after"], one["state"]) for number, one in told.items()} == {
            number: (one.before, one.after, one.state) for number, one in history.items()
        }
        assert {one.state for one in history.values()} == set(ChangeState)
    finally:
        await db.close()


async def move_at_random(registry: Registry, dice: random.Random, steps: int, *, keep: int = 0) -> int:
    """Gives how many of the moves were not refused; the first `keep` changes are never undone."""
    done = 0

    async def undo() -> None:
        change = await registry.get_next_undo()
        if change is not None and change.number > keep:
            await registry.undo(change.number)

    for _step in range(steps):
        name = dice.choice("abc")
        moves: list[Callable[[], Awaitable[object]]] = [
            partial(registry.archive, name),
            partial(registry.restore, name),
            partial(registry.promote, name, dice.choice([None, *Tier])),
            partial(registry.demote, name),
            partial(registry.update_fitness, name, dice.random()),
            partial(registry.rollback, "sort"),
            undo,
            undo,
            registry.redo,
        ]
        try:
            await dice.choice(moves)()
            done += 1
        except RegistryError:
            continue
    return done


@pytest.mark.parametrize("seed", range(5))
async def test_undoing_everything_leads_back_and_redoing_everything_leads_forth(house: House, seed: int) -> None:
    registry, start = house.registry, await state(house)
    published = 3
    await move_at_random(registry, random.Random(seed), 40, keep=published)
    while (change := await registry.get_next_redo()) is not None:
        await registry.redo(change.number)
    end = await state(house)
    steps = 0
    while (change := await registry.get_next_undo()) is not None and change.number > published:
        await registry.undo(change.number)
        steps += 1
    assert await state(house) == start
    for _step in range(steps):
        await registry.redo()
    assert await state(house) == end


async def test_negative_control_a_way_back_that_forgets_the_aliases_is_found(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = Changes._write  # pyright: ignore[reportPrivateUsage]

    def forgetful(self: Changes, tx, subject, values, action, session_id) -> None:  # type: ignore[no-untyped-def]
        kept = {name: value for name, value in values.items() if "@" not in name} if action == "undone" else values
        honest(self, tx, subject, kept, action, session_id)

    monkeypatch.setattr(Changes, "_write", forgetful)
    with pytest.raises((AssertionError, TransitionRefused)):
        await test_undoing_everything_leads_back_and_redoing_everything_leads_forth(house, 1)


# --- a database from before ---


async def test_promotions_and_scores_from_before_the_history_are_kept(tmp_path: Path) -> None:
    old = tmp_path / "old"
    old.mkdir()
    first = files("registry") / "migrations" / "0001_adapters.sql"
    (old / "0001_adapters.sql").write_text(first.read_text("utf-8"), "utf-8")
    clock = SystemClock()
    db = await Database.open(tmp_path / "rune.db", [Migrations("registry", old)], clock)

    def fill(tx: Reader) -> None:
        tx.execute(
            "INSERT INTO adapters VALUES ('one', 1, 'sort', 'base', 4, 8.0, '[\"q\"]', 'then', ?, ?, 1, 0.5, 0.5, "
            "'domain', 'qlora', NULL, NULL, NULL, 0, 0, 0, 'then')",
            ("a" * 64, "b" * 64),
        )
        tx.execute("INSERT INTO adapter_promotions VALUES (1, 'one', 'task', 'domain', 'old days', 'then')")
        tx.execute("INSERT INTO adapter_evaluations VALUES (1, 'one', 0.5, 0.5, NULL, 'then')")

    await db.write(fill)
    await db.close()
    async with open_house(tmp_path) as house:
        [move] = await house.registry.get_promotions("one")
        assert (move.reason, move.to_tier, move.evidence, move.forced) == ("old days", Tier.DOMAIN, None, False)
        [score] = await house.registry.get_evaluations("one")
        assert score.fitness_score == 0.5
        with pytest.raises(TransitionRefused, match="nothing to undo"):
            await house.registry.undo()
        await house.registry.promote("one")
        await house.registry.undo()
        assert [one.reason for one in await house.registry.get_promotions("one")] == ["old days"]
