"""What the base model said in a rehearsal is kept by a job that learns something else, and counts for nothing more."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import pytest
from support.training_house import open_house, write_base
from test_training_service import BASE_ID, Desk, asked, dataset

from engine.api_learning import Operation, OperationKind, RehearsalReport, RehearsalRow, RehearseRequest
from engine.api_models import Frozen, Outcome
from engine.errors import InputError, RuneError
from engine.operations import Operations, Progress
from engine.training.dataset import DataStore
from engine.training.spec import DataRow, parse_row

KEPT = 5


def report(rows: int = KEPT, **changes: object) -> RehearsalReport:
    def row(number: int) -> RehearsalRow:
        said, task = f"say_{number}()", f"rehearsal/g/{number}"
        return RehearsalRow(prompt=f"Ask {number}.", completion=said, system="Answer.", task=task, cut=True)

    found = RehearsalReport(
        suites=("general",), seed=0, max_tokens=24, base_model=BASE_ID, backend="scripted", base_proven=True,
        asked=rows, empty=0, too_long=0, unanswered=0, tokens=1, seconds=1.0, rows=tuple(map(row, range(rows))),
    )  # fmt: skip
    return found.model_copy(update=changes)


@dataclass
class Says:
    """Has this report, or fails."""

    result: Frozen | None

    async def run(self, operation: Operation, progress: Progress) -> Frozen:
        if self.result is None:
            raise RuneError("The model server went away.")
        return self.result


async def rehearsed(
    desk: Desk, result: Frozen | None, kind: OperationKind = OperationKind.REHEARSE, *, done: bool = True
) -> str:
    """Id of an operation that ended with that result, or that nobody does."""
    house = desk.house
    operations = Operations(house.db, house.queue, house.journal, house.clock)
    operations.add_handler(kind, Says(result))
    asked_for = await operations.create(kind, RehearseRequest(suites=("general",)))
    if done:
        told = house.journal.follow(await house.journal.last_sequence())
        async with asyncio.TaskGroup() as group, aclosing(cast("AsyncGenerator[object]", told)) as batches:
            working = group.create_task(operations.run())
            async for _ in batches:
                if (await operations.get(asked_for.id)).finished_at is not None:
                    break
            working.cancel()
    return asked_for.id


async def data_of(desk: Desk, digest: str) -> list[DataRow]:
    content = await asyncio.to_thread(DataStore(desk.house.home / "training").path(digest).read_bytes)
    return [parse_row(line, number) for number, line in enumerate(content.splitlines(), start=1)]


@pytest.fixture
async def place(tmp_path: Path) -> AsyncIterator[Desk]:
    base = tmp_path / "base"
    await asyncio.to_thread(write_base, base)
    async with open_house(tmp_path / "home", f'model.path="{base}"') as house:
        yield Desk(house)


async def test_its_rows_are_kept_beside_a_file_and_change_nothing_of_what_is_learned(
    place: Desk, tmp_path: Path
) -> None:
    file = dataset(tmp_path / "d.jsonl")
    name = await rehearsed(place, report())
    alone = await place.service.enqueue(asked(dataset=file))
    job = await place.service.enqueue(asked(dataset=file, rehearsal=name))
    assert job.request.rehearsal == name
    before, rows = await data_of(place, alone.data_digest), await data_of(place, job.data_digest)
    assert rows[: len(before)] == before, "the same rows, and the same of them held out"
    kept = rows[len(before) :]
    assert [(row.keep, row.cut, row.held_out) for row in kept] == [(True, True, False)] * KEPT
    assert [turn.role for turn in kept[0].messages] == ["system", "user"]
    assert (kept[0].completion, kept[0].task) == ("say_0()", "rehearsal/g/0")


async def test_its_rows_are_kept_beside_sessions_and_demonstrations(place: Desk, tmp_path: Path) -> None:
    for number in range(9):
        await place.session(Outcome.VERIFIED, name=f"add{number}", code=f"def add(a, b):\n    return a + b + {number}")
    name = await rehearsed(place, report())
    shown = dataset(tmp_path / "d.jsonl", 3)
    job = await place.service.enqueue(asked(from_trajectories=True, demonstrations=shown, rehearsal=name, epochs=9))
    rows = await data_of(place, job.data_digest)
    assert [row.keep for row in rows].count(True) == KEPT and len(rows) >= 9 + 3 + KEPT


async def test_a_prompt_that_is_to_be_answered_anew_is_not_kept_as_well(place: Desk, tmp_path: Path) -> None:
    file = tmp_path / "d.jsonl"
    learned = dataset(file, 29)
    file.write_text(file.read_text() + '{"prompt": "Ask  3.", "completion": "something_else()"}\n')
    job = await place.service.enqueue(asked(dataset=learned, rehearsal=await rehearsed(place, report())))
    kept = [row.task for row in await data_of(place, job.data_digest) if row.keep]
    assert kept == [f"rehearsal/g/{number}" for number in (0, 1, 2, 4)]


async def test_a_preview_counts_them_apart_and_their_steps(place: Desk, tmp_path: Path) -> None:
    file = dataset(tmp_path / "d.jsonl")
    name = await rehearsed(place, report(40))
    alone = await place.service.preview(asked(dataset=file))
    told = await place.service.preview(asked(dataset=file, rehearsal=name))
    assert (told.examples, told.held_out, told.kept, told.left_out) == (alone.examples, alone.held_out, 40, 0)
    assert (alone.kept, alone.steps, told.steps) == (0, 12, 27)
    assert told.tokens > alone.tokens


async def test_they_are_nothing_to_learn_from_and_make_no_step_that_teaches(place: Desk, tmp_path: Path) -> None:
    name = await rehearsed(place, report(60))
    few = dataset(tmp_path / "d.jsonl", 1)
    for call in (place.service.preview, place.service.enqueue):
        with pytest.raises(InputError, match="1 examples make 2 steps"):
            await call(asked(dataset=few, rehearsal=name, epochs=2))
        with pytest.raises(InputError, match="no verified session"):
            await call(asked(from_trajectories=True, rehearsal=name))
    job = await place.service.enqueue(asked(dataset=few, rehearsal=name, epochs=3))
    again = job.model_copy(update={"request": job.request.model_copy(update={"warm_start": None})})
    with pytest.raises(InputError, match="1 examples make 1 steps"):
        await place.service.enqueue_longer(again.model_copy(update={"adapter_id": None}), "longer", 1)


async def test_what_cannot_be_kept_is_refused_in_one_sentence_before_anything_is_queued(
    place: Desk, tmp_path: Path
) -> None:
    file = dataset(tmp_path / "d.jsonl")
    cases = {
        "rehearse-none": "There is no operation rehearse-none",
        await rehearsed(place, None): "is failed",
        await rehearsed(place, report(), OperationKind.MERGE): "is of the kind merge",
        await rehearsed(place, report(base_model="other")): "asked other, and the base model here is",
        await rehearsed(place, RehearseRequest(suites=("general",))): "was made by another version",
        await rehearsed(place, report(), done=False): "is queued",
    }
    assert len(cases) == 6
    for name, what in cases.items():
        for call in (place.service.preview, place.service.enqueue):
            with pytest.raises(InputError, match=what) as refused:
                await call(asked(dataset=file, rehearsal=name))
            assert "rune-tui" in str(refused.value) and "\n" not in str(refused.value), "it says what to do"
    assert await place.house.jobs.page() == []
    assert not (place.house.home / "training").exists()
