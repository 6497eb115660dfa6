"""Measuring: what is asked, what is counted, what is never measured twice (A80, A81, A84)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from support.evaluation_house import Answers, House, make_task, open_house, right

from engine.api_device import BackendName
from engine.api_learning import EvaluateRequest, SampleOutcome, Split
from engine.errors import (
    AdapterUnsupportedError,
    ContextOverflowError,
    DeviceBusyError,
    InputError,
    ModelNotFoundError,
    NotFoundError,
    ProviderError,
    RequestAbortedError,
)
from engine.evaluation.asking import GIVE_UP_AFTER
from engine.evaluation.evaluator import Evaluator
from engine.evaluation.metrics import pass_at_k, wilson
from engine.evaluation.reports import Reports
from engine.inference.admitted import Answered
from engine.inference.provider import Request


@dataclass
class From:
    """The same answers, given by another backend."""

    answers: Answers
    backend: BackendName

    async def answer(self, request: Request) -> Answered:
        return replace(await self.answers.answer(request), backend=self.backend)


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[House]:
    async with open_house(tmp_path) as opened:
        yield opened


async def test_a84_a_report_says_what_was_measured_how_and_how_sure(house: House) -> None:
    report = await house.evaluate(adapter="mine", seed=5)
    assert (report.adapter, report.adapter_digest, report.digest_proven) == ("mine", house.digest, True)
    assert (report.suite, report.split, report.seed, report.tasks) == ("mine", Split.GATE, 5, 6)
    assert (report.base_model, report.backend) == (house.bench.config.model.base_id, "scripted")
    assert report.open_book is False and report.base_file is not None
    assert report.sampling["temperature"] == 0.0 and report.sampling["max_tokens"] == 256
    expected = wilson(6, 6)
    assert (report.pass_at_1.passed, report.pass_at_1.low) == (6, expected.low)
    assert (report.infrastructure, report.no_data, report.tokens) == (0, False, 90)
    assert report.seconds > 0 and len(report.key) == len(report.suite_digest) == 64 and report.created_at
    assert {request.adapter for request in house.answers.asked} == {house.digest}
    assert house.answers.adapter is not None and house.answers.adapter.name == house.digest


async def test_the_base_is_measured_by_groups_and_by_templates(house: House) -> None:
    tasks = [
        make_task(0),
        make_task(1),
        make_task(2, group="deeper"),
        make_task(3, group="deeper"),
        make_task(4, split=Split.TRAIN),
    ]
    report = await house.with_tasks(tasks).evaluate()
    assert (report.adapter_digest, report.digest_proven) == (None, True)
    assert {name: (rate.passed, rate.total) for name, rate in report.by_group.items()} == {
        "in": (1, 2), "deeper": (1, 2)
    }  # fmt: skip
    assert set(report.by_template) == {"c0", "c1"} and report.tasks == 4
    deeper = await house.with_tasks(tasks).evaluate(groups=["deeper"], limit=1)
    assert [sample.task for sample in deeper.sampled] == ["t2"]
    with pytest.raises(InputError, match="no such tasks in audit"):
        await house.evaluate(split="audit", groups=["none"])


async def test_a80_pass_at_k_is_unbiased_over_the_samples(house: House) -> None:
    """Three of ten samples of one task and none of the other."""

    first = await house.with_tasks([make_task(0), make_task(1)]).evaluate(samples=10, k=5)
    seeds = [request.sampling.seed for request in house.answers.asked if request.messages[-1].content == "task 0"]
    lucky = sorted(seeds)[:3]
    assert len({request.sampling.seed for request in house.answers.asked}) == 20
    assert {request.sampling.temperature for request in house.answers.asked} == {0.8}
    assert first.pass_at_k == 0.5  # all of task 0, none of task 1

    def says(prompt: str, request: Request) -> str:
        return "# pass" if request.sampling.seed in lucky else "# fail 0/1"

    house.answers.says = says
    report = await house.with_tasks([make_task(0), make_task(1)]).evaluate(samples=10, k=5, max_tokens=99)
    assert report.pass_at_k == pytest.approx(pass_at_k(10, 3, 5) / 2)
    assert report.pass_at_1.total == 2 and report.k == 5


async def test_as_many_at_once_as_the_backend_decodes_together(house: House) -> None:
    await house.evaluate()
    assert house.answers.most == 3
    one = house.bench.config.evaluation.model_copy(update={"at_once": 1})
    alone = house.configured(house.bench.config.model_copy(update={"evaluation": one}))
    house.answers.most = 0
    await alone.evaluate(seed=1)
    assert house.answers.most == 1


async def test_what_was_measured_is_given_back(house: House) -> None:
    first = await house.evaluate()
    again = await house.evaluate()
    assert again == first and len(house.answers.asked) == 6
    assert house.told[-1] == (6, 6, "measured before")
    assert await house.reports.latest(None, "mine", Split.GATE) == first
    assert await house.reports.latest(house.digest, "mine", Split.GATE) is None
    assert await house.reports.page("base") == [first] and await house.reports.page("mine") == []


async def test_a_larger_evaluation_takes_over_the_smaller_ones_samples(house: House) -> None:
    await house.evaluate(limit=4)
    whole = await house.evaluate()
    assert len(house.answers.asked) == 6 and whole.tasks == 6 and whole.tokens == 90
    assert house.told[-3][:2] == (4, 6)


@pytest.mark.parametrize("other", [{"seed": 1}, {"adapter": "mine"}, {"max_tokens": 9}, {"temperature": 0.5}])
async def test_whatever_changes_the_outcome_is_measured_anew(house: House, other: dict[str, object]) -> None:
    await house.evaluate()
    await house.evaluate(**other)
    assert len(house.answers.asked) == 12


async def test_a81_infrastructure_is_neither_right_nor_wrong(house: House) -> None:
    def says(prompt: str, request: Request) -> str | Exception:
        if prompt == "task 0":
            return ProviderError("the server fell over")
        return "# broken judge" if prompt == "task 2" else right(prompt, request)

    house.answers.says = says
    report = await house.evaluate()
    assert report.infrastructure == 2 and (report.pass_at_1.passed, report.pass_at_1.total) == (1, 4)
    outcomes = {sample.task: sample for sample in report.sampled}
    assert outcomes["t0"].outcome is outcomes["t2"].outcome is SampleOutcome.INFRASTRUCTURE
    assert outcomes["t0"].reason == "the server fell over" and outcomes["t1"].outcome is SampleOutcome.FAILED
    assert len(house.answers.asked) == 8  # each of the two was tried once more
    house.answers.says = right
    mended = await house.evaluate()
    assert len(house.answers.asked) == 10 and mended.pass_at_1.total == 6 and mended.key == report.key
    assert await house.reports.find(report.key) == mended


async def test_one_failure_is_forgiven(house: House) -> None:
    failed: set[str] = set()

    def says(prompt: str, request: Request) -> str | Exception:
        if prompt not in failed:
            failed.add(prompt)
            return ProviderError("hiccup")
        return right(prompt, request)

    house.answers.says = says
    report = await house.evaluate()
    assert (report.infrastructure, report.pass_at_1.passed) == (0, 3)


async def test_a82_nothing_judged_is_no_data_and_a_rate_of_nothing(house: House) -> None:
    house.answers.says = lambda prompt, request: ProviderError("gone")
    report = await house.evaluate()
    assert report.no_data and not report.digest_proven
    assert (report.pass_at_1.value, report.pass_at_1.low, report.pass_at_1.high, report.pass_at_k) == (0, 0, 1, 0)


async def test_a_server_that_is_gone_for_good_ends_it(house: House) -> None:
    house.answers.says = lambda prompt, request: ProviderError("gone")
    many = house.with_tasks([make_task(number) for number in range(100)])
    with pytest.raises(ProviderError, match=rf"{GIVE_UP_AFTER} answers in a row came to nothing; the last: gone"):
        await many.evaluate()
    assert len(house.answers.asked) <= 2 * GIVE_UP_AFTER + 6


@pytest.mark.parametrize("error", [AdapterUnsupportedError("no"), DeviceBusyError("training")])
async def test_what_no_retry_mends_ends_it_at_once(house: House, error: Exception) -> None:
    house.answers.says = lambda prompt, request: error
    with pytest.raises(type(error)):
        await house.evaluate()


async def test_a_handover_of_the_device_is_waited_for(house: House) -> None:
    aborted: list[str] = []

    def says(prompt: str, request: Request) -> str | Exception:
        if aborted.count(prompt) < 3:
            aborted.append(prompt)
            return RequestAbortedError()
        return right(prompt, request)

    house.answers.says = says
    report = await house.evaluate()
    assert report.infrastructure == 0 and report.pass_at_1.passed == 3


async def test_a_prompt_too_long_is_shortened_once_and_then_is_a_failure(house: House) -> None:
    def says(prompt: str, request: Request) -> str | Exception:
        long = not prompt.startswith("short") or prompt.endswith("4")
        return ContextOverflowError("too long") if long else right(prompt, request)

    house.answers.says = says
    report = await house.evaluate()
    assert (report.infrastructure, report.pass_at_1.passed, report.pass_at_1.total) == (0, 2, 6)
    assert report.digest_proven  # of those that were answered


async def test_an_answer_without_code_is_a_failure_and_nothing_is_run(house: House) -> None:
    house.answers.says = lambda prompt, request: "none"
    report = await house.evaluate()
    assert report.pass_at_1.passed == 0 and house.judge.checked == []
    assert report.sampled[0].reason == "the answer has no code"


async def test_a_server_that_answers_with_another_model_is_no_proof(house: House) -> None:
    """Negative control of the proof: the server names the base model where the adapter was asked for."""
    house.answers.served = "base-model"
    assert not (await house.evaluate(adapter="mine")).digest_proven
    assert (await house.evaluate()).digest_proven


async def test_an_adapter_that_cannot_be_loaded_is_refused_before_anything_is_asked(house: House) -> None:
    with pytest.raises(NotFoundError, match="none"):
        await house.evaluate(adapter="none")
    with pytest.raises(NotFoundError, match="none"):
        await house.evaluator.check(EvaluateRequest(suite="mine", adapter="none"))
    with pytest.raises(InputError, match="audit"):
        await house.evaluator.check(EvaluateRequest(suite="mine", split=Split.AUDIT))
    await house.evaluator.check(EvaluateRequest(suite="mine", adapter="mine"))
    assert house.answers.asked == []


async def test_a_cancelled_evaluation_goes_on_where_it_stood(house: House) -> None:
    """Cancelled in the midst of the fourth answer; the first three stand, and are not asked for again."""
    config = house.bench.config
    one = config.model_copy(update={"evaluation": config.evaluation.model_copy(update={"at_once": 1})})
    slow = house.configured(one)
    reached = asyncio.Event()
    real = house.answers.answer

    async def hang_at_the_fourth(request: Request) -> Answered:
        if len(house.answers.asked) == 3:
            reached.set()
            await asyncio.Event().wait()
        return await real(request)

    house.answers.answer = hang_at_the_fourth
    async with asyncio.TaskGroup() as group:
        running = group.create_task(slow.evaluate())
        await reached.wait()
        running.cancel()
    assert await house.reports.page() == []  # no half report
    asked = [request.messages[-1].content for request in house.answers.asked]
    house.answers.answer = real
    report = await slow.evaluate()
    again = [request.messages[-1].content for request in house.answers.asked[len(asked) :]]
    assert len(asked) == 3 and set(asked).isdisjoint(again) and len(again) == 3
    assert report.pass_at_1.passed == 3


async def test_a_switch_of_the_backend_ends_it_and_resumed_it_is_measured_anew(house: House) -> None:
    """Kept, the answers of the new backend would stand under keys of the old one, and none could be proven."""
    serving = From(house.answers, BackendName.SCRIPTED)

    def says(prompt: str, request: Request) -> str:
        if len(house.answers.asked) == 4:
            serving.backend = BackendName.TRANSFORMERS
        return right(prompt, request)

    house.answers.says = says
    config = house.bench.config
    one = config.model_copy(update={"evaluation": config.evaluation.model_copy(update={"at_once": 1})})
    bench = replace(house.bench, config=one, backend=lambda: serving.backend, answering=lambda _: serving)
    switched = replace(house, bench=bench, evaluator=Evaluator(bench))
    with pytest.raises(ProviderError, match="switched to transformers while scripted was measured; resume it"):
        await switched.evaluate()
    assert len(house.answers.asked) == 4 and await house.reports.page() == []
    resumed = await switched.evaluate()
    assert (resumed.backend, resumed.digest_proven) == ("transformers", True) and len(house.answers.asked) == 10
    serving.backend = BackendName.SCRIPTED
    back = await switched.evaluate()
    assert back.backend == "scripted" and len(house.answers.asked) == 13  # its first three stood


async def test_resuming_without_the_store_would_measure_twice(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """Negative control: the test above fails where samples are not kept."""

    async def forgetful(self: Reports, key: str, sample: object) -> None:
        del self, key, sample

    monkeypatch.setattr(Reports, "keep_sample", forgetful)
    await house.evaluate(limit=3)
    await house.evaluate()
    assert len(house.answers.asked) == 9


async def test_a_report_is_told_without_its_samples(house: House) -> None:
    report = await house.evaluate()
    (event,) = [event for event in house.recorder.events if event.subject.startswith("evaluation/")]
    assert event.subject == f"evaluation/{report.key[:16]}"
    assert event.payload["adapter"] == "base" and "sampled" not in event.payload


# --- the base model is known by its content ------------------------------------------------------------------


def _with_model(house: House, model: Path, backend: str = "llamacpp") -> House:
    config = house.bench.config
    at = house.configured(config.model_copy(update={"model": config.model.model_copy(update={"path": str(model)})}))
    bench = replace(
        at.bench,
        backend=lambda: backend,
        answering=lambda adapter: From(house.answers.open(adapter), BackendName(backend)),
    )
    return replace(at, bench=bench, evaluator=Evaluator(bench))


def _write(path: Path, content: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


async def test_a_base_model_that_was_moved_is_not_measured_again(house: House, tmp_path: Path) -> None:
    first = await _with_model(house, _write(tmp_path / "here" / "base.gguf", b"weights")).evaluate()
    moved = _with_model(house, (tmp_path / "here").rename(tmp_path / "there") / "base.gguf")
    assert await moved.evaluate() == first and len(house.answers.asked) == 6


async def test_another_base_model_under_the_same_path_is_measured_anew(house: House, tmp_path: Path) -> None:
    """It has as many bytes; samples are not taken over either. Negative control: as it was again, it is known."""
    here = _with_model(house, _write(tmp_path / "base.gguf", b"weights"))
    first = await here.evaluate()
    _write(tmp_path / "base.gguf", b"wEights")
    second = await here.evaluate()
    assert second.key != first.key and len(house.answers.asked) == 12
    _write(tmp_path / "base.gguf", b"weights")
    assert await here.evaluate() == first and len(house.answers.asked) == 12


async def test_without_a_base_model_nothing_is_measured_and_nothing_is_found(house: House, tmp_path: Path) -> None:
    with pytest.raises(ModelNotFoundError, match="there is no such file"):
        await _with_model(house, tmp_path / "none.gguf").evaluate()
    assert house.answers.asked == []
