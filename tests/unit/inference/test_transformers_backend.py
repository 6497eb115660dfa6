"""The transformers backend on a tiny model: batches equal single answers, adapters come and go, sleep frees memory."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from support.tiny_base import make_tiny_base

from benchmarks.gguf import random_adapter

pytestmark = pytest.mark.timeout(400)
ROOT = Path(__file__).parents[3]
Facts = dict[str, Any]


@pytest.fixture(scope="module")
def facts(tmp_path_factory: pytest.TempPathFactory) -> Facts:
    """One start of torch for all of this file."""
    folder = tmp_path_factory.mktemp("transformers")
    base = make_tiny_base(folder / "base")
    config = json.loads((base / "config.json").read_text())
    for seed, name in enumerate(("one", "two")):
        random_adapter(folder / name, config, ["q_proj", "v_proj", "down_proj"], 0.4, seed)
    environment = os.environ | {
        "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}",
        "HF_HUB_OFFLINE": "1",
        "GOMP_SPINCOUNT": "300",
    }
    command = [sys.executable, "-m", "support.transformers_facts", str(base), str(folder)]
    done = subprocess.run(command, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, check=True)
    return json.loads(done.stdout)


def test_answers_computed_together_are_those_computed_alone(facts: Facts) -> None:
    found = facts["batching"]
    assert found["difference"] < 1e-4 and found["order"] < 1e-4
    assert found["spread"] > 0.1, "the sequences are all alike: a mixed-up row would not be noticed"


@pytest.mark.parametrize("kind", ["life", "four_bit"])
def test_adapters_are_isolated_and_leave_no_trace(facts: Facts, kind: str) -> None:
    life = facts[kind]
    assert len({life[name]["text"] for name in ("base", "one", "two")}) == 3, "the adapters change nothing"
    assert life["mixed"] == life["spoken"]
    assert life["unloaded"] == life["base"], "A32: the base's log-probabilities bit for bit"


@pytest.mark.parametrize("kind", ["life", "four_bit"])
def test_sleep_and_wake_give_the_same_answers(facts: Facts, kind: str) -> None:
    life = facts[kind]
    assert life["woken"] == {"base": life["base"], "one": life["one"]}


def test_nf4_is_another_model_than_float32(facts: Facts) -> None:
    """The control of the above: `four_bit` has an effect."""
    assert facts["four_bit"]["base"]["logprobs"] != facts["life"]["base"]["logprobs"]


def test_a_schema_constrains_and_a_bad_one_is_refused(facts: Facts) -> None:
    life = facts["life"]
    assert set(json.loads(life["json"]["text"])) == {"n"} and life["json"]["finish"] == "stop"
    assert "no such type" in life["refused"]


def test_a_cancelled_answer_ends_as_such(facts: Facts) -> None:
    assert facts["life"]["cancelled"] == "abort"


def test_sleep_gives_the_memory_back(facts: Facts) -> None:
    memory = facts["memory"]
    model = memory["awake"] - memory["before"]
    assert model > 250, f"{memory}: the model is too small to be seen"
    assert memory["asleep"] - memory["before"] < 0.25 * model, memory
