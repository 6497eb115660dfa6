"""The kill switch in the trainer child (A78): a real, tiny model that can do something and is taught to forget it.

The model begins with an adapter that answers 24 questions right. What it answers later is judged by its text alone; the
rule is the engine's own. One test has the whole engine side: guardian, sandbox and all.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import re
import signal
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from support.evaluation_house import Plain, Tasks, make_task
from support.tiny_base import make_tiny_base, write_rows
from support.trainer_zygote import Zygote
from support.training_house import open_house

from engine.api_models import RunState
from engine.config import Config, TrainSection, load_config
from engine.evaluation.judge import Judge
from engine.evaluation.training_benchmark import TrainingBenchmark
from engine.sandbox.probe import probe
from engine.sandbox.run import Sandbox
from engine.training.kill_switch import KillSwitch
from engine.training.protocol import TrainerExit, parse
from engine.training.spec import LookSpec, Question, TrainSpec, Turn, read_spec
from engine.training.trainer import JobTrainer, Parts
from engine.training.workplace import Workplace

pytestmark = pytest.mark.timeout(300)

QUESTIONS = 24
CADENCE = 4
STEPS = 12
RECIPE = {
    "method": "lora", "rank": 16, "alpha": 32, "dropout": 0.1, "epochs": 4, "batch_size": 8, "micro_batch": 8,
    "max_tokens": 200, "learning_rate": 5e-3, "evaluate_every": 100, "checkpoint_every": 3, "threads": 1,
    "kill_switch": True, "kill_samples": QUESTIONS, "kill_cadence": CADENCE,
    "kill_benchmark": "tiny",
}  # fmt: skip


def question(number: int) -> str:
    return f"Say {number}."


def right(number: int) -> str:
    return f"x = {number}"


RIGHT = [right(number) for number in range(QUESTIONS)]


def rows(shift: int = 0) -> list[dict[str, Any]]:
    """Every question with its answer; shifted, with that of another one."""
    return [
        {
            "messages": [{"role": "user", "content": question(number)}],
            "completion": right((number + shift) % QUESTIONS),
            "task": f"t{number}",
            "held_out": False,
        }
        for number in range(QUESTIONS)
    ]


@dataclass
class Run:
    spec: Path
    status: int
    signal: int
    words: list[Any]
    solved: dict[str, int] = field(default_factory=dict[str, int])
    """How many answers were right, by step."""

    def of(self, kind: str) -> list[dict[str, Any]]:
        return [word for word in self.words if word["type"] == kind]

    @property
    def looks(self) -> dict[int, int]:
        return {int(step): solved for step, solved in self.solved.items()}

    @property
    def output(self) -> Path:
        return self.spec.with_name(f"{self.spec.stem}-output")

    @property
    def digest(self) -> str:
        assert self.status == TrainerExit.DONE, self.words
        return hashlib.sha256((self.output / "adapter_model.safetensors").read_bytes()).hexdigest()


@dataclass
class House:
    zygote: Zygote
    root: Path

    def spec(self, name: str, data: str = "right", *, looked: int | None = None, **changes: Any) -> Path:
        recipe: dict[str, Any] = {**load_config(self.root / "none").train.model_dump(), **RECIPE}
        recipe |= {key: changes.pop(key) for key in list(changes) if key in TrainSection.model_fields}
        look = LookSpec(
            questions=self.root / "questions.jsonl",
            rulings=self.root / f"{name}-rulings",
            cadence=recipe["kill_cadence"],
            max_tokens=16,
            context_tokens=512,
            looked=looked,
        )
        fields: dict[str, Any] = {
            "job_id": name,
            "base_directory": self.root / "base",
            "base_model_id": "tiny-llama",
            "data": self.root / f"{data}.jsonl",
            "seed": 11,
            "warm_start": self.root / "skilled-output",
            "output": self.root / f"{name}-output",
            "checkpoints": self.root / f"{name}-checkpoints",
            "compute": "float32",
            "recipe": TrainSection.model_validate(recipe),
            "look": look if recipe["kill_switch"] else None,
        }
        path = self.root / f"{name}.json"
        TrainSpec(**{**fields, **changes}).write(path)
        return path

    def train(self, spec: Path, **request: Any) -> Run:
        return Run(spec, **self.zygote.ask(spec=str(spec), **request))

    def call(self, name: str, **arguments: Any) -> Any:
        answer = self.zygote.ask(call=name, arguments=arguments)
        assert "raised" not in answer, answer["raised"]
        return answer

    def watched(self, spec: Path, **request: Any) -> Run:
        return self.train(spec, right=RIGHT, **request)


@pytest.fixture(scope="module")
def zygote() -> Iterator[Zygote]:
    process = Zygote()
    yield process
    process.close()


@pytest.fixture(scope="module")
def house(zygote: Zygote, tmp_path_factory: pytest.TempPathFactory) -> House:
    root = tmp_path_factory.mktemp("watched")
    make_tiny_base(root / "base")
    write_rows(root / "right.jsonl", rows())
    write_rows(root / "wrong.jsonl", rows(shift=1))
    write_rows(root / "refusing.jsonl", [{**row, "completion": "no"} for row in rows()])
    asked = (Question(messages=(Turn(role="user", content=question(number)),)) for number in range(QUESTIONS))
    (root / "questions.jsonl").write_text("".join(one.model_dump_json() + "\n" for one in asked))
    built = House(zygote, root)
    spec = built.spec(
        "skilled", kill_switch=False, warm_start=None, epochs=60, dropout=0.0, learning_rate=1e-2, checkpoint_every=1000
    )
    assert built.train(spec).status == TrainerExit.DONE
    return built


@pytest.fixture(scope="module")
def calm(house: House) -> Run:
    """A run in which the model stays as good as it was."""
    return house.watched(house.spec("calm", learning_rate=1e-4))


# --- what it decides on ------------------------------------------------------------------------------------------


def test_a78_a_model_that_stays_good_is_looked_at_before_and_at_each_cadence_and_goes_on(calm: Run) -> None:
    assert calm.looks == {0: 24, 4: 24, 8: 24, 12: 24}
    assert calm.status == TrainerExit.DONE and calm.output.is_dir()
    for word in calm.words:
        parse(json.dumps(word).encode())
    steps = [word["step"] for word in calm.words if word["type"] in ("progress", "answer")]
    assert steps == sorted(steps) and steps[:24] == [0] * 24


@pytest.mark.parametrize(
    ("data", "changes"),
    [("wrong", {}), ("right", {"learning_rate": 0.5, "explode": 1000.0})],
    ids=["wrong labels", "a learning rate that is too high"],
)
def test_a78_a_model_that_is_made_worse_halts_its_training(house: House, data: str, changes: dict[str, Any]) -> None:
    run = house.watched(house.spec(f"worse-{data}", data, **changes))
    last = max(run.looks)
    assert run.looks[0] == 24 and run.looks[last] < 22 and last % CADENCE == 0
    assert run.status == TrainerExit.REFUSED
    assert run.words[-1]["reason"] == f"24 before, {run.looks[last]} now at step {last}"
    assert not run.output.exists()


def test_a78_negative_control_a_switch_that_asks_the_base_never_halts(house: House) -> None:
    run = house.watched(house.spec("base", "wrong"), breaks=["look_at_the_base"])
    assert run.status == TrainerExit.DONE and set(run.looks.values()) == {0}


def test_answers_are_those_of_transformers_however_long_the_others_prompts_are(house: House) -> None:
    prompts = ["Write", "def add(a, b):\n    return", "system user assistant " * 4]
    written = house.call("greedy", spec=str(house.spec("greedy", warm_start=None)), prompts=prompts, max_tokens=24)
    assert written["ours"] == written["theirs"]
    assert len({tuple(tokens) for tokens in written["ours"]}) == 3


# --- what it leaves alone ----------------------------------------------------------------------------------------


def test_looking_changes_nothing_of_what_is_learned(house: House, calm: Run) -> None:
    """Though dropout draws random numbers in each step."""
    unwatched = house.train(house.spec("unwatched", learning_rate=1e-4, kill_switch=False))
    assert unwatched.digest == calm.digest
    drawing = house.train(
        house.spec("drawing", learning_rate=1e-4), right=["never"] * QUESTIONS, breaks=["look_with_dropout"]
    )
    assert drawing.digest != calm.digest, "negative control: a look that draws some of them"


def test_memory_that_runs_out_in_a_look_halves_what_is_asked_at_once(house: House) -> None:
    run = house.watched(house.spec("small", learning_rate=1e-4), breaks=["memory_for_four_answers"])
    assert [word["micro_batch"] for word in run.of("shrunk")] == [4]
    assert run.status == TrainerExit.DONE and run.looks[0] == 24


def test_a_question_that_does_not_fit_is_answered_with_nothing(house: House) -> None:
    spec = house.spec("narrow", learning_rate=1e-4)
    asked = json.loads(spec.read_text())
    asked["look"]["context_tokens"] = 17
    spec.write_text(json.dumps(asked))
    run = house.watched(spec)
    assert {(word["text"], word["cut"]) for word in run.of("answer")} == {("", True)}
    assert set(run.looks.values()) == {0}


# --- kills and stops ---------------------------------------------------------------------------------------------


def test_a78_after_a_sigkill_it_asks_only_what_was_not_asked_and_ends_the_same(house: House, calm: Run) -> None:
    spec = house.spec("killed", learning_rate=1e-4)
    first = house.watched(spec, signal_at=[signal.SIGKILL, 7])
    assert first.signal == signal.SIGKILL and set(first.looks) == {0, 4}
    again = house.watched(house.spec("killed", learning_rate=1e-4, looked=4))
    assert sorted({word["step"] for word in again.of("answer")}) == [8, 12]
    assert again.digest == calm.digest


def test_a_sigterm_in_a_look_keeps_the_steps_and_the_look_is_made_again(house: House, calm: Run) -> None:
    spec = house.spec("stopped", learning_rate=1e-4)
    first = house.watched(spec, signal_at=[signal.SIGTERM, "answering 24 tasks after step 4"])
    assert first.status == TrainerExit.STOPPED and first.of("checkpoint")[-1]["step"] == 4
    again = house.watched(house.spec("stopped", learning_rate=1e-4, looked=0))
    assert sorted({word["step"] for word in again.of("answer")}) == [4, 8, 12]
    assert again.digest == calm.digest


def test_a_checkpoint_without_a_baseline_is_refused(house: House) -> None:
    house.watched(house.spec("lost"), signal_at=[signal.SIGKILL, 5])
    run = house.watched(house.spec("lost"))
    assert run.status == TrainerExit.REFUSED and "before the first step is not known" in run.words[-1]["reason"]


# --- with the whole engine side ----------------------------------------------------------------------------------


async def test_a78_a_real_job_is_judged_in_the_sandbox_and_halted(house: House, tmp_path: Path) -> None:
    wanted = {**RECIPE, "kill_samples": 4, "kill_delta": 0.3}
    settings = [f"train.{name}={json.dumps(value)}" for name, value in wanted.items()]
    async with open_house(tmp_path / "home", "sandbox.min_level=none", *settings) as engine:
        await engine.enqueue()
        claimed = await engine.claimed()
        place = Workplace.of_job(engine.home, claimed.job.id)
        await asyncio.to_thread(place.prepare, from_scratch=False)
        switch = await KillSwitch.prepare(judged(engine.config), claimed.recipe, 0, place.kill_switch, max_tokens=16)
        spec = await asyncio.to_thread(lambda: read_spec(house.spec("judged", "refusing")))
        placed = {"job_id": claimed.job.id, "output": place.output, "checkpoints": place.checkpoints, "look": None}
        spec = spec.model_copy(update={**placed, "recipe": claimed.recipe})
        parts = Parts(engine.config, engine.home, engine.jobs, engine.registry, engine.clock, lambda: None)
        trainer = JobTrainer(parts, claimed, spec, need_mib=100, kill_switch=switch)
        end = await trainer.run(epoch=1)
        await trainer.publish()
        said = re.fullmatch(r"The kill switch: tiny 1\.00 before, (0\.[0-9]{2}) now at step [48], .*", end.reason)
        assert said and float(said[1]) < 0.7
        job = await engine.jobs.get(claimed.job.id)
        assert (job.state, job.progress and job.progress.score) == (RunState.FAILED, float(said[1]))


def judged(config: Config) -> TrainingBenchmark:
    """Asks as it is trained, and runs the answers."""
    tasks = [
        make_task(number).model_copy(
            update={
                "prompt": question(number),
                "entry_point": None,
                "tests": f"def test_x():\n    assert x == {number}\n",
            }
        )
        for number in range(4)
    ]

    async def prompting() -> Plain:
        return Plain()

    async def judge() -> Judge:
        return Judge(Sandbox(config.sandbox, await asyncio.to_thread(probe, config.sandbox)))

    return TrainingBenchmark(Tasks(tuple(tasks)), prompting, judge, at_once=2)
