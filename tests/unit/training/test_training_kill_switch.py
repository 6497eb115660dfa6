"""The kill switch of training, the engine's side (A78): real children under the real guardian, answers by script."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from support.plain_benchmark import numbered, plain_benchmark
from support.training_house import House, open_house

from engine.api_models import RunState
from engine.api_training import TrainJob
from engine.device.contracts import TrainerEnd
from engine.errors import TrainingError
from engine.evaluation.training_benchmark import TrainingBenchmark
from engine.training.ending import Ending
from engine.training.jobs import Claimed
from engine.training.kill_switch import Files, KillSwitch
from engine.training.protocol import MAX_ANSWER, Answer
from engine.training.spec import read_spec
from engine.training.trainer import JobTrainer
from engine.training.workplace import Workplace
from registry.errors import AdapterNotFound

SAMPLES = 25
SETTINGS = (
    "device.trainer_grace_s=5",
    "device.heartbeat_s=10",
    "train.kill_switch=true",
    f"train.kill_samples={SAMPLES}",
    "train.kill_cadence=4",
    "train.kill_benchmark=mine",
)
DONE = (["adapter", 1], ["end"], ["exit", 0])
PLENTY_S = 90.0


def solving(number: int) -> list[str]:
    """Answers of which so many pass."""
    return ["# pass"] * number + ["# fail 0/1"] * (SAMPLES - number)


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[House]:
    async with open_house(tmp_path, *SETTINGS) as opened:
        yield opened


async def prepared(house: House, claimed: Claimed, with_: TrainingBenchmark | None = None) -> KillSwitch:
    """As `TrainingService.prepare` does it."""
    place = Workplace.of_job(house.home, claimed.job.id)
    await asyncio.to_thread(place.prepare, from_scratch=claimed.from_scratch)
    seed = claimed.job.request.seed
    measured_with = with_ or plain_benchmark(numbered(SAMPLES))
    return await KillSwitch.prepare(measured_with, claimed.recipe, seed, place.kill_switch, 64)


async def claim(house: House) -> Claimed:
    await house.enqueue(adapter_id="mine")
    return await house.claimed()


async def run(house: House, claimed: Claimed, *play: object) -> tuple[TrainerEnd, JobTrainer]:
    trainer = await house.trainer_of(claimed, *play, kill_switch=await prepared(house, claimed))
    async with asyncio.timeout(PLENTY_S):
        end = await trainer.run(epoch=1)
        await trainer.publish()
    return end, trainer


async def job(house: House, claimed: Claimed) -> TrainJob:
    return await house.jobs.get(claimed.job.id)


async def scores(house: House, claimed: Claimed) -> list[tuple[object, object, object]]:
    """(step, score, baseline) of the progress events that tell one."""
    told = await house.events(f"training/{claimed.job.id}")
    return [(one["step"], one["score"], one["baseline_score"]) for one in told if one.get("score") is not None]


# --- one attempt -------------------------------------------------------------------------------------------------


async def test_a78_a_model_that_gets_worse_ends_the_job_and_nothing_is_published(house: House) -> None:
    claimed = await claim(house)
    play = (["look", 0, solving(15)], ["steps", 4, 0], ["look", 4, solving(14)], ["look", 8, solving(10)], *DONE)
    end, _ = await run(house, claimed, *play)
    reason = "The kill switch: mine 0.60 before, 0.40 now at step 8, and 0.05 less is allowed; nothing is published."
    assert not end.succeeded and end.reason.startswith(reason)
    after = await job(house, claimed)
    assert (after.state, after.reason) == (RunState.FAILED, end.reason)
    with pytest.raises(AdapterNotFound):
        await house.registry.get("mine")


async def test_a78_a_model_that_does_not_goes_on_and_its_job_says_the_scores(house: House) -> None:
    claimed = await claim(house)
    play = (["look", 0, solving(15)], ["steps", 4, 0], ["look", 4, solving(14)], ["look", 8, solving(20)], *DONE)
    end, _ = await run(house, claimed, *play)
    assert end.succeeded and (await house.registry.get("mine")).id == "mine"
    after = await job(house, claimed)
    assert {name: after.metrics[name] for name in ("baseline_score", "score", "score_step")} == {
        "baseline_score": 0.6,
        "score": 0.8,
        "score_step": 8,
    }


async def test_a78_progress_tells_the_score_when_it_was_measured_and_at_no_other_step(house: House) -> None:
    claimed = await claim(house)
    await run(house, claimed, ["look", 0, solving(15)], ["steps", 4, 0], ["look", 4, solving(14)], ["steps", 4, 0])
    assert await scores(house, claimed) == [(4, 14 / SAMPLES, 0.6)]


async def test_without_a_kill_switch_answers_are_not_taken(house: House) -> None:
    claimed = await claim(house)
    trainer = await house.trainer_of(claimed, ["say", Answer(step=0, number=0, text="", cut=False).model_dump()])
    async with asyncio.timeout(PLENTY_S):
        end = await trainer.run(epoch=1)
    assert "has no kill switch" in end.reason


@pytest.mark.parametrize(
    ("step", "number"), [(4, 0), (0, 1)], ids=["a step before the baseline", "the second answer first"]
)
async def test_answers_that_nobody_asked_for_end_the_attempt(house: House, step: int, number: int) -> None:
    claimed = await claim(house)
    word = Answer(step=step, number=number, text="", cut=False).model_dump()
    end, _ = await run(house, claimed, ["say", word], ["wait"])
    assert "which nobody asked" in end.reason
    assert (await job(house, claimed)).state is RunState.QUEUED


async def test_the_longest_answer_fits_into_a_word(house: House) -> None:
    claimed = await claim(house)
    texts = ["\x01" * MAX_ANSWER, *solving(SAMPLES)[1:]]
    end, _ = await run(house, claimed, ["look", 0, texts], *DONE)
    assert end.succeeded
    assert (await job(house, claimed)).metrics["baseline_score"] == (SAMPLES - 1) / SAMPLES


async def test_a_judge_that_fails_is_no_verdict_the_job_waits_for_the_next_attempt(house: House) -> None:
    """Neither a wrong answer nor a licence to go on unwatched."""
    claimed = await claim(house)
    broken = ["# broken judge", *solving(SAMPLES)[1:]]
    end, _ = await run(house, claimed, ["look", 0, solving(15)], ["look", 4, broken], *DONE)
    assert "The judge failed on t0" in end.reason
    assert (await job(house, claimed)).state is RunState.QUEUED
    record = await asyncio.to_thread(Files(Workplace.of_job(house.home, claimed.job.id).kill_switch).read)
    assert record is not None and [(look.step, look.solved) for look in record.looks] == [(0, 15)]


async def test_a_baseline_from_which_nothing_can_be_lost_is_warned_of(
    house: House, caplog: pytest.LogCaptureFixture
) -> None:
    claimed = await claim(house)
    await run(house, claimed, ["look", 0, solving(1)], ["look", 4, solving(0)], *DONE)
    assert re.search(r"cannot act: mine is at 0\.04 before training", caplog.text)


# --- several attempts --------------------------------------------------------------------------------------------


async def test_a78_after_a_kill_the_baseline_stands_and_a_look_is_not_made_again(house: House) -> None:
    claimed = await claim(house)
    await run(house, claimed, ["look", 0, solving(15)], ["steps", 4, 0], ["look", 4, solving(14)], ["kill"])
    again = await house.claimed()
    end, trainer = await run(house, again, ["steps", 8, 0], ["look", 8, solving(10)], *DONE)
    assert trainer.spec.look is not None and trainer.spec.look.looked == 4
    assert "mine 0.60 before, 0.40 now at step 8" in end.reason


async def test_a78_killed_before_its_first_ruling_the_baseline_is_taken_anew(house: House) -> None:
    claimed = await claim(house)
    await run(house, claimed, ["say", Answer(step=0, number=0, text="# pass", cut=False).model_dump()], ["kill"])
    end, trainer = await run(house, await house.claimed(), ["look", 0, solving(15)], *DONE)
    assert end.succeeded and trainer.spec.look is not None and trainer.spec.look.looked is None


async def test_a_resumed_job_is_asked_the_same_whatever_became_of_the_suite(house: House) -> None:
    claimed = await claim(house)
    await run(house, claimed, ["look", 0, solving(15)], ["kill"])
    questions = Workplace.of_job(house.home, claimed.job.id).kill_switch / "questions.jsonl"
    before = await asyncio.to_thread(questions.read_bytes)
    other = plain_benchmark(numbered(SAMPLES, first=100))
    switch = await prepared(house, await house.claimed(), other)
    assert await asyncio.to_thread(questions.read_bytes) == before
    assert switch.spec(512).looked == 0 and switch.spec(512).max_tokens == 64
    assert json.loads(before.splitlines()[3])["messages"] == [{"role": "user", "content": "task 3"}]


async def test_a78_a_halted_job_stays_halted_until_it_starts_over(house: House) -> None:
    """Also where the engine died between the ruling and the end of the child."""
    claimed = await claim(house)
    end, _ = await run(house, claimed, ["look", 0, solving(15)], ["look", 4, solving(0)])
    await house.jobs.resume(claimed.job.id)
    again = await house.claimed()
    with pytest.raises(TrainingError, match=re.escape(end.reason)):
        await prepared(house, again)
    await house.jobs.settle(again.claim, Ending.FAILED, end.reason, None)
    await house.jobs.resume(claimed.job.id, from_scratch=True)
    assert (await prepared(house, await house.claimed())).spec(512).looked is None


async def test_a_damaged_record_is_no_baseline(house: House) -> None:
    claimed = await claim(house)
    await run(house, claimed, ["look", 0, solving(15)], ["kill"])
    record = Workplace.of_job(house.home, claimed.job.id).kill_switch / "record.json"
    await asyncio.to_thread(record.write_text, "{}")
    with pytest.raises(TrainingError, match="damaged"):
        await prepared(house, await house.claimed())


async def test_the_child_is_told_where_to_ask_and_to_listen(house: House) -> None:
    claimed = await claim(house)
    _, trainer = await run(house, claimed, ["look", 0, solving(15)], ["kill"])
    place = Workplace.of_job(house.home, trainer.job_id)
    told = (await asyncio.to_thread(read_spec, place.spec)).look
    assert told is not None and (told.cadence, told.max_tokens) == (4, 64)
    assert told.context_tokens == house.config.model.context_tokens
    assert await asyncio.to_thread(told.rulings.is_fifo) and await asyncio.to_thread(told.questions.is_file)
