"""Numbers agree: llama.cpp against transformers and PEFT, for the base and for converted adapters, and token ids."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.shared_weights import shared_weights

from benchmarks import gguf as proof
from engine.inference.base_weights import BaseWeights
from engine.inference.model_files import embedded_model
from engine.inference.sidecar.backend import Turn
from engine.inference.sidecar.chat_template import ChatTemplate
from engine.inference.sidecar.llama_native import Model
from engine.inference.sidecar.lora_gguf import convert, read_base

pytestmark = [pytest.mark.model, pytest.mark.timeout(400)]
TEXTS = (
    "def add(a, b):\n    return a + b\n",
    "Zahlen 1234567890, Umlaute äöü, 漢字, emoji 🙂, tabs\t\tand   blanks  ",
    " leading blank\r\n\r\n\r\n",
    "<|im_start|>user\nhi<|im_end|>",
)
CHAT = [{"role": "system", "content": "You are terse."}, {"role": "user", "content": "Write a loop, please."}]
QUESTION = "The capital of France is Paris. The capital of Italy is"


class Measured:
    """One start of torch for all of this file."""

    def __init__(self, weights: BaseWeights, folder: Path) -> None:
        tiny = proof.Subject.make("tiny", proof.random_model(folder / "tiny"), folder / "tiny-adapters")
        real = proof.Subject.make("smollm2", weights.directory, folder / "adapters", singly=False)
        self.subjects = {"tiny": tiny, "smollm2": real}
        model = Model(embedded_model())
        self.ids = model.tokenize(QUESTION, add_special=False, parse_special=False)
        self.tokens = [model.tokenize(text, add_special=True, parse_special=True) for text in TEXTS]
        template = ChatTemplate(
            model.chat_template() or "", model.special_text(model.bos()), model.special_text(model.eos())
        )
        prompt = template.render([Turn(turn["role"], turn["content"]) for turn in CHAT])
        self.chat = model.tokenize(prompt, add_special=False, parse_special=True)
        model.close()
        at = {"model": str(weights.directory)}
        jobs = [job for subject in self.subjects.values() for job in subject.jobs()]
        jobs.append(at | {"key": "question", "adapter": None, "ids": self.ids})
        jobs.append(at | {"key": "tokens", "texts": TEXTS, "chat": CHAT})
        self.answers: Mapping[str, Any] = proof.torch_side(jobs, folder)


@pytest.fixture(scope="module")
def measured(pytestconfig: pytest.Config, tmp_path_factory: pytest.TempPathFactory) -> Measured:
    return Measured(shared_weights(pytestconfig), tmp_path_factory.mktemp("logits"))


@pytest.mark.parametrize("name", ["tiny", "smollm2"])
def test_converted_adapters_give_the_logits_of_transformers_and_peft(measured: Measured, name: str) -> None:
    rows = measured.subjects[name].rows(measured.answers)
    if name == "tiny":
        assert {row.targets for row in rows} == {"(base)", "all", *proof.modules(proof.TINY_CONFIG)}
    for row in rows:
        assert row.change > 1.0, f"{row}: the adapter changes nothing, so the comparison proves nothing"
        assert row.difference < proof.TOLERANCE * row.change, row


@pytest.mark.parametrize("target", ["q_proj", "k_proj", "down_proj"])
def test_the_comparison_notices_an_adapter_with_two_rows_exchanged(
    measured: Measured, tmp_path: Path, target: str
) -> None:
    """The control: one wrong row of one matrix in each layer is far beyond the tolerance."""
    subject = measured.subjects["tiny"]
    config = json.loads((subject.directory / "config.json").read_text())
    wrong = proof.random_adapter(tmp_path / "wrong", config, [target], 0.1)
    tensors = proof.float32_weights(wrong / "adapter_model.safetensors")
    for name, array in tensors.items():
        if "lora_B" in name:
            tensors[name] = np.ascontiguousarray(array[[1, 0, *range(2, len(array))]])
    proof.save_file(tensors, wrong / "adapter_model.safetensors")
    convert(wrong, read_base(subject.model_file), proof.LIMITS, wrong / "adapter.gguf")
    ours = proof.llama_logits(subject.model_file, {target: wrong / "adapter.gguf"}, subject.ids)[target]
    theirs, base = measured.answers[f"tiny/{target}"], measured.answers["tiny"]
    assert np.abs(ours - theirs).max() > 100 * proof.TOLERANCE * np.abs(theirs - base).max()


def test_the_unpacked_model_has_the_logits_of_the_quantized_one(measured: Measured) -> None:
    """llama.cpp computes with Q4_1 weights and 8-bit activations, so: close, the same words, and no more."""
    ours = proof.llama_logits(embedded_model(), {"": None}, measured.ids)[""]
    theirs = measured.answers["question"]
    assert np.array_equal(ours.argmax(-1), theirs.argmax(-1))
    difference = np.abs(ours - theirs)
    assert difference.max() < 2 and difference.mean() < 0.4
    # The control: against the logits of the next place all of this is far off.
    assert np.abs(ours[1:] - theirs[:-1]).mean() > 1.0


def test_the_tokenizers_agree(measured: Measured) -> None:
    for at, expected in enumerate(measured.tokens):
        assert measured.answers[f"tokens/{at}"].tolist() == expected, TEXTS[at]
    assert measured.answers["tokens/chat"].tolist() == measured.chat
