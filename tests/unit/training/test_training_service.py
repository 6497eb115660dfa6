"""Requests are checked whole before anything is written or loaded; previews; what a job begins with (A50, A54, A55)."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Never

import pytest
from pydantic import ValidationError
from support.plain_benchmark import numbered, plain_benchmark
from support.training_house import House, open_house, write_base
from support.training_seat import EmptySeat

from engine.api_models import AttemptRecord, Outcome, PhaseName, RunState, SessionCreate, TaskSpec
from engine.api_training import TrainRequest
from engine.errors import ConfigError, ConflictError, EnvironmentUnfitError, InputError, NotFoundError, TrainingError
from engine.evaluation.suites.library import Suites
from engine.evaluation.training_benchmark import TrainingBenchmark
from engine.sessions import Changes, Sessions
from engine.training import service as service_module
from engine.training.dataset import DataStore
from engine.training.ending import Ending
from engine.training.preview import Room
from engine.training.service import TrainingService, Trajectories
from engine.training.spec import parse_row
from engine.training.trainer import Parts
from engine.training.trajectories import TrajectoryStore
from engine.training.workplace import Workplace
from registry.db import Transaction
from registry.errors import AdapterAlreadyExists, AdapterNotFound, AdapterQuarantined, AdapterRejected
from registry.models import NewAdapter, Source
from registry.samples import write_sample

BASE_ID = "smollm2-135m-instruct"
GOOD = "def add(a, b):\n    return a + b"


@dataclass
class Desk:
    house: House
    room: Room = field(default_factory=lambda: Room(free_mib=8000, margin_mib=500))

    def __post_init__(self) -> None:
        house = self.house
        self.sessions = Sessions(house.db, house.queue, house.journal, house.clock)
        self.store = TrajectoryStore(house.db, house.journal, house.clock)
        parts = Parts(house.config, house.home, house.jobs, house.registry, house.clock, lambda: None)
        trajectories = Trajectories(self.sessions, self.store)
        self.service = TrainingService(parts, house.db, trajectories, self._room, EmptySeat())

    async def _room(self) -> Room:
        return self.room

    async def session(self, outcome: Outcome, *, name: str = "add", code: str | None = GOOD) -> str:
        record = await self.sessions.create(SessionCreate(task=TaskSpec(id=name, prompt=f"Write {name}.", tests="x")))
        claimed = await self.sessions.claim()
        assert claimed is not None
        attempt = AttemptRecord(
            session_id=record.id, number=0, phase=PhaseName.ATTEMPT, prompt=f"Write {name}.", response="r",
            code=code or "", passed=outcome is Outcome.VERIFIED, created_at="",
        )  # fmt: skip
        if code:
            await self.store.append_step("attempt#0", attempt)
        await self.sessions.finish(claimed[0], RunState.SUCCEEDED, "", Changes(outcome=outcome, code=code))
        return record.id

    async def rows(self, digest: str) -> list[str]:
        content = await asyncio.to_thread(DataStore(self.house.home / "training").path(digest).read_bytes)
        return [parse_row(line, number).task for number, line in enumerate(content.splitlines(), start=1)]


@pytest.fixture
async def desk(tmp_path: Path) -> AsyncIterator[Desk]:
    base = tmp_path / "base"
    await asyncio.to_thread(write_base, base)
    async with open_house(tmp_path / "home", f'model.path="{base}"') as house:
        yield Desk(house)


def dataset(path: Path, count: int = 30, length: int = 30) -> str:
    rows = ({"prompt": f"p{number} " + "x" * length, "completion": f"y = {number}"} for number in range(count))
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def asked(**fields: object) -> TrainRequest:
    return TrainRequest.model_validate(fields)


# --- previews ----------------------------------------------------------------------------------------------------


async def test_a_preview_says_what_it_takes_and_writes_nothing(desk: Desk, tmp_path: Path) -> None:
    request = asked(dataset=dataset(tmp_path / "d.jsonl"))
    before = await desk.house.journal.last_sequence()
    desk.room = Room(free_mib=3000, given_back_mib=900, asleep=("llamacpp",), margin_mib=500)
    told = await desk.service.preview(request)
    assert (told.examples, told.held_out, told.left_out, told.steps) == (27, 3, 0, 12)
    assert (told.free_mib, told.asleep, told.fits, told.seconds) == (3900, ("llamacpp",), True, None)
    assert 500 < told.peak_mib < 3000 and "900 MiB of it given back by llamacpp" in told.note
    assert await desk.house.journal.last_sequence() == before
    assert not (desk.house.home / "training").exists()


async def test_a_preview_says_that_it_does_not_fit(desk: Desk, tmp_path: Path) -> None:
    desk.room = replace(desk.room, free_mib=700)
    told = await desk.service.preview(asked(dataset=dataset(tmp_path / "d.jsonl")))
    assert not told.fits and "would be refused" in told.note


async def test_a_preview_learns_the_time_from_earlier_jobs_on_the_same_base(desk: Desk, tmp_path: Path) -> None:
    request = asked(dataset=dataset(tmp_path / "d.jsonl"))
    job = await desk.service.enqueue(request)
    claimed = await desk.house.claimed()
    trainer = await desk.service.prepare(claimed)
    assert trainer.job_id == job.id
    metrics = {"tokens_per_second": 100.0, "start_seconds": 5.0}
    await desk.house.jobs.settle(claimed.claim, Ending.SUCCEEDED, "", metrics)  # pyright: ignore[reportArgumentType]
    told = await desk.service.preview(request)
    assert told.seconds is not None and told.seconds > 5
    assert abs(told.seconds - (5 + told.tokens * 3 / 100)) < 0.2 * told.seconds


async def test_what_is_too_long_is_left_out_of_the_preview(desk: Desk, tmp_path: Path) -> None:
    path = Path(dataset(tmp_path / "d.jsonl", 25))
    long = json.dumps({"prompt": "x" * 20_000, "completion": "y"})
    await asyncio.to_thread(path.write_text, path.read_text() + long + "\n")
    told = await desk.service.preview(asked(dataset=str(path), seed=2))
    assert told.examples + told.held_out + told.left_out == 26 and told.left_out <= 1


# --- requests ----------------------------------------------------------------------------------------------------


async def test_a50_a_request_becomes_a_queued_job_with_its_data_on_disk(desk: Desk, tmp_path: Path) -> None:
    request = asked(dataset=dataset(tmp_path / "d.jsonl"), adapter_id="mine", rank=8, max_steps=5, preset="quick")
    job = await desk.service.enqueue(request)
    assert (job.state, job.position, job.adapter_id) == (RunState.QUEUED, 1, "mine")
    assert (job.recipe["rank"], job.recipe["alpha"], job.recipe["max_steps"]) == (8, 32.0, 5)
    assert len(await desk.rows(job.data_digest)) == 30
    made_up = await desk.service.enqueue(asked(dataset=request.dataset))
    assert made_up.adapter_id.startswith("code-gen-") and made_up.recipe["rank"] == 16


async def test_a54_only_verified_sessions_are_learned_from(desk: Desk) -> None:
    good = [await desk.session(Outcome.VERIFIED, name=f"t{number}") for number in range(4)]
    await desk.session(Outcome.FAILED, name="bad")
    await desk.session(Outcome.SELF_CHECKED, name="weak")
    await desk.session(Outcome.VERIFIED, name="empty", code=None)
    job = await desk.service.enqueue(asked(from_trajectories=True))
    assert sorted(await desk.rows(job.data_digest)) == ["t0", "t1", "t2", "t3"]
    some = await desk.service.enqueue(asked(from_trajectories=True, sessions=[good[2], good[2]]))
    assert await desk.rows(some.data_digest) == ["t2"]


async def test_a54_bad_requests_are_refused_before_a_model_is_looked_for(desk: Desk, tmp_path: Path) -> None:
    desk.house.config = desk.house.config.model_copy(
        update={"model": desk.house.config.model.model_copy(update={"path": "/no/such/model.gguf"})}
    )
    desk = Desk(desk.house)
    failed = await desk.session(Outcome.FAILED)
    empty = await desk.session(Outcome.VERIFIED, code=None)
    good = dataset(tmp_path / "good.jsonl")
    for request, error, what in (
        (asked(from_trajectories=True, sessions=[failed]), InputError, "not verified"),
        (asked(from_trajectories=True, sessions=["rune-none"]), NotFoundError, "rune-none"),
        (asked(from_trajectories=True, sessions=[empty]), InputError, "no final code"),
        (asked(from_trajectories=True), InputError, "no verified session"),
        (asked(dataset=str(tmp_path / "none.jsonl")), InputError, "cannot be read"),
        (asked(dataset=good, preset="magic"), ConfigError, "magic"),
        (asked(dataset=good, warm_start="nobody"), AdapterNotFound, "nobody"),
        (asked(dataset=good, adapter_id="ends."), AdapterRejected, "not valid"),
        (asked(dataset=good, rank=512), InputError, "max_rank"),
        (asked(dataset=dataset(tmp_path / "tiny.jsonl", 1), epochs=2), InputError, "2 steps"),
    ):
        for call in (desk.service.preview, desk.service.enqueue):
            with pytest.raises(error, match=what):
                await call(request)
    assert await desk.house.jobs.page() == []
    assert not (desk.house.home / "training").exists()


@pytest.mark.parametrize("bad", ["../up", "a/b", ".hidden", "", "a\x00b", "a" * 101, "%2e%2e"])
def test_a55_ids_with_traversal_characters_are_rejected(bad: str) -> None:
    for fields in (
        {"dataset": "/d", "adapter_id": bad},
        {"dataset": "/d", "warm_start": bad},
        {"dataset": "/d", "task_type": bad},
        {"from_trajectories": True, "sessions": [bad]},
    ):
        with pytest.raises(ValidationError):
            asked(**fields)


def test_one_source_and_no_unknown_field() -> None:
    for fields in ({}, {"dataset": "/d", "from_trajectories": True}, {"dataset": "/d", "surprise": 1}):
        with pytest.raises(ValidationError):
            asked(**fields)


async def test_an_id_that_is_taken_is_refused_before_the_data_is_read(desk: Desk, tmp_path: Path) -> None:
    sample = await asyncio.to_thread(write_sample, tmp_path / "sample")
    await desk.house.registry.publish(sample, NewAdapter(id="Mine", task_type="x", source=Source.MANUAL))
    with pytest.raises(AdapterAlreadyExists):
        await desk.service.preview(asked(dataset="/no/such/file", adapter_id="mine"))


async def test_a_rank_that_makes_a_recipe_that_is_not_valid_is_refused(desk: Desk, tmp_path: Path) -> None:
    """Alpha grows with the rank, beyond what a recipe may have: found by the worker it would end the engine."""
    presets = {**desk.house.config.presets, "hot": {"rank": 8, "alpha": 256.0}}
    desk = Desk(replace(desk.house, config=desk.house.config.model_copy(update={"presets": presets})))
    data = dataset(tmp_path / "d.jsonl")
    with pytest.raises(InputError, match=r"alpha = 8192\.0: Input should be less than or equal to 4096\."):
        await desk.service.enqueue(asked(dataset=data, preset="hot", rank=256))
    assert await desk.house.jobs.page() == []
    assert (await desk.service.enqueue(asked(dataset=data, preset="hot", rank=128))).recipe["alpha"] == 4096.0


# --- warm start --------------------------------------------------------------------------------------------------


async def publish_parent(desk: Desk, tmp_path: Path, base: str = BASE_ID) -> None:
    sample = await asyncio.to_thread(lambda: write_sample(tmp_path / "sample", base_model_id=base))
    await desk.house.registry.publish(sample, NewAdapter(id="old", task_type="x", source=Source.MANUAL))


async def test_a_warm_start_keeps_the_parent_s_rank_and_modules(desk: Desk, tmp_path: Path) -> None:
    await publish_parent(desk, tmp_path)
    data = dataset(tmp_path / "d.jsonl")
    job = await desk.service.enqueue(asked(dataset=data, warm_start="old"))
    assert (job.recipe["rank"], job.recipe["alpha"], job.recipe["targets"]) == (4, 8.0, "q_proj,v_proj")
    with pytest.raises(InputError, match="keeps the rank"):
        await desk.service.enqueue(asked(dataset=data, warm_start="old", rank=8))


async def test_a_warm_start_from_another_base_or_a_damaged_one_is_refused(desk: Desk, tmp_path: Path) -> None:
    await publish_parent(desk, tmp_path, "other/base")
    data = dataset(tmp_path / "d.jsonl")
    with pytest.raises(ConflictError, match="other/base"):
        await desk.service.enqueue(asked(dataset=data, warm_start="old"))
    weights = next((desk.house.home / "adapters").rglob("*.safetensors"))
    await asyncio.to_thread(lambda: (os.chmod(weights, 0o600), weights.write_bytes(b"damaged")))
    with pytest.raises(AdapterQuarantined):
        await desk.service.enqueue(asked(dataset=data, warm_start="old"))


# --- a claimed job -----------------------------------------------------------------------------------------------


async def test_a_claimed_job_is_prepared_with_everything_that_it_needs(desk: Desk, tmp_path: Path) -> None:
    await publish_parent(desk, tmp_path)
    request = asked(dataset=dataset(tmp_path / "d.jsonl"), warm_start="old", seed=5, max_steps=4)
    job = await desk.service.enqueue(request)
    trainer = await desk.service.prepare(await desk.house.claimed())
    spec = trainer.spec
    assert (spec.job_id, spec.seed, spec.base_model_id, spec.recipe.max_steps) == (job.id, 5, BASE_ID, 4)
    assert spec.base_directory == tmp_path / "base" and spec.data.name == f"{job.data_digest}.jsonl"
    parent = await desk.house.registry.get("old")
    assert spec.warm_start is not None and spec.warm_start.name == parent.digest
    assert (await desk.house.jobs.get(job.id)).base_digest == spec.base_digest != ""
    preview = await desk.service.preview(asked(dataset=request.dataset, warm_start="old", seed=5, max_steps=4))
    assert trainer.need_mib == preview.peak_mib


async def test_damaged_data_is_found_before_anything_is_loaded(desk: Desk, tmp_path: Path) -> None:
    job = await desk.service.enqueue(asked(dataset=dataset(tmp_path / "d.jsonl")))
    path = DataStore(desk.house.home / "training").path(job.data_digest)
    await asyncio.to_thread(lambda: (os.chmod(path, 0o600), path.write_bytes(b"{}")))
    with pytest.raises(TrainingError, match="damaged"):
        await desk.service.prepare(await desk.house.claimed())


async def test_a_disk_that_is_too_small_is_told_before_training(
    desk: Desk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service_module, "CHECKPOINT_BYTES", 1 << 50)
    await desk.service.enqueue(asked(dataset=dataset(tmp_path / "d.jsonl")))
    with pytest.raises(EnvironmentUnfitError, match="MiB of disk"):
        await desk.service.prepare(await desk.house.claimed())


async def test_retry_begins_in_an_empty_place(desk: Desk, tmp_path: Path) -> None:
    job = await desk.service.enqueue(asked(dataset=dataset(tmp_path / "d.jsonl")))
    claimed = await desk.house.claimed()
    spec = (await desk.service.prepare(claimed)).spec
    await asyncio.to_thread((spec.checkpoints / "step").write_text, "5")
    await desk.house.jobs.settle(claimed.claim, Ending.FAILED, "diverged", None)
    await desk.service.resume(job.id)
    claimed = await desk.house.claimed()
    await desk.service.prepare(claimed)
    assert await asyncio.to_thread((spec.checkpoints / "step").exists), "resume goes on"
    await desk.house.jobs.settle(claimed.claim, Ending.FAILED, "diverged", None)
    await desk.service.resume(job.id, from_scratch=True)
    await desk.service.prepare(await desk.house.claimed())
    assert not await asyncio.to_thread((spec.checkpoints / "step").exists), "retry starts over"


# --- the kill switch -----------------------------------------------------------------------------------------------


@pytest.fixture
async def watched(tmp_path: Path) -> AsyncIterator[Desk]:
    """A home whose recipes have the kill switch on, with a suite of 30 tasks."""
    base = tmp_path / "base"
    await asyncio.to_thread(write_base, base)
    settings = ("train.kill_switch=true", "train.kill_samples=30", "train.kill_cadence=6")
    async with open_house(tmp_path / "home", f'model.path="{base}"', *settings) as house:
        desk = Desk(house)
        desk.service.measure_with(plain_benchmark(numbered(30)))
        yield desk


def with_switch(desk: Desk, **changes: object) -> Desk:
    """The same home, configured otherwise."""
    train = desk.house.config.train.model_copy(update=changes)
    other = Desk(replace(desk.house, config=desk.house.config.model_copy(update={"train": train})))
    other.service.measure_with(plain_benchmark(numbered(30)))
    return other


async def test_a78_what_the_kill_switch_cannot_work_with_is_refused_before_anything_is_queued(
    watched: Desk, tmp_path: Path
) -> None:
    request = asked(dataset=dataset(tmp_path / "d.jsonl"))
    nothing = Desk(watched.house)
    for desk, what in (
        (nothing, "nothing to evaluate the model with"),
        (with_switch(watched, kill_samples=20), "one flipped problem is 5.0%"),
        (with_switch(watched, kill_samples=31), "has 30 tasks in gate for the kill switch"),
        (with_switch(watched, kill_benchmark=""), "nothing to evaluate the model with"),
    ):
        for call in (desk.service.preview, desk.service.enqueue):
            with pytest.raises(InputError, match=what):
                await call(request)
    assert await watched.house.jobs.page() == []
    assert not (watched.house.home / "training").exists()


async def test_a78_an_unknown_suite_is_refused_before_the_job_is_queued(watched: Desk, tmp_path: Path) -> None:
    async def nothing() -> Never:
        raise AssertionError("nobody is asked")

    request = asked(dataset=dataset(tmp_path / "d.jsonl"))
    desk = with_switch(watched, kill_benchmark="no-such-suite")
    desk.service.measure_with(TrainingBenchmark(Suites(tmp_path), nothing, nothing, at_once=1))
    for call in (desk.service.preview, desk.service.enqueue):
        with pytest.raises(NotFoundError, match="no suite no-such-suite"):
            await call(request)
    assert await desk.house.jobs.page() == []


async def test_a_preview_says_what_the_kill_switch_will_do(watched: Desk, tmp_path: Path) -> None:
    request = asked(dataset=dataset(tmp_path / "d.jsonl"))
    told = await watched.service.preview(request)
    assert "Kill switch: 30 tasks of humaneval before the first step and every 6 steps" in told.note
    assert "more than 0.05 below the start" in told.note
    late = await with_switch(watched, kill_cadence=13).service.preview(request)
    assert "there are only 12: it would never act; lower train.kill_cadence" in late.note
    off = await with_switch(watched, kill_switch=False).service.preview(request)
    assert "ill switch" not in off.note


async def test_a_job_is_prepared_with_its_questions_and_only_where_the_switch_is_on(
    watched: Desk, tmp_path: Path
) -> None:
    await watched.service.enqueue(asked(dataset=dataset(tmp_path / "d.jsonl")))
    claimed = await watched.house.claimed()
    await watched.service.prepare(claimed)
    place = Workplace.of_job(watched.house.home, claimed.job.id)
    questions = await asyncio.to_thread((place.kill_switch / "questions.jsonl").read_text)
    assert questions.count("\n") == 30
    calm = with_switch(watched, kill_switch=False)
    await calm.service.enqueue(asked(dataset=dataset(tmp_path / "e.jsonl")))
    other = await watched.house.claimed()
    await calm.service.prepare(other)
    assert not await asyncio.to_thread(Workplace.of_job(watched.house.home, other.job.id).kill_switch.exists)


async def test_training_longer_is_checked_too(watched: Desk, tmp_path: Path) -> None:
    await publish_parent(watched, tmp_path)
    job = await watched.service.enqueue(asked(dataset=dataset(tmp_path / "d.jsonl"), adapter_id="new"))
    job = job.model_copy(update={"adapter_id": "old"})
    with pytest.raises(InputError, match="one flipped problem"):
        await with_switch(watched, kill_samples=20).service.enqueue_longer(job, "longer", 3)
    assert (await watched.service.enqueue_longer(job, "longer", 3)).recipe["kill_samples"] == 30


async def test_a_job_that_was_queued_before_there_was_a_kill_switch_has_none(desk: Desk, tmp_path: Path) -> None:
    job = await desk.service.enqueue(asked(dataset=dataset(tmp_path / "d.jsonl")))
    older = {name: value for name, value in job.recipe.items() if not name.startswith("kill_")}
    assert len(job.recipe) - len(older) == 5

    def downgrade(tx: Transaction) -> None:
        tx.execute("UPDATE training_jobs SET recipe = ? WHERE id = ?", (json.dumps(older), job.id))

    await desk.house.db.write(downgrade)
    claimed = await desk.house.claimed()
    assert not claimed.recipe.kill_switch and (await desk.service.prepare(claimed)).job_id == job.id
