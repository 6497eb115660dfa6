"""registry/registry.py: every operation of the specification (A40 to A43), against real files and a real database."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from support.registry_house import House, flip_bit, open_house

from registry.clock import SystemClock
from registry.errors import (
    AdapterAlreadyExists,
    AdapterArchived,
    AdapterNotFound,
    AdapterQuarantined,
    AdapterRejected,
    TransitionRefused,
)
from registry.journal import MemoryRecorder
from registry.models import Adapter, NewAdapter, Source, Tier
from registry.queries import AdapterQuery, Sort
from registry.registry import AdapterLimits, Registry
from registry.samples import SAMPLE_BASE_MODEL


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[House]:
    async with open_house(tmp_path) as opened:
        yield opened


async def test_a40_publish_fills_every_column_from_the_files(house: House) -> None:
    await house.publish("one", session_id="s-1", agent_id="agent-1", training_task_hash="abc")
    one = await house.registry.retrieve_by_id("one")
    assert (one.rank, one.alpha, one.target_modules) == (4, 8.0, ("q_proj", "v_proj"))
    assert (one.base_model_id, one.tier, one.source) == (SAMPLE_BASE_MODEL, Tier.TASK, Source.QLORA)
    assert (one.session_id, one.agent_id, one.training_task_hash, one.generation) == ("s-1", "agent-1", "abc", 0)
    weights = house.root / "adapters" / one.file_path / "adapter_model.safetensors"
    assert one.file_size_bytes == weights.stat().st_size
    assert weights.stat().st_mode & 0o777 == 0o444
    assert weights.read_bytes() == ((await house.sample(0)) / "adapter_model.safetensors").read_bytes()
    with pytest.raises(AdapterNotFound):
        await house.registry.get("two")


async def test_a41_a_taken_id_is_refused_and_changes_nothing(house: House) -> None:
    await house.publish("one", seed=0)
    before, row, events = house.files(), await house.registry.get("one"), len(house.recorder.events)
    for seed, name in ((0, "one"), (1, "one"), (1, "ONE")):
        with pytest.raises(AdapterAlreadyExists):
            await house.publish(name, seed=seed)
    after = house.files()
    assert {path: after[path] for path in before} == before
    assert await house.registry.get("one") == row
    assert len(house.recorder.events) == events


async def test_a40_five_concurrent_writers_of_one_id_one_wins(house: House) -> None:
    """A40, A41: five writers with five contents; one publishes, four get the error, its files are intact."""
    for seed in range(5):
        await house.sample(seed)
    results = await asyncio.gather(*(house.publish("same", seed=seed) for seed in range(5)), return_exceptions=True)
    assert sum(isinstance(result, AdapterAlreadyExists) for result in results) == 4
    assert sum(isinstance(result, Adapter) for result in results) == 1
    assert await house.registry.verify("same")
    assert len(house.files()) == 2


async def test_a40_five_concurrent_writers_of_five_ids_all_win(house: House) -> None:
    await asyncio.gather(*(house.publish(f"id-{seed}", seed=seed) for seed in range(5)))
    assert [
        adapter.id for adapter in (await house.registry.list_all(AdapterQuery(sort=Sort.ID, descending=False))).items
    ] == [f"id-{seed}" for seed in range(5)]


async def test_two_ids_share_the_files_of_equal_content(house: House) -> None:
    await house.publish("one")
    await house.publish("two")
    one, two = await house.registry.get("one"), await house.registry.get("two")
    assert one.digest == two.digest
    assert len(house.files()) == 2


async def test_import_takes_a_users_directory_and_leaves_it_alone(house: House) -> None:
    source = await house.sample(3)
    before = {path.name: path.read_bytes() for path in source.iterdir()}
    adapter = await house.registry.import_directory(str(source), "mine", task_type="sort")
    assert adapter.source is Source.MANUAL
    assert {path.name: path.read_bytes() for path in source.iterdir()} == before
    for reserved in ("oracle_x", "round2_x", "Oracle_x"):
        with pytest.raises(AdapterRejected, match="reserved"):
            await house.registry.import_directory(str(source), reserved, task_type="sort")
    with pytest.raises(AdapterRejected, match="made for"):
        await house.registry.import_directory(str(source), "other", task_type="sort", base_model_id="some/other")


async def test_a40_queries(house: House) -> None:
    for number in range(6):
        await house.publish(f"a{number}", seed=number, task_type="sort" if number < 4 else "parse")
    registry = house.registry
    for number, fitness in ((0, 0.5), (1, 0.9), (2, 0.7), (3, 1.0)):
        await registry.update_fitness(f"a{number}", fitness)
    await registry.archive("a3")
    assert [a.id for a in await registry.query_best_for_task("sort", top_k=2)] == ["a1", "a2"]
    assert {a.id for a in await registry.query_by_task_type("sort")} == {"a0", "a1", "a2", "a3"}
    assert [a.id for a in await registry.query_unevaluated()] == ["a4", "a5"]
    assert await registry.query_unevaluated("sort") == []
    assert await registry.get_task_types() == ["parse", "sort"]


async def test_a40_is_task_solved_counts_adapters_in_use_only(house: House) -> None:
    await house.publish("one", training_task_hash="h1")
    assert not await house.registry.is_task_solved("h1")
    await house.registry.update_fitness("one", 0.5, pass_rate=0.96)
    assert await house.registry.is_task_solved("h1")
    assert not await house.registry.is_task_solved("h1", threshold=0.97)
    assert not await house.registry.is_task_solved("h2")
    await house.registry.archive("one")
    assert not await house.registry.is_task_solved("h1")


async def test_a40_pages_are_filtered_sorted_searched_and_complete(house: House) -> None:
    for number in range(23):
        await house.publish(f"n{number:02}", seed=number % 3, task_type=("sort", "parse")[number % 2])
        if number % 3:
            await house.registry.update_fitness(f"n{number:02}", (number % 5) / 5)
    await house.registry.archive("n07")
    for sort in Sort:
        for descending in (False, True):
            seen: list[str] = []
            place: str | None = None
            while True:
                query = AdapterQuery(task_type="parse", sort=sort, descending=descending, limit=4, after=place)
                page = await house.registry.list_all(query)
                seen.extend(adapter.id for adapter in page.items)
                if (place := page.next) is None:
                    break
            assert sorted(seen) == [f"n{number:02}" for number in range(1, 23, 2) if number != 7]
            everything = await house.registry.list_all(
                AdapterQuery(task_type="parse", sort=sort, descending=not descending, limit=100)
            )
            assert seen == [adapter.id for adapter in everything.items][::-1]
    assert await house.registry.count(AdapterQuery(task_type="parse")) == 10
    assert [a.id for a in (await house.registry.list_all(AdapterQuery(search="N1", limit=100))).items] == [
        f"n{number}" for number in range(19, 9, -1)
    ]
    assert (await house.registry.list_all(AdapterQuery(search="%"))).items == ()
    assert [a.id for a in (await house.registry.list_all(AdapterQuery(archived=True))).items] == ["n07"]


@pytest.mark.parametrize("place", ["", "x", "bm90IGpzb24=", "WzEsIDJd", "W10=", "é"])
async def test_a_forged_place_is_refused(house: House, place: str) -> None:
    with pytest.raises(AdapterRejected, match="go on from"):
        await house.registry.list_all(AdapterQuery(after=place))


async def test_a40_lineage_chain_diamond_circle_and_gap(house: House) -> None:
    for name, parents in (("root", ()), ("left", ("root",)), ("right", ("root",)), ("leaf", ("left", "right"))):
        await house.publish(name, parent_ids=parents)
    registry = house.registry
    assert [a.id for a in await registry.get_lineage("leaf")] == ["leaf", "left", "root"]
    assert [(await registry.get(name)).generation for name in ("root", "left", "right", "leaf")] == [0, 1, 1, 2]
    dag = await registry.get_lineage_dag("leaf")
    assert dag.parents == {"leaf": ("left", "right"), "left": ("root",), "right": ("root",), "root": ()}
    assert list(dag.parents) == ["leaf", "left", "right", "root"]
    assert (await registry.get_lineage_dag("root")).children == {
        "root": ("left", "right"),
        "left": ("leaf",),
        "right": ("leaf",),
        "leaf": (),
    }
    # A circle and a gap cannot be published; an older snapshot or a hand may still leave them in the file.
    await house.db.write(
        lambda tx: tx.executemany(
            "INSERT INTO adapter_parents VALUES (?, ?, ?)", [("root", 0, "leaf"), ("root", 1, "gone")]
        )
    )
    assert [a.id for a in await registry.get_lineage("leaf")] == ["leaf", "left", "root"]
    dag = await registry.get_lineage_dag("leaf")
    assert dag.parents["root"] == ("leaf", "gone")
    assert dag.parents["gone"] == ()
    with pytest.raises(AdapterNotFound):
        await registry.get_lineage_dag("gone")


async def test_parents_are_checked(house: House) -> None:
    with pytest.raises(AdapterNotFound, match="parent"):
        await house.publish("child", parent_ids=("nobody",))
    with pytest.raises(AdapterRejected, match="own parent"):
        await house.publish("child", parent_ids=("child",))
    with pytest.raises(AdapterNotFound):
        await house.registry.get("child")


async def test_scores_keep_their_history_and_stay_in_range(house: House) -> None:
    await house.publish("one")
    for fitness, rate in ((0.25, 0.5), (0.75, None)):
        await house.registry.update_fitness("one", fitness, rate, session_id="s-1")
    one = await house.registry.get("one")
    assert (one.fitness_score, one.pass_rate) == (0.75, 0.5)
    assert [entry.fitness_score for entry in await house.registry.get_evaluations("one")] == [0.25, 0.75]
    for bad in (-0.1, 1.1, float("nan"), float("inf")):
        with pytest.raises(AdapterRejected):
            await house.registry.update_fitness("one", bad)
        with pytest.raises(AdapterRejected):
            await house.registry.update_fitness("one", 0.5, bad)
    assert len(await house.registry.get_evaluations("one")) == 2


async def test_a43_tiers_move_up_with_history_and_can_be_undone(house: House) -> None:
    await house.publish("one")
    registry = house.registry
    assert (await registry.promote("one", reason="p < 0.01")).tier is Tier.DOMAIN
    assert (await registry.promote("one", Tier.PROJECT)).tier is Tier.PROJECT
    for illegal in (None, Tier.TASK, Tier.PROJECT):
        with pytest.raises(TransitionRefused):
            await registry.promote("one", illegal)
    assert (await registry.demote("one", Tier.TASK, "regressed")).tier is Tier.TASK
    with pytest.raises(TransitionRefused):
        await registry.demote("one")
    moves = [(move.from_tier, move.to_tier, move.reason) for move in await registry.get_promotions("one")]
    assert moves == [
        (Tier.TASK, Tier.DOMAIN, "p < 0.01"),
        (Tier.DOMAIN, Tier.PROJECT, ""),
        (Tier.PROJECT, Tier.TASK, "regressed"),
    ]


async def test_a43_archived_adapters_are_out_of_use_inspectable_and_restorable(house: House) -> None:
    await house.publish("one")
    await house.registry.update_fitness("one", 1.0)
    assert (await house.registry.archive("one")).is_archived
    await house.registry.archive("one")
    assert (await house.registry.list_all()).items == ()
    assert await house.registry.query_best_for_task("sort") == []
    assert (await house.registry.get("one")).is_archived
    with pytest.raises(AdapterArchived):
        await house.registry.resolve_for_load("one")
    with pytest.raises(TransitionRefused):
        await house.registry.promote("one")
    await house.registry.restore("one")
    assert (await house.registry.resolve_for_load("one")).adapter.id == "one"
    assert house.actions("adapter/one") == ["published", "evaluated", "archived", "restored"]


async def test_a42_a_changed_file_is_found_at_load_and_quarantined(house: House) -> None:
    await house.publish("one")
    await house.publish("twin")
    loadable = await house.registry.resolve_for_load("one")
    weights = loadable.directory / "adapter_model.safetensors"
    flip_bit(weights)
    with pytest.raises(AdapterQuarantined):
        await house.registry.resolve_for_load("one")
    assert (await house.registry.get("one")).is_quarantined
    assert (await house.registry.get("twin")).is_quarantined
    assert not await house.registry.verify("one")
    await house.publish("one")
    assert not (await house.registry.get("twin")).is_quarantined
    assert (await house.registry.resolve_for_load("one")).directory == loadable.directory


@pytest.mark.parametrize("damage", ["config changed", "weights missing", "directory missing", "weights a link"])
async def test_a42_every_kind_of_damage_is_found(house: House, damage: str) -> None:
    await house.publish("one")
    directory = (await house.registry.resolve_for_load("one")).directory
    weights, config = directory / "adapter_model.safetensors", directory / "adapter_config.json"
    match damage:
        case "config changed":
            flip_bit(config)
        case "weights missing":
            weights.unlink()
        case "directory missing":
            directory.rename(house.root / "elsewhere")
        case _:
            weights.rename(house.root / "elsewhere.safetensors")
            weights.symlink_to(house.root / "elsewhere.safetensors")
    assert not await house.registry.verify("one")
    await house.publish("one")
    assert await house.registry.verify("one")


async def test_a_gguf_form_is_kept_verified_and_dropped_when_damaged(house: House, tmp_path: Path) -> None:
    await house.publish("one")
    assert (await house.registry.resolve_for_load("one")).gguf is None
    made = tmp_path / "made.gguf"
    made.write_bytes(b"GGUF" + bytes(100))
    await house.registry.add_gguf("one", made)
    gguf = (await house.registry.resolve_for_load("one")).gguf
    assert gguf is not None
    assert gguf.read_bytes() == made.read_bytes()
    flip_bit(gguf)
    assert (await house.registry.resolve_for_load("one")).gguf is None
    await house.registry.add_gguf("one", made)
    assert (await house.registry.resolve_for_load("one")).gguf == gguf
    made.write_bytes(b"PK\x03\x04")
    with pytest.raises(AdapterRejected, match="not a GGUF"):
        await house.registry.add_gguf("one", made)


async def test_aliases_move_by_compare_and_swap(house: House) -> None:
    await house.publish("one")
    await house.publish("two", seed=1)
    await house.registry.set_alias("sort@champion", "one")
    with pytest.raises(TransitionRefused, match="is one"):
        await house.registry.set_alias("sort@champion", "two")
    await house.registry.set_alias("sort@champion", "two", expected="one")
    assert await house.registry.get_aliases() == {"sort@champion": "two"}
    with pytest.raises(AdapterRejected):
        await house.registry.set_alias("../x", "one")


async def test_gc_deletes_old_orphans_and_nothing_else(house: House) -> None:
    await house.publish("kept")
    with pytest.raises(AdapterNotFound):
        await house.publish("child", seed=1, parent_ids=("nobody",))
    assert len(house.files()) == 4
    assert await house.registry.gc() == []
    collected = await house.registry.gc(grace_seconds=-1)
    assert len(collected) == 1
    assert len(house.files()) == 2
    assert await house.registry.verify("kept")
    assert house.actions("registry/blobs") == ["collected"]
    assert await house.registry.gc(grace_seconds=-1) == []


async def test_recover_deletes_what_was_half_written(house: House) -> None:
    await house.publish("kept")
    (house.root / "adapters" / ".tmp-0123").mkdir()
    (house.root / "adapters" / ".tmp-0123" / "adapter_model.safetensors").write_bytes(b"half")
    (house.root / "adapters" / ".tmp-4567").write_bytes(b"half")
    assert await house.registry.recover() == 2
    assert len(house.files()) == 2


async def test_every_change_records_one_event_in_its_own_transaction(house: House) -> None:
    """A change whose event cannot be written does not happen (negative control of the same-transaction rule)."""

    class Failing(MemoryRecorder):
        def record(self, *args: object, **kwargs: object) -> None:
            raise RuntimeError("the journal is full")

    await house.publish("one")
    deaf = Registry(house.db, house.root / "adapters", AdapterLimits(512 << 20, 256), SystemClock(), Failing())
    before = await house.registry.get("one")
    for change in (
        deaf.promote("one"),
        deaf.archive("one"),
        deaf.update_fitness("one", 0.5),
        deaf.verify("one"),
        deaf.publish(await house.sample(1), NewAdapter(id="two", task_type="sort", source=Source.QLORA)),
    ):
        with pytest.raises(RuntimeError, match="journal"):
            await change
    assert await house.registry.get("one") == before
    assert await house.registry.get_evaluations("one") == []
    assert await house.registry.count() == 1
    assert house.actions("adapter/one") == ["published"]
