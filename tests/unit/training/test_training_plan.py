"""Order, learning rate, divergence, early stopping, estimates: the trainer's decisions, without torch."""

from __future__ import annotations

import json
import math
import random
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.config import TrainSection, load_config
from engine.errors import TrainingError
from engine.training.estimate import (
    adapter_parameters,
    peak_mib,
    planned_steps,
    read_shape,
    trained_tokens,
)
from engine.training.qlora.faults import Fault, read_fault
from engine.training.qlora.plan import Plan, cut
from engine.training.qlora.state import State
from engine.training.qlora.watch import FLOOR, WARM_UP, Best, LossWatch

DEFAULT = load_config(Path("/nonexistent")).train


def recipe(**keys: object) -> TrainSection:
    return TrainSection.model_validate({**DEFAULT.model_dump(), **keys})


# --- order and learning rate


@given(
    lengths=st.lists(st.integers(1, 500), min_size=1, max_size=120), size=st.integers(1, 16), seed=st.integers(0, 99)
)
def test_each_epoch_takes_each_sequence_once(lengths: list[int], size: int, seed: int) -> None:
    epochs = 2
    plan = Plan(lengths, recipe(batch_size=size, epochs=epochs), seed)
    batches = [plan.batch(step) for step in range(1, plan.steps + 1)]
    half = len(batches) // epochs
    for epoch in (batches[:half], batches[half:]):
        assert sorted(index for batch in epoch for index in batch) == list(range(len(lengths)))
        assert sum(len(batch) < size for batch in epoch) <= 1


def test_the_order_follows_from_the_seed_and_the_step_alone() -> None:
    lengths = [random.randrange(500) for _ in range(100)]
    one, again, other = (Plan(lengths, recipe(epochs=3), seed) for seed in (1, 1, 2))
    steps = range(1, one.steps + 1)
    backwards = {step: again.batch(step) for step in reversed(steps)}
    assert [one.batch(step) for step in steps] == [backwards[step] for step in steps]
    assert [one.batch(step) for step in steps] != [other.batch(step) for step in steps]
    epoch = one.steps // 3
    assert [one.batch(step) for step in steps[:epoch]] != [one.batch(step + epoch) for step in steps[:epoch]]


def test_batches_are_of_similar_length() -> None:
    lengths = [random.randrange(20, 1000) for _ in range(512)]
    plan = Plan(lengths, recipe(epochs=1), 0)

    def padding(batches: list[tuple[int, ...]]) -> float:
        padded = sum(len(batch) * max(lengths[index] for index in batch) for batch in batches)
        return padded / sum(lengths) - 1

    shuffled = random.sample(range(512), 512)
    by_length = padding([plan.batch(step) for step in range(1, plan.steps + 1)])
    at_random = padding([tuple(shuffled[start : start + 8]) for start in range(0, 512, 8)])
    assert by_length < 0.15 < 0.5 < at_random


def test_the_learning_rate_rises_then_falls_to_almost_nothing() -> None:
    plan = Plan([1] * 800, recipe(epochs=1, warmup_ratio=0.1, learning_rate=1e-3), 0)
    rates = [plan.learning_rate(step) for step in range(1, 101)]
    assert rates[:10] == sorted(rates[:10])
    assert rates[9:] == sorted(rates[9:], reverse=True)
    assert max(rates) == pytest.approx(1e-3)
    assert 0 < rates[-1] < 2e-5
    assert Plan([1] * 80, recipe(warmup_ratio=0), 0).learning_rate(1) == pytest.approx(DEFAULT.learning_rate)


def test_steps_are_what_the_epochs_take_and_at_most_what_was_said() -> None:
    assert planned_steps(17, recipe(batch_size=8, epochs=2)) == 6
    assert planned_steps(17, recipe(batch_size=8, epochs=2, max_steps=5)) == 5
    assert planned_steps(17, recipe(batch_size=8, epochs=2, max_steps=50)) == 6


def test_cut_keeps_every_sequence() -> None:
    assert cut((5, 6, 7, 8, 9), 2) == [(5, 6), (7, 8), (9,)]


# --- divergence and early stopping


def test_a_loss_that_is_not_a_number_stops_at_its_step() -> None:
    assert "step 3" in (LossWatch(4.0).check(3, math.nan, 1.0) or "")
    assert "step 4" in (LossWatch(4.0).check(4, 1.0, math.inf) or "")


def test_an_explosion_stops_and_the_warm_up_does_not() -> None:
    watch = LossWatch(4.0)
    assert watch.check(1, 9.0, 1.0) is None
    for step in range(2, 2 + 40):
        assert watch.check(step, 1.0, 1.0) is None
    assert watch.check(42, 3.9, 1.0) is None
    problem = watch.check(43, 8.0, 1.0)
    assert problem is not None
    assert "step 43" in problem


def test_an_unusual_example_near_zero_is_no_explosion() -> None:
    watch = LossWatch(4.0)
    for step in range(WARM_UP + 30):
        assert watch.check(step, 0.001, 1.0) is None
    assert watch.check(99, 4 * FLOOR * 0.9, 1.0) is None
    assert watch.check(100, 4 * FLOOR * 1.1, 1.0) is not None


def test_steps_that_only_keep_are_no_measure_of_those_that_learn() -> None:
    """Negative control: as a loss of almost nothing, they make an explosion of the first step that learns."""
    watch, mixed = LossWatch(4.0), LossWatch(4.0)
    for step in range(1, 30):
        assert watch.check(step, None, 1.0) is None
        assert mixed.check(step, 0.0, 1.0) is None
    assert watch.check(30, 2.5, 1.0) is None
    assert "step 30" in (mixed.check(30, 2.5, 1.0) or "")
    assert "gradient" in (watch.check(31, None, math.nan) or "")


def test_patience_counts_evaluations_without_improvement() -> None:
    best = Best(patience=2)
    assert [best.take(step, loss) for step, loss in enumerate([3.0, 2.0, 2.5, 1.9, 1.9], start=1)] == [
        True, True, False, True, False,
    ]  # fmt: skip
    assert (best.step, best.loss, best.exhausted) == (4, 1.9, False)
    assert not best.take(6, 5.0)
    assert best.exhausted


def test_a_state_survives_json_to_the_last_digit() -> None:
    state = State(LossWatch(4.0, 0.1 + 0.2, 7), Best(3, 1 / 3, 5, 1), 4, step=9, loss=math.pi, seconds=1e-17)
    assert State.from_json(json.loads(json.dumps(state.to_json()))) == state


@pytest.mark.parametrize("value", ["oom", "oom:1", "oom:x:1", "nan:-1", "kill:1"])
def test_a_fault_that_there_is_not_is_refused(value: str) -> None:
    with pytest.raises(TrainingError):
        read_fault({"RUNE_TRAIN_FAULT": value})


def test_faults_strike_where_they_should() -> None:
    assert read_fault({}) == Fault()
    assert not Fault().strikes_memory(1, 99)
    oom = read_fault({"RUNE_TRAIN_FAULT": "oom:3:2"})
    assert [oom.strikes_memory(*at) for at in ((2, 9), (3, 2), (3, 3), (9, 3))] == [False, False, True, True]
    assert [read_fault({"RUNE_TRAIN_FAULT": "nan:3"}).strikes_loss(step) for step in (2, 3, 4)] == [False, True, False]


# --- estimates

SMOLLM2 = {
    "vocab_size": 49152, "hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30,
    "num_attention_heads": 9, "num_key_value_heads": 3, "head_dim": 64, "tie_word_embeddings": True,
}  # fmt: skip


def test_the_shape_counts_the_weights_of_smollm2(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(SMOLLM2))
    shape = read_shape(tmp_path)
    norms = 61 * 576
    assert shape.linear_weights + shape.embedding_weights + norms == 134_515_008
    assert adapter_parameters(shape, recipe(rank=16)) == 4_884_480
    assert adapter_parameters(shape, recipe(rank=8, targets="q_proj, v_proj")) == 8 * 30 * (576 + 576 + 576 + 192)
    assert adapter_parameters(shape, recipe(rank=16, first_layer=12)) == 4_884_480 * 18 // 30
    assert adapter_parameters(shape, recipe(rank=8, targets="layers.12.self_attn.q_proj")) == 8 * (576 + 576)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"hidden_size": "x"}'])
def test_a_config_without_its_numbers_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(TrainingError, match=r"config\.json"):
        read_shape(tmp_path)


def test_the_estimate_grows_with_what_takes_memory(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(SMOLLM2))
    shape = read_shape(tmp_path)

    def peak(bf16: bool = False, longest: int | None = None, **keys: object) -> int:
        return peak_mib(shape, recipe(**keys), bf16=bf16, gpu=False, longest=longest)

    assert peak(method="qlora") < peak(method="lora")
    assert peak(rank=8) < peak(rank=64)
    assert peak(micro_batch=1) < peak(micro_batch=4) == peak(micro_batch=16, batch_size=4)
    assert peak(longest=100) < peak(longest=4000) == peak()
    assert peak(bf16=True) < peak(bf16=False)


@pytest.mark.parametrize(
    ("method", "bf16", "sequences", "measured"),
    [("qlora", True, 1, 1222), ("qlora", True, 4, 2266), ("qlora", False, 4, 3115), ("lora", False, 4, 3425),
     ("lora", True, 4, 2294)],
)  # fmt: skip
def test_the_estimate_is_at_and_not_far_above_what_was_measured(
    tmp_path: Path, method: str, bf16: bool, sequences: int, measured: int
) -> None:
    """Peaks in MiB of real runs on SmolLM2: rank 16, all linears, 247 tokens of which 109 are learned."""
    (tmp_path / "config.json").write_text(json.dumps(SMOLLM2))
    chosen = recipe(method=method, micro_batch=sequences)
    estimate = peak_mib(read_shape(tmp_path), chosen, bf16=bf16, gpu=False, longest=247, longest_answer=109)
    assert 0.99 * measured <= estimate <= 1.15 * measured


def test_trained_tokens_follow_the_steps() -> None:
    assert trained_tokens(1000, 10, recipe(batch_size=5, epochs=3)) == 3000
    assert trained_tokens(1000, 10, recipe(batch_size=5, epochs=3, max_steps=1)) == 500
    assert trained_tokens(0, 0, recipe()) == 0
