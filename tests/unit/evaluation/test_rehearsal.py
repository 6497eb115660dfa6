"""Rehearsal: which prompts the base model is asked, and what of its answers becomes a row."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path

import pytest
from support.evaluation_house import House, make_task, open_house

from engine.api_learning import (
    Operation,
    OperationKind,
    RehearsalReport,
    RehearseRequest,
    Split,
    SuiteTask,
)
from engine.api_models import RunState
from engine.errors import (
    ContextOverflowError,
    DeviceBusyError,
    InputError,
    NotFoundError,
    ProviderError,
    RequestAbortedError,
)
from engine.evaluation.asking import GIVE_UP_AFTER
from engine.evaluation.rehearsal import RehearseHandler, Rehearser, row_of, spread
from engine.inference.admitted import Answered
from engine.inference.provider import FinishReason, Message, Request
from engine.training.dataset import read_file


@dataclass
class Suites:
    """Suites by name."""

    found: dict[str, tuple[SuiteTask, ...]]

    def tasks(self, name: str, seed: int, split: Split | None = None) -> tuple[SuiteTask, ...]:
        del seed
        if name not in self.found:
            raise NotFoundError(f"There is no suite {name}.")
        return tuple(task for task in self.found[name] if split in (None, task.split))


def train(count: int) -> tuple[SuiteTask, ...]:
    return tuple(make_task(number, split=Split.TRAIN) for number in range(count))


@dataclass
class Ends:
    """Makes a house's answers end as they are told to: with their limit, unless the text says `whole`."""

    house: House
    ended: list[FinishReason] = field(default_factory=list[FinishReason])

    async def answer(self, request: Request) -> Answered:
        answered = await self.house.answers.answer(request)
        ended: FinishReason = "stop" if answered.completion.text.startswith("whole") else "length"
        self.ended.append(ended)
        return replace(answered, completion=replace(answered.completion, finish_reason=ended))


@dataclass
class Place:
    house: House
    handler: RehearseHandler
    rehearser: Rehearser

    async def rehearse(self, *suites: str, **fields: object) -> RehearsalReport:
        request = RehearseRequest.model_validate({"suites": suites or ("kit",), **fields})
        operation = Operation(
            id="rehearse-1",
            kind=OperationKind.REHEARSE,
            state=RunState.RUNNING,
            request=request.model_dump(mode="json"),
            created_at="",
        )
        return await self.handler.run(operation, self.house.progress)

    def asked(self) -> list[str]:
        return [request.messages[-1].content for request in self.house.answers.asked]


@pytest.fixture
async def place(tmp_path: Path) -> AsyncIterator[Place]:
    async with open_house(tmp_path) as house:
        house.answers.says = lambda prompt, request: f"says {prompt}"
        ends = Ends(house)
        suites = Suites({"kit": train(9), "ink": train(40), "judged": (make_task(0, split=Split.GATE),)})

        def answering(adapter: object) -> Ends:
            house.answers.open(None)
            assert adapter is None, "the base model is asked"
            return ends

        rehearser = Rehearser(replace(house.bench, suites=suites, answering=answering))
        yield Place(house, RehearseHandler(rehearser), rehearser)


async def test_the_base_model_is_asked_as_an_evaluation_asks_it(place: Place) -> None:
    report = await place.rehearse("kit", "ink", count=10, max_tokens=33, seed=4)
    assert (report.asked, len(report.rows), report.suites, report.seed) == (19, 19, ("kit", "ink"), 4)
    assert (report.empty, report.too_long, report.unanswered, report.base_proven) == (0, 0, 0, True)
    assert (report.backend, report.tokens, report.max_tokens) == ("scripted", 19 * 15, 33)
    drawn = {(one.sampling.max_tokens, one.sampling.temperature, one.adapter) for one in place.house.answers.asked}
    assert drawn == {(33, 0.0, None)}
    assert [row.task for row in report.rows[:10]] == [f"rehearsal/kit/t{number}" for number in range(9)] + [
        report.rows[9].task
    ]
    assert all(row.completion == f"says {row.prompt}" and row.cut for row in report.rows)
    assert place.house.answers.most == 3, "as many at once as the backend decodes together"
    assert place.house.told[0] == (0, 19, "") and place.house.told[-1] == (19, 19, "19 rows")


async def test_rows_are_in_the_order_of_the_tasks_whoever_answers_first(place: Place) -> None:
    late = asyncio.Event()
    real = place.house.answers.answer

    async def first_last(request: Request) -> Answered:
        if request.messages[-1].content == "task 0":
            await late.wait()
        elif request.messages[-1].content == "task 8":
            late.set()
        return await real(request)

    place.house.answers.answer = first_last
    report = await place.rehearse("kit")
    assert place.asked()[-1] == "task 0"
    assert [row.prompt for row in report.rows] == [f"task {number}" for number in range(9)]


async def test_an_answer_that_came_to_its_end_is_not_cut_and_one_of_nothing_is_no_row(place: Place) -> None:
    said = {"task 1": "whole answer", "task 2": " \n", "task 3": "whole", "task 4": ""}
    place.house.answers.says = lambda prompt, request: said.get(prompt, "  begun ")
    report = await place.rehearse("kit")
    assert (report.empty, len(report.rows), report.asked) == (2, 7, 9)
    assert {row.prompt: row.completion for row in report.rows if not row.cut} == {
        "task 1": "whole answer", "task 3": "whole"
    }  # fmt: skip
    assert {row.completion for row in report.rows if row.cut} == {"  begun "}, "kept as the model gave it"


async def test_the_rows_are_training_data(place: Place, tmp_path: Path) -> None:
    report = await place.rehearse("kit")
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(row.model_dump_json() + "\n" for row in report.rows))
    found = read_file(file)
    assert [(one.messages[-1].content, one.completion, one.task, one.cut) for one in found] == [
        (row.prompt, row.completion, row.task, True) for row in report.rows
    ]
    assert all(one.keep for one in found)


def test_a_row_has_the_system_turn_and_no_half_character() -> None:
    asked = (Message("system", "Be short."), Message("user", "Say it."))
    row = row_of("kit/t", asked, "gr\u00fc\ufffd", cut=True)
    assert row is not None and (row.system, row.prompt, row.completion) == ("Be short.", "Say it.", "gr\u00fc")
    whole = row_of("kit/t", asked[1:], "\ufffd", cut=False)
    assert whole is not None and (whole.completion, whole.system) == ("\ufffd", ""), "the model said it"
    assert row_of("kit/t", asked, "\ufffd", cut=True) is None


@pytest.mark.parametrize(("have", "count"), [(346, 60), (7, 3), (60, 60), (10, 60), (61, 60)])
def test_prompts_are_from_all_over_the_split_and_the_seed_says_which(have: int, count: int) -> None:
    tasks = train(have)
    drawn = {seed: [tasks.index(task) for task in spread(tasks, count, seed)] for seed in range(6)}
    assert drawn == {seed: [tasks.index(task) for task in spread(tasks, count, seed)] for seed in range(6)}
    for places in drawn.values():
        assert len(places) == min(have, count) == len(set(places)) and places == sorted(places)
        assert _widest(places, have) < 2 * -(-have // count)
    assert have <= count or len({tuple(places) for places in drawn.values()}) > 1


def test_control_the_first_so_many_are_not_from_all_over() -> None:
    """Negative control of the width above."""
    assert _widest(range(60), 346) >= 2 * -(-346 // 60)


def _widest(places: Sequence[int], have: int) -> int:
    """Tasks between two neighbours, or before the first or after the last."""
    ends = [-1, *places, have]
    return max(after - before for before, after in pairwise(ends))


async def test_a_handover_of_the_device_is_waited_for(place: Place) -> None:
    aborted: list[str] = []

    def says(prompt: str, request: Request) -> str | Exception:
        if aborted.count(prompt) < 3:
            aborted.append(prompt)
            return RequestAbortedError()
        return "begun"

    place.house.answers.says = says
    report = await place.rehearse("kit")
    assert (len(report.rows), report.unanswered, len(aborted)) == (9, 0, 27)


async def test_one_failure_of_the_server_is_forgiven_and_two_are_counted(place: Place) -> None:
    asked: list[str] = []

    def says(prompt: str, request: Request) -> str | Exception:
        asked.append(prompt)
        times = {"task 2": 1, "task 5": 2}.get(prompt, 0)
        return ProviderError("it fell over") if asked.count(prompt) <= times else "begun"

    place.house.answers.says = says
    report = await place.rehearse("kit")
    assert (report.unanswered, len(report.rows), len(asked)) == (1, 8, 11)
    assert "rehearsal/kit/t5" not in {row.task for row in report.rows}


async def test_a_prompt_too_long_is_shortened_once_and_then_left_out(place: Place) -> None:
    def says(prompt: str, request: Request) -> str | Exception:
        long = prompt in ("task 2", "task 5", "short task 5")
        return ContextOverflowError("too long") if long else "begun"

    place.house.answers.says = says
    report = await place.rehearse("kit")
    assert (report.too_long, len(report.rows)) == (1, 8)
    shortened = next(row for row in report.rows if row.task == "rehearsal/kit/t2")
    assert shortened.prompt == "short task 2", "what was asked is what is learned"


async def test_a_server_that_is_gone_for_good_ends_it(place: Place) -> None:
    place.house.answers.says = lambda prompt, request: ProviderError("gone")
    with pytest.raises(ProviderError, match=rf"{GIVE_UP_AFTER} answers in a row came to nothing; the last: gone"):
        await place.rehearse("ink")
    assert len(place.asked()) <= 2 * GIVE_UP_AFTER + 6
    with pytest.raises(ProviderError, match=r"No row came of 9 prompts: 0 answers are empty, .* failed on 9"):
        await place.rehearse("kit")
    place.house.answers.says = lambda prompt, request: DeviceBusyError("training")
    with pytest.raises(DeviceBusyError):
        await place.rehearse("kit")


async def test_a_model_that_says_nothing_gives_no_file_of_nothing(place: Place) -> None:
    place.house.answers.says = lambda prompt, request: " "
    with pytest.raises(ProviderError, match="No row came of 9 prompts: 9 answers are empty"):
        await place.rehearse("kit")


async def test_what_nothing_can_be_rehearsed_from_is_refused_before_anything_is_asked(place: Place) -> None:
    for suites, error, what in (
        (("kit", "judged"), InputError, "The suite judged has no tasks in train"),
        (("none",), NotFoundError, "no suite none"),
    ):
        with pytest.raises(error, match=what):
            await place.rehearser.check(RehearseRequest(suites=suites))
        with pytest.raises(error, match=what):
            await place.rehearse(*suites)
    await place.rehearser.check(RehearseRequest(suites=("kit", "ink")))
    assert place.asked() == []


async def test_a_server_that_answers_with_another_model_is_no_proof(place: Place) -> None:
    """Negative control of the proof: an adapter answers where the base model was asked for."""
    place.house.answers.served = "some-adapter"
    assert not (await place.rehearse("kit")).base_proven
