"""The trainer as the device's owner sees it, with real children under the real guardian (A53, A56, D3)."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from support.training_house import House, open_house

from engine.api_models import RunState
from engine.api_training import TrainJob
from engine.device.contracts import TrainerEnd
from engine.device.guarded import Exit
from engine.training import trainer as trainer_module
from engine.training.ending import Ending
from engine.training.outcome import Heard, outcome_of
from engine.training.trainer import JobTrainer
from engine.training.workplace import Workplace
from registry.errors import AdapterNotFound
from registry.models import NewAdapter, Source
from registry.samples import write_sample

DONE = (["steps", 3, 0], ["adapter", 1], ["end"], ["exit", 0])
PLENTY_S = 90.0


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[House]:
    async with open_house(tmp_path, "device.trainer_grace_s=5", "device.heartbeat_s=10") as opened:
        yield opened


async def run(trainer: JobTrainer) -> TrainerEnd:
    async with asyncio.timeout(PLENTY_S):
        return await trainer.run(epoch=1)


async def now(house: House, trainer: JobTrainer) -> TrainJob:
    return await house.jobs.get(trainer.job_id)


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


async def test_a_job_ends_with_its_adapter_in_one_transaction(house: House) -> None:
    trainer, claimed = await house.trainer(*DONE, adapter_id="mine", seed=7)
    assert (await run(trainer), trainer.process) == (TrainerEnd(True, ""), None)
    assert (await now(house, trainer)).state is RunState.RUNNING, "nothing is settled before it is published"
    live = await trainer.publish()
    adapter = await house.registry.get("mine")
    assert live is not None and (live.name, Path(live.directory).name) == (adapter.digest, adapter.digest)
    assert (adapter.source, adapter.base_model_id, adapter.parent_ids) == (Source.QLORA, "samples/tiny", ())
    job = await now(house, trainer)
    assert (job.state, job.metrics["final_loss"], job.metrics["seed"]) == (RunState.SUCCEEDED, 0.5, 7)
    assert job.metrics["data_digest"] == job.data_digest == claimed.job.data_digest
    assert not await asyncio.to_thread(Workplace.of_job(house.home, trainer.job_id).root.exists)
    assert await trainer.publish() == live, "asked again, it says the same"
    told = [(event.subject.partition("/")[0], str(event.payload)) for event in await house.journal.replay()]
    first = next(place for place, (kind, said) in enumerate(told) if kind == "adapter" and "published" in said)
    last = next(place for place, (kind, said) in enumerate(told) if kind == "job" and "succeeded" in said)
    assert [kind for kind, _ in told[first : last + 1]] == ["adapter", "change", "job"], "nothing came between"


async def test_a_warm_start_is_the_parent(house: House) -> None:
    sample = await asyncio.to_thread(write_sample, house.home / "sample", 9)
    parent = await house.registry.publish(sample, NewAdapter(id="old", task_type="x", source=Source.MANUAL))
    trainer, _ = await house.trainer(*DONE, adapter_id="new", warm_start="old")
    await run(trainer)
    await trainer.publish()
    adapter = await house.registry.get("new")
    assert (adapter.parent_ids, adapter.generation) == (("old",), parent.generation + 1)


async def test_a56_progress_is_told_at_a_bounded_rate_and_the_last_step_always(house: House) -> None:
    trainer, _ = await house.trainer(["steps", 400, 0], ["exit", 70])
    await run(trainer)
    steps = [payload["step"] for payload in await house.events(f"training/{trainer.job_id}") if "step" in payload]
    assert steps[0] == 1 and steps[-1] == 400 and len(steps) < 20
    progress = (await now(house, trainer)).progress
    assert progress is not None and (progress.step, progress.loss) == (400, 1 / 400)


@pytest.mark.parametrize(
    ("play", "state", "reason"),
    [
        ([["say", {"type": "error", "reason": "The loss exploded."}], ["exit", 70]], "failed", "The loss exploded."),
        ([["say", {"type": "error", "reason": "Too big."}], ["exit", 71]], "failed", "Too big."),
        ([["steps", 2, 0], ["exit", 1]], "failed", "ended with status 1 at step 2"),
        ([["adapter", 1], ["exit", 0]], "failed", "ended with status 0 before its first step"),
        ([["steps", 2, 0], ["kill"]], "queued", "ended by SIGKILL at step 2"),
        ([["exit", 75]], "queued", "status 75"),
        ([["raw", "no word\n"], ["wait"]], "queued", "not a word of its protocol"),
        ([["raw", "x" * 600_000 + "\n"], ["wait"]], "queued", "bytes"),
        ([["adapter", 1], ["end"], ["raw", "!\n"], ["exit", 0]], "queued", "not a word of its protocol"),
    ],
)
async def test_every_other_end_is_settled_with_a_reason(
    house: House, play: list[object], state: str, reason: str
) -> None:
    trainer, _ = await house.trainer(*play)
    ended = await run(trainer)
    assert not ended.succeeded and reason in ended.reason
    assert await trainer.publish() is None
    job = await now(house, trainer)
    assert (job.state, reason in job.reason) == (RunState(state), True)
    with pytest.raises(AdapterNotFound):
        await house.registry.get(job.adapter_id)


async def test_an_unexplained_end_quotes_the_log(house: House) -> None:
    trainer, _ = await house.trainer(["no such act"])
    assert "AssertionError: no such act" in (await run(trainer)).reason


async def test_a53_cancelling_lets_it_write_a_checkpoint_and_then_nothing_is_left(house: House) -> None:
    trainer, _ = await house.trainer(["steps", 1, 0], ["wait"])
    running = asyncio.ensure_future(trainer.run(epoch=1))
    await told_a_step(house, trainer)
    guardian = trainer.process
    assert guardian is not None and is_alive(guardian.pid)
    await house.jobs.pause(trainer.job_id)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert trainer.process is None and not is_alive(guardian.pid)
    assert await asyncio.to_thread((Workplace.of_job(house.home, trainer.job_id).checkpoints / "step").exists)
    await trainer.publish()
    job = await now(house, trainer)
    assert (job.state, job.reason) == (RunState.INTERRUPTED, "paused")


async def test_one_that_does_not_hear_is_killed_after_its_grace(house: House) -> None:
    house.config = house.config.model_copy(
        update={"device": house.config.device.model_copy(update={"trainer_grace_s": 0.2})}
    )
    trainer, _ = await house.trainer(["deaf"], ["steps", 1, 0], ["wait"])
    running = asyncio.ensure_future(trainer.run(epoch=1))
    await told_a_step(house, trainer)
    await house.jobs.cancel(trainer.job_id)
    running.cancel()
    async with asyncio.timeout(PLENTY_S):
        with pytest.raises(asyncio.CancelledError):
            await running
    await trainer.publish()
    assert (await now(house, trainer)).state is RunState.CANCELLED


async def told_a_step(house: House, trainer: JobTrainer) -> None:
    async with asyncio.timeout(PLENTY_S):
        async for event in house.journal.stream():
            if event.subject == f"training/{trainer.job_id}" and "step" in event.payload:  # type: ignore[union-attr]  # chunks are not asked for
                return


async def test_silence_is_a_hang_and_is_ended(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trainer_module, "FIRST_WORD_S", 0.0)
    house.config = house.config.model_copy(
        update={"device": house.config.device.model_copy(update={"heartbeat_s": 0.5, "trainer_grace_s": 0.2})}
    )
    trainer, _ = await house.trainer(["deaf"], ["wait"])
    ended = await run(trainer)
    assert "said nothing for" in ended.reason
    assert trainer.process is None


async def test_heartbeats_keep_a_slow_trainer_alive(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """Negative control of the one above: a limit of 3 s, and a child that takes longer but beats."""
    monkeypatch.setattr(trainer_module, "MISSED_BEATS", 3)
    house.config = house.config.model_copy(
        update={"device": house.config.device.model_copy(update={"heartbeat_s": 1.0})}
    )
    beat = ["say", {"type": "heartbeat"}]
    pause = ["steps", 3, 0.6]
    trainer, _ = await house.trainer(beat, pause, beat, pause, ["adapter", 1], ["end"], ["exit", 0])
    assert (await run(trainer)).succeeded


async def test_what_finished_but_was_not_published_is_not_trained_again(house: House) -> None:
    """A crash between the trainer's end and the commit: the next attempt publishes what there is."""
    trainer, claimed = await house.trainer(*DONE, adapter_id="mine")
    await run(trainer)
    after = await house.recovered("second")
    again = await after.trainer_of(await after.claimed(), ["exit", 1])
    assert (await run(again)).succeeded, "the child, which would fail, is not started"
    assert await again.publish() is not None
    job = await now(after, again)
    assert (job.state, job.id) == (RunState.SUCCEEDED, claimed.job.id)


async def test_control_an_output_without_its_result_is_trained_again(house: House) -> None:
    """Negative control: a child killed after it wrote the adapter but before its end is no finished job."""
    trainer, _ = await house.trainer(["adapter", 1], ["kill"])
    await run(trainer)
    await trainer.publish()
    again = await house.trainer_of(await house.claimed(), ["exit", 1])
    assert not (await run(again)).succeeded


async def test_the_result_of_a_lost_lease_is_not_published(house: House) -> None:
    trainer, _ = await house.trainer(*DONE, adapter_id="mine")
    await run(trainer)
    after = await house.recovered("second")
    assert await trainer.publish() is None
    with pytest.raises(AdapterNotFound):
        await house.registry.get("mine")
    assert (await after.jobs.get(trainer.job_id)).state is RunState.QUEUED


async def test_an_id_that_was_taken_meanwhile_fails_the_job_and_keeps_the_result(house: House) -> None:
    trainer, _ = await house.trainer(*DONE, adapter_id="mine")
    await run(trainer)
    sample = await asyncio.to_thread(write_sample, house.home / "sample", 9)
    await house.registry.publish(sample, NewAdapter(id="mine", task_type="x", source=Source.MANUAL))
    assert await trainer.publish() is None
    job = await now(house, trainer)
    assert (job.state, "already published" in job.reason) == (RunState.FAILED, True)
    assert await asyncio.to_thread(Workplace.of_job(house.home, job.id).result) is not None


async def test_hostile_weights_are_refused_by_the_registry_and_fail_the_job(house: House) -> None:
    trainer, _ = await house.trainer(*DONE, adapter_id="mine")
    await run(trainer)
    weights = Workplace.of_job(house.home, trainer.job_id).output / "adapter_model.safetensors"
    await asyncio.to_thread(weights.write_bytes, b"\xff" * 100)
    assert await trainer.publish() is None
    assert (await now(house, trainer)).state is RunState.FAILED


async def test_out_of_memory_at_the_start_is_tried_once_more_with_half(house: House) -> None:
    trainer, claimed = await house.trainer(["kill"])
    assert (await run(trainer)).retry_smaller
    assert claimed.recipe.micro_batch == 4
    await run(trainer)
    recipe = (await now(house, trainer)).recipe
    assert (recipe["micro_batch"], recipe["batch_size"]) == (2, 8)


@pytest.mark.parametrize(("steps", "micro_batch"), [(1, 4), (0, 1)])
async def test_control_a_kill_that_less_memory_would_not_have_spared_is_no_such_case(
    steps: int, micro_batch: int
) -> None:
    outcome = outcome_of(Exit(None, signal.SIGKILL, "was ended by SIGKILL"), Heard(steps=steps))
    assert not outcome.end(can_shrink=micro_batch > 1).retry_smaller


async def test_a_trainer_that_never_ran_is_settled_by_its_worker(house: House) -> None:
    """Memory could not be proven: the owner never calls `run`, and says why."""
    trainer, _ = await house.trainer(*DONE)
    assert await trainer.publish() is None
    assert (await now(house, trainer)).state is RunState.RUNNING
    await trainer.settle(Ending.FAILED, "needs 9000 MiB, 100 are free")
    await trainer.settle(Ending.CRASHED, "twice is harmless")
    job = await now(house, trainer)
    assert (job.state, job.reason) == (RunState.FAILED, "needs 9000 MiB, 100 are free")
