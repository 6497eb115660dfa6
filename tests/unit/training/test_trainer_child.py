"""The trainer child, whole: real processes on a real, tiny base model (`support.trainer_zygote`).

Loss on the answer alone, micro-batches that change nothing, QLoRA for real, checkpoints, kills, stops, memory that
runs out, divergence, early stopping, warm starts, and what it publishes.
"""

from __future__ import annotations

import hashlib
import json
import random
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from support.tiny_base import TEMPLATE, addition_rows, make_tiny_base, write_rows
from support.trainer_zygote import ROOT, Zygote

from engine.config import TrainSection, load_config
from engine.training.protocol import Metrics, TrainerExit, parse
from engine.training.qlora.watch import FLOOR
from engine.training.spec import TrainSpec
from registry.adapter_config import parse_config
from registry.safeload import AdapterLimits, check_pairs, open_regular, scan

pytestmark = pytest.mark.timeout(300)

RECIPE = {
    "method": "lora", "rank": 4, "alpha": 8, "dropout": 0.1, "epochs": 3, "batch_size": 8, "micro_batch": 4,
    "max_tokens": 200, "learning_rate": 5e-3, "evaluate_every": 4, "checkpoint_every": 3, "threads": 1,
}  # fmt: skip
STEPS = 12
"""32 examples, 8 a step, 3 epochs."""
KEEPS_FIRST = 2
"""Seed with which eight longer rows of 48 come after a quarter of the first epoch, two a step."""


@dataclass
class House:
    """Makes specs in one directory, and has them run."""

    zygote: Zygote
    base: Path
    root: Path

    def spec(self, name: str, **changes: Any) -> Path:
        """A spec whose recipe, or whose own fields, are changed; its output and checkpoints are called `name`."""
        recipe = {**load_config(self.root / "none").train.model_dump(), **RECIPE}
        recipe |= {key: changes.pop(key) for key in list(changes) if key in TrainSection.model_fields}
        fields: dict[str, Any] = {
            "job_id": name,
            "base_directory": self.base,
            "base_model_id": "tiny-llama",
            "data": self.root / "data.jsonl",
            "seed": 11,
            "output": self.root / f"{name}-output",
            "checkpoints": self.root / f"{name}-checkpoints",
            "compute": "float32",
            "recipe": TrainSection.model_validate(recipe),
        }
        path = self.root / f"{name}.json"
        TrainSpec(**{**fields, **changes}).write(path)
        return path

    def train(self, spec: Path, **request: Any) -> Run:
        return Run(spec, self.root, **self.zygote.ask(spec=str(spec), **request))

    def call(self, name: str, spec: Path | None = None, **arguments: Any) -> Any:
        if spec is not None:
            arguments["spec"] = str(spec)
        answer = self.zygote.ask(call=name, arguments=arguments)
        assert not (isinstance(answer, dict) and "raised" in answer), answer["raised"]
        return answer


@dataclass
class Run:
    """What one child process did."""

    spec: Path
    root: Path
    status: int
    signal: int
    words: list[Any]

    def of(self, kind: str) -> list[dict[str, Any]]:
        return [word for word in self.words if word["type"] == kind]

    @property
    def metrics(self) -> Metrics:
        assert self.status == TrainerExit.DONE, self.words
        return Metrics.model_validate(self.of("end")[0]["metrics"])

    @property
    def reason(self) -> str:
        return self.words[-1]["reason"]

    @property
    def output(self) -> Path:
        return self.root / f"{self.spec.stem}-output"

    @property
    def checkpoints(self) -> list[str]:
        return sorted(path.name for path in (self.root / f"{self.spec.stem}-checkpoints").iterdir())

    @property
    def result(self) -> tuple[float, float | None, str]:
        """What must be equal to the last digit: final loss, best held-out loss, the adapter's bytes."""
        return self.metrics.final_loss, self.metrics.held_out_loss, digest(self.output / "adapter_model.safetensors")


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture(scope="module")
def zygote() -> Iterator[Zygote]:
    process = Zygote()
    yield process
    process.close()


@pytest.fixture(scope="module")
def house(zygote: Zygote, tmp_path_factory: pytest.TempPathFactory) -> House:
    root = tmp_path_factory.mktemp("trainer")
    write_rows(root / "data.jsonl", addition_rows(40, held_out=8))
    return House(zygote, make_tiny_base(root / "base"), root)


@pytest.fixture(scope="module")
def whole(house: House) -> Run:
    """An uninterrupted run, which others are compared with."""
    return house.train(house.spec("whole"))


# --- a run from beginning to end


def test_it_says_only_words_of_the_protocol_in_order(whole: Run) -> None:
    assert whole.status == TrainerExit.DONE
    for word in whole.words:
        parse(json.dumps(word).encode())
    assert [word["step"] for word in whole.of("progress")] == list(range(1, STEPS + 1))
    assert [word["step"] for word in whole.of("checkpoint")] == [3, 6, 9, 12]
    assert whole.words[0]["type"] == "loading"
    assert whole.words[-1]["type"] == "end"
    evaluated = [word["step"] for word in whole.of("progress") if word["held_out_loss"] is not None]
    assert evaluated == [4, 8, 12]


def test_it_learns_and_says_what_came_of_it(whole: Run) -> None:
    metrics = whole.metrics
    assert metrics.held_out_start is not None
    assert metrics.held_out_loss is not None
    assert metrics.held_out_loss < metrics.held_out_start - 0.5
    assert (metrics.steps, metrics.planned_steps, metrics.stopped_early) == (STEPS, STEPS, False)
    assert (metrics.examples, metrics.held_out, metrics.too_long) == (32, 8, 0)
    assert metrics.data_digest == digest(whole.root / "data.jsonl")
    assert metrics.final_loss == whole.of("progress")[-1]["loss"]
    assert metrics.compute == "cpu/float32"
    assert metrics.tokens > metrics.answer_tokens > 0
    assert min(metrics.tokens_per_second, metrics.peak_mib, metrics.start_seconds, metrics.seconds) > 0


def test_progress_has_everything_that_is_shown(whole: Run) -> None:
    last = whole.of("progress")[-1]
    assert last["eta_seconds"] == 0
    assert whole.of("progress")[0]["eta_seconds"] > 0
    assert all(word["grad_norm"] > 0 and word["learning_rate"] > 0 for word in whole.of("progress"))
    assert all(word["tokens_per_second"] > 0 and word["memory_mib"] > 100 for word in whole.of("progress"))


def test_the_registry_accepts_what_it_publishes(whole: Run) -> None:
    assert sorted(path.name for path in whole.output.iterdir()) == ["adapter_config.json", "adapter_model.safetensors"]
    config = parse_config((whole.output / "adapter_config.json").read_bytes(), max_rank=256)
    assert (config.base_model_id, config.rank, config.alpha) == ("tiny-llama", 4, 8.0)
    linears = ["down_proj", "gate_proj", "k_proj", "o_proj", "q_proj", "up_proj", "v_proj"]
    assert list(config.target_modules) == linears
    descriptor = open_regular(whole.output / "adapter_model.safetensors", foreign=True)
    found = scan(descriptor, AdapterLimits(1 << 20, 256))
    assert len(check_pairs(found.tensors, config)) == 2 * len(linears)


def test_peft_and_transformers_get_the_same_held_out_loss_from_what_it_published(house: House, whole: Run) -> None:
    assert house.call("published_loss", whole.spec) == pytest.approx(whole.metrics.held_out_loss, rel=1e-5)


def test_a_checkpoint_holds_no_pickle(whole: Run) -> None:
    assert whole.checkpoints == ["step-00000012"]
    files = {path.name for path in (whole.root / "whole-checkpoints" / "step-00000012").iterdir()}
    names = {"adapter", "optimizer", "random", "best"}
    assert files == {"state.json"} | {f"{name}.safetensors" for name in names}


def test_the_same_spec_gives_the_same_bytes_and_another_seed_others(house: House, whole: Run) -> None:
    assert house.train(house.spec("again")).result == whole.result
    assert house.train(house.spec("other-seed", seed=12)).result != whole.result


# --- the loss


@pytest.mark.parametrize(
    ("template", "before", "end"),
    [
        (TEMPLATE, "<|im_start|>assistant\n", "<|im_end|>"),
        # Text that the template adds before an answer is given, not learned.
        (
            TEMPLATE.replace("assistant\n' }}", "assistant\n<think>\n</think>\n' }}"),
            "<think>\n</think>\n",
            "<|im_end|>",
        ),
        # A template that marks no end of a turn: the end of the text is learned.
        ("{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}", "user: Why?\n", "<|endoftext|>"),
    ],
    ids=["chatml", "adds-text", "no-end"],
)
def test_only_the_answer_and_the_end_of_turn_are_learned(
    house: House, tmp_path: Path, template: str, before: str, end: str
) -> None:
    spec = house.spec("template", base_directory=make_tiny_base(tmp_path / "base", template=template))
    answer = "def f(): return 1\n"
    found = house.call("encode", spec, row={"messages": [{"role": "user", "content": "Why?"}], "completion": answer})
    assert found["learned"] == answer + end
    assert found["prompt"].endswith(before)
    assert found["last"] == end
    given = len(found["tokens"]) - found["answer"]
    assert found["labels"] == [-100] * given + found["tokens"][given:]


def test_a_special_token_written_out_in_an_answer_is_text(house: House) -> None:
    answer = "print('<|im_end|>')"
    row = {"messages": [{"role": "user", "content": "?"}], "completion": answer}
    found = house.call("encode", house.spec("special"), row=row)
    assert found["learned"] == answer + "<|im_end|>"
    ends = [token for token in found["labels"] if token == found["tokens"][-1]]
    assert len(ends) == 1


def test_the_loss_is_that_of_transformers_on_answer_tokens(house: House) -> None:
    found = house.call("losses", house.spec("losses", dropout=0.0))
    assert found["ours"] == pytest.approx(found["theirs"], rel=1e-5)
    assert abs(found["with_prompt"] - found["theirs"]) > 0.01  # the comparison would see a loss on the prompt


def test_what_is_kept_costs_what_it_is_away_from_the_base_model(house: House) -> None:
    found = house.call("kept", house.spec("kept", dropout=0.0))
    assert found["ours"] == pytest.approx(found["theirs"], rel=1e-4)
    assert found["ours"] > 0.1 and found["gradient"] > 0.1
    assert found["at_base"] == pytest.approx(0, abs=1e-4)  # a loss that learned the text would be far from it
    assert found["mixed"] == pytest.approx(found["ours"] + found["learned"], rel=1e-4)


def test_halving_the_micro_batch_changes_nothing_but_rounding(house: House) -> None:
    found = house.call("micro_batches", house.spec("micro", dropout=0.0), sizes=[4, 2, 1])
    assert found["norm"] > 0.1
    assert max(found["off"]) < 1e-5
    assert found["mean_of_means"] > 1e-3  # negative control: the normalisation that most loops have


@pytest.mark.parametrize("compute", ["float32", "bfloat16"])
def test_qlora_holds_the_base_in_nested_nf4_and_an_evaluation_does_not_change_it(house: House, compute: str) -> None:
    found = house.call("quantized", house.spec("nf4", method="qlora", dropout=0.0, compute=compute))
    assert found["four_bit"] == 14
    assert found["types"] == ["nf4"]
    assert found["nested"] and found["trainable"]
    assert found["adapter"] == ["torch.float32"]
    assert found["compute"] == f"cpu/{compute}"
    assert found["evaluations"][0] == found["evaluations"][1]


def test_qlora_learns_too(house: House) -> None:
    metrics = house.train(house.spec("qlora", method="qlora", compute="auto")).metrics
    assert metrics.held_out_start is not None
    assert metrics.held_out_loss is not None
    assert metrics.held_out_loss < metrics.held_out_start - 0.5
    assert metrics.method == "qlora"


# --- interruptions (A: SIGKILL at any step resumes to the same final loss on CPU)


def test_a_sigkill_at_a_random_step_ends_in_the_same_bytes(house: House, whole: Run) -> None:
    for number, step in enumerate(sorted(random.sample(range(1, STEPS), 3))):
        spec = house.spec(f"killed-{number}")
        killed = house.train(spec, signal_at=[signal.SIGKILL, step])
        assert killed.signal == signal.SIGKILL, killed.words
        resumed = house.train(spec)
        assert resumed.result == whole.result, f"killed after step {step}"
        steps = [word["step"] for word in resumed.of("progress")]
        assert steps[0] <= step + 2
        assert steps[-1] == STEPS


@pytest.mark.parametrize("forgets", ["break_optimizer_resume", "break_random_resume"])
def test_negative_control_a_resume_that_forgets_differs(house: House, whole: Run, forgets: str) -> None:
    spec = house.spec(forgets)
    assert house.train(spec, signal_at=[signal.SIGKILL, 7]).signal == signal.SIGKILL
    resumed = house.train(spec, breaks=[forgets])
    assert resumed.metrics.resumed == 1
    assert resumed.result != whole.result


@pytest.mark.parametrize(
    "point",
    ["checkpoint.before_rename:2", "checkpoint.after_rename:2", "output.before_rename:1", "device.artefact_renamed:1"],
)
def test_a_crash_around_a_rename_loses_nothing(house: House, whole: Run, point: str) -> None:
    spec = house.spec(point.replace(":", "-"))
    killed = house.train(spec, environment={"RUNE_CRASH_AT": point})
    assert killed.signal == signal.SIGKILL
    assert house.train(spec).result == whole.result


def test_sigterm_checkpoints_the_last_whole_step_and_the_rest_is_the_same(house: House, whole: Run) -> None:
    spec = house.spec("stopped")
    stopped = house.train(spec, signal_at=[signal.SIGTERM, 4])
    assert stopped.status == TrainerExit.STOPPED
    last = stopped.of("progress")[-1]["step"]
    assert stopped.words[-1] == {"type": "checkpoint", "step": last}
    assert stopped.checkpoints == [f"step-{last:08d}"]
    resumed = house.train(spec)
    assert [word["step"] for word in resumed.of("progress")] == list(range(last + 1, STEPS + 1))
    assert resumed.result == whole.result


def test_an_output_that_was_made_but_not_registered_is_made_again(house: House, whole: Run) -> None:
    again = house.train(whole.spec)
    assert again.of("progress") == []
    assert again.result == whole.result


def test_a_damaged_checkpoint_is_not_continued_from(house: House, whole: Run) -> None:
    spec = house.spec("damaged")
    house.train(spec, signal_at=[signal.SIGKILL, 7])
    for file in house.root.glob("damaged-checkpoints/*/optimizer.safetensors"):
        content = bytearray(file.read_bytes())
        content[-1] ^= 1
        file.write_bytes(bytes(content))
    again = house.train(spec)
    assert again.metrics.resumed == 0
    assert again.result == whole.result


def test_the_checkpoint_of_another_job_is_refused(house: House, whole: Run) -> None:
    spec = house.spec("foreign", rank=2, checkpoints=house.root / "whole-checkpoints")
    run = house.train(spec)
    assert run.status == TrainerExit.REFUSED
    assert "checkpoint" in run.reason


def test_sigterm_while_it_loads_stops_it_before_the_model_is_read(house: House) -> None:
    stopped = house.train(house.spec("early-stop"), signal_at=[signal.SIGTERM, "reading the data"])
    assert stopped.status == TrainerExit.STOPPED
    assert stopped.of("progress") == []


def test_a_trainer_that_hangs_falls_silent(house: House) -> None:
    """Three missed heartbeats end it: here whoever listens kills after ten of them."""
    run = house.train(house.spec("hang", heartbeat_s=0.1), breaks=["hang"], silence_s=3.0)
    assert run.signal == signal.SIGKILL
    assert run.of("progress") != []


def test_negative_control_a_heart_of_its_own_beats_on_in_a_trainer_that_hangs(house: House) -> None:
    run = house.train(
        house.spec("undead", heartbeat_s=0.1), breaks=["hang", "break_heartbeat"], silence_s=3.0, beats=60
    )
    assert len(run.of("heartbeat")) >= 60


# --- memory


def test_memory_that_runs_out_halves_the_micro_batch_and_keeps_the_step(house: House) -> None:
    calm = house.train(house.spec("calm", dropout=0.0))
    run = house.train(house.spec("oom", dropout=0.0), environment={"RUNE_TRAIN_FAULT": "oom:5:1"})
    assert run.of("shrunk") == [
        {"type": "shrunk", "micro_batch": 2, "accumulation": 4},
        {"type": "shrunk", "micro_batch": 1, "accumulation": 8},
    ]
    assert run.metrics.tokens == calm.metrics.tokens
    assert run.metrics.micro_batch == 1
    for ours, theirs in zip(run.of("progress"), calm.of("progress"), strict=True):
        assert ours["loss"] == pytest.approx(theirs["loss"], rel=1e-3)
        assert ours["grad_norm"] == pytest.approx(theirs["grad_norm"], rel=1e-2)


def test_a_shrunk_micro_batch_stays_small_after_a_resume(house: House) -> None:
    spec = house.spec("oom-kill")
    house.train(spec, environment={"RUNE_TRAIN_FAULT": "oom:2:2"}, signal_at=[signal.SIGKILL, 7])
    assert house.train(spec).metrics.micro_batch == 2


def test_memory_for_not_even_one_sequence_ends_it(house: House) -> None:
    run = house.train(house.spec("oom-all"), environment={"RUNE_TRAIN_FAULT": "oom:2:0"})
    assert run.status == TrainerExit.OUT_OF_MEMORY
    assert "One sequence" in run.reason
    assert not run.output.exists()


def test_real_memory_errors_are_known_as_such(house: House) -> None:
    assert house.call("memory_errors") == [True, True, True, False, False]


# --- divergence, early stopping, warm start, data


def test_a_loss_that_is_not_a_number_stops_it_with_the_step(house: House) -> None:
    run = house.train(house.spec("nan"), environment={"RUNE_TRAIN_FAULT": "nan:5"})
    assert run.status == TrainerExit.REFUSED
    assert "step 5" in run.reason
    assert not run.output.exists()


def test_a_real_explosion_stops_it_with_the_step(house: House) -> None:
    """A learning rate that rises too far drives the loss up; normalised layers bound it, so the limit is low here."""
    changes = {"learning_rate": 0.3, "alpha": 64, "warmup_ratio": 0.99, "max_grad_norm": 1000, "epochs": 15}
    data = write_rows(house.root / "one.jsonl", addition_rows(1) * 32)
    run = house.train(house.spec("explode", data=data, explode=1.1, **changes))
    assert run.status == TrainerExit.REFUSED
    assert f"exploded at step {run.of('progress')[-1]['step'] + 1}" in run.reason
    assert not run.output.exists()
    assert house.train(house.spec("no-explosion", data=data, explode=100, **changes)).status == TrainerExit.DONE


def test_steps_that_keep_the_base_model_do_not_make_the_first_that_learns_an_explosion(house: House) -> None:
    """The rehearsed rows are shorter, so they are batched apart, and begin at no loss at all."""
    rows = addition_rows(8)
    kept = [{**row, "keep": True, "task": f"rehearsal/{number}"} for number, row in enumerate(addition_rows(40))]
    for row in rows:
        row["completion"] += " and this is said at some length" * 2
    data = write_rows(house.root / "kept.jsonl", [*rows, *kept])
    run = house.train(house.spec("kept", data=data, batch_size=2, micro_batch=2, epochs=2, seed=KEEPS_FIRST))
    assert run.metrics.steps == 48
    losses = [word["loss"] for word in run.of("progress")]
    assert max(losses[:6]) < FLOOR / 4, "they are what the first steps see"
    assert max(losses) > 4 * FLOOR, "negative control: beside their mean, this would be an explosion"


def test_early_stopping_publishes_the_best_and_not_the_last(house: House) -> None:
    # Answers that the training data contradicts: the more is learned, the worse the held-out ones get.
    rows = addition_rows(40, held_out=8)
    for row in rows[-8:]:
        row["completion"] = "Z" * 30
    data = write_rows(house.root / "contradiction.jsonl", rows)
    run = house.train(house.spec("early", data=data, epochs=20, evaluate_every=2, patience=2, learning_rate=2e-2))
    metrics = run.metrics
    assert metrics.stopped_early
    assert metrics.steps < metrics.planned_steps
    assert metrics.best_step == metrics.steps - 4
    losses = {word["step"]: word["held_out_loss"] for word in run.of("progress") if word["held_out_loss"] is not None}
    assert metrics.best_loss == losses[metrics.best_step] == min(losses.values())
    assert house.call("published_loss", run.spec) == pytest.approx(metrics.best_loss, rel=1e-4)
    assert metrics.best_loss != pytest.approx(losses[metrics.steps], rel=1e-3)


def test_a_warm_start_begins_where_the_other_ended_and_off_means_off(house: House, whole: Run) -> None:
    warm = house.train(house.spec("warm", warm_start=whole.output, max_steps=1)).metrics
    assert warm.held_out_start == pytest.approx(whole.metrics.held_out_loss, rel=1e-5)
    other_alpha = house.train(house.spec("warm-alpha", warm_start=whole.output, max_steps=1, alpha=4.0)).metrics
    assert other_alpha.held_out_start == pytest.approx(whole.metrics.held_out_loss, rel=1e-5)
    cold = house.train(house.spec("cold", max_steps=1)).metrics
    assert cold.held_out_start == whole.metrics.held_out_start


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"rank": 8}, "rank 4"),
        ({"targets": "q_proj,v_proj"}, "do not fit"),
        ({"targets": "nonsense"}, "nonsense"),
        ({"first_layer": 9}, "no layer from there on"),
        ({"warm_start": Path("/nonexistent")}, "begin with"),
        ({"base_directory": Path("/nonexistent")}, "tokenizer"),
        ({"data": Path("/nonexistent")}, "data cannot be read"),
        ({"max_tokens": 16}, "nothing to learn from. 40 rows"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_what_cannot_be_trained_is_refused_in_words(
    house: House, whole: Run, changes: dict[str, Any], said: str
) -> None:
    spec = house.spec("refused", **{"warm_start": whole.output, **changes})
    run = house.train(spec)
    assert run.status == TrainerExit.REFUSED, run.words
    assert said in run.reason
    assert not run.output.exists()


def test_examples_that_are_too_long_are_left_out_and_counted(house: House) -> None:
    rows = addition_rows(20)
    rows[3]["completion"] *= 50
    rows[9]["messages"][0]["content"] *= 50
    run = house.train(house.spec("long", data=write_rows(house.root / "long.jsonl", rows), epochs=1))
    assert (run.metrics.too_long, run.metrics.examples) == (2, 18)
    assert run.metrics.held_out_loss is None
    assert run.metrics.best_loss == run.metrics.final_loss
    assert run.metrics.best_step == run.metrics.steps


def test_only_the_targets_that_were_asked_for_are_adapted(house: House) -> None:
    run = house.train(house.spec("targets", targets="q_proj, v_proj", epochs=1))
    assert run.status == TrainerExit.DONE
    config = parse_config((run.output / "adapter_config.json").read_bytes(), max_rank=256)
    assert config.target_modules == ("q_proj", "v_proj")


def test_layers_below_the_first_are_left_as_they_are_and_peft_reads_it_so(house: House) -> None:
    run = house.train(house.spec("upper", first_layer=1, epochs=1))
    assert run.status == TrainerExit.DONE, run.words
    config = parse_config((run.output / "adapter_config.json").read_bytes(), max_rank=256)
    assert len(config.target_modules) == 7
    assert all(name.startswith("layers.1.") for name in config.target_modules)
    assert house.call("published_loss", run.spec) == pytest.approx(run.metrics.held_out_loss, rel=1e-5)
    again = {"warm_start": run.output, "targets": ",".join(config.target_modules), "max_steps": 1}
    warm = house.train(house.spec("upper-warm", **again)).metrics
    assert warm.held_out_start == pytest.approx(run.metrics.held_out_loss, rel=1e-5)


# --- the stream


def test_no_library_writes_into_the_stream(house: House) -> None:
    run = house.train(house.spec("loud", epochs=1), breaks=["chatty_library"])
    assert run.status == TrainerExit.DONE
    assert all(isinstance(word, dict) for word in run.words)


def test_negative_control_without_the_guard_the_library_is_heard(house: House) -> None:
    run = house.train(house.spec("unguarded", epochs=1), breaks=["break_output_guard", "chatty_library"])
    assert [word.strip() for word in run.words if isinstance(word, str)] == [
        "Loading checkpoint shards: 100%",
        "native library says hello",
    ]


# --- the entry point itself, in a process of its own


@pytest.mark.parametrize(("arguments", "status"), [([], TrainerExit.USAGE), (["/nonexistent"], TrainerExit.REFUSED)])
def test_a_spec_that_is_not_there_is_refused_without_torch(arguments: list[str], status: int) -> None:
    command = [sys.executable, "-X", "importtime", "-m", "engine.training.qlora", *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=150, check=False)
    assert done.returncode == status
    assert "torch" not in done.stderr
    words = [parse(line.encode()) for line in done.stdout.splitlines()]
    assert [word.type for word in words] == (["error"] if arguments else [])
