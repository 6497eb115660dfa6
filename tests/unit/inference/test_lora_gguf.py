"""A converted adapter does in llama.cpp what it says: base plus adapter equals the base with the adapter merged in."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tiny_llama as tiny
from numpy.typing import NDArray

from engine.inference.sidecar.llama_native import Context, Lora, Model
from engine.inference.sidecar.lora_gguf import convert, read_base
from engine.inference.sidecar.runtime import Entry
from registry.errors import AdapterRejected
from registry.safeload import AdapterLimits

TOKENS = [3, 17, 5, 9, 28, 1, 1, 30]
LIMITS = AdapterLimits(1 << 20, 16)
pytestmark = pytest.mark.model


def _logits(context: Context) -> NDArray[np.float32]:
    """Of every token of TOKENS, shape (len(TOKENS), VOCAB)."""
    context.keep(0, 0)
    context.decode([Entry(token, at, 0, True) for at, token in enumerate(TOKENS)])
    return np.stack([context.logits(at).copy() for at in range(len(TOKENS))])


def _base_logits(path: Path) -> NDArray[np.float32]:
    model = Model(path)
    context = Context(model, 64, 1, 16, 1)
    try:
        return _logits(context)
    finally:
        context.close()
        model.close()


@pytest.mark.parametrize("modules", [*([name] for name in tiny.MODULES), list(tiny.MODULES)], ids="+".join)
@pytest.mark.parametrize("rslora", [False, True])
def test_adapter_equals_merged_base_and_unloading_restores_the_base(
    tmp_path: Path, modules: list[str], rslora: bool
) -> None:
    rank, alpha = 4, 6.0
    weights = tiny.random_weights(1)
    tensors = tiny.random_adapter(2, rank, {name: tiny.MODULES[name] for name in modules})
    scaling = alpha / (rank**0.5 if rslora else rank)
    base = tiny.write_model(tmp_path / "base.gguf", weights)
    merged = _base_logits(tiny.write_model(tmp_path / "merged.gguf", tiny.merge(weights, tensors, scaling)))
    adapter = tiny.write_adapter(tmp_path / "adapter", tensors, rank, alpha, use_rslora=rslora)
    convert(adapter, read_base(base), LIMITS, tmp_path / "adapter.gguf")

    model = Model(base)
    context = Context(model, 64, 1, 16, 1)
    before = _logits(context)
    lora = Lora(model, tmp_path / "adapter.gguf")
    context.use_adapter(lora)
    applied = _logits(context)
    context.use_adapter(None)
    lora.close()
    after = _logits(context)
    context.close()
    model.close()

    assert np.abs(applied - merged).max() < 1e-3
    assert np.abs(applied - before).max() > 0.05, "the adapter changes nothing: the comparison proves nothing"
    assert np.array_equal(before, after), "A32: without the adapter, the base's logits bit for bit"


def test_the_comparison_notices_rows_in_the_wrong_order(tmp_path: Path) -> None:
    """The control: had the rows of q and k not been reordered, the test above would fail."""
    weights, tensors = tiny.random_weights(1), tiny.random_adapter(2, 4)
    right = tiny.write_model(tmp_path / "right.gguf", tiny.merge(weights, tensors, 1.5))
    wrong = tiny.write_model(tmp_path / "wrong.gguf", tiny.merge(weights, tensors, 1.5, reorder=False))
    assert np.abs(_base_logits(right) - _base_logits(wrong)).max() > 1e-2


@pytest.mark.parametrize("change", ["rank", "shape", "layer", "module", "limit"])
def test_what_does_not_fit_the_base_is_refused(tmp_path: Path, change: str) -> None:
    base = read_base(tiny.write_model(tmp_path / "base.gguf", tiny.random_weights(1)))
    tensors, rank, limits = tiny.random_adapter(2, 4), 4, LIMITS
    name = "base_model.model.model.layers.0.self_attn.q_proj.lora_B.weight"
    match change:
        case "rank":
            rank = 8
        case "shape":
            tensors[name] = tensors[name][:-1]
        case "layer":
            tensors = {key.replace("layers.1.", "layers.7."): value for key, value in tensors.items()}
        case "module":
            tensors = {
                key.replace("layers.0.self_attn.q_proj", "embed_tokens"): value for key, value in tensors.items()
            }
        case _:
            limits = AdapterLimits(1 << 20, 2)
    adapter = tiny.write_adapter(tmp_path / "adapter", tensors, rank, 4.0)
    with pytest.raises(AdapterRejected):
        convert(adapter, base, limits, tmp_path / "out.gguf")


def test_an_architecture_that_was_not_tried_is_refused(tmp_path: Path) -> None:
    with pytest.raises(AdapterRejected, match="gemma"):
        read_base(tiny.write_model(tmp_path / "base.gguf", tiny.random_weights(1), "gemma"))
