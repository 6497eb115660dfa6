"""A merged adapter does in llama.cpp what the dense merge of its parents does (A61)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tiny_llama as tiny
from numpy.typing import NDArray
from support.merging_house import ignore, never, spec_of

from engine.api_evolution import MergeMethod
from engine.evolution.merging.job import merge
from engine.evolution.merging.spec import ParentFiles
from engine.inference.sidecar.llama_native import Context, Lora, Model
from engine.inference.sidecar.lora_gguf import convert, read_base
from engine.inference.sidecar.runtime import Entry
from registry.safeload import AdapterLimits, load_tensors

TOKENS = [3, 17, 5, 9, 28, 1, 1, 30]
LIMITS = AdapterLimits(1 << 20, 16)
pytestmark = pytest.mark.model


def logits(path: Path, adapter: Path | None = None) -> NDArray[np.float32]:
    """Of every token of TOKENS, shape (len(TOKENS), VOCAB)."""
    model = Model(path)
    context = Context(model, 64, 1, 16, 1)
    lora = None if adapter is None else Lora(model, adapter)
    context.use_adapter(lora)
    context.decode([Entry(token, at, 0, True) for at, token in enumerate(TOKENS)])
    found = np.stack([context.logits(at).copy() for at in range(len(TOKENS))])
    context.use_adapter(None)
    if lora is not None:
        lora.close()
    context.close()
    model.close()
    return found


def parent(folder: Path, seed: int, rank: int, alpha: float) -> tuple[ParentFiles, tiny.Weights]:
    tensors = tiny.random_adapter(seed, rank)
    tiny.write_adapter(folder, tensors, rank, alpha)
    return ParentFiles(id=folder.name, directory=folder), tensors


def test_a_merged_adapter_of_mixed_ranks_equals_the_base_with_both_parents_added(tmp_path: Path) -> None:
    weights = tiny.random_weights(1)
    base = tiny.write_model(tmp_path / "base.gguf", weights)
    one, first = parent(tmp_path / "one", 2, 4, 6.0)
    two, second = parent(tmp_path / "two", 3, 2, 1.0)
    merge(spec_of(tmp_path / "out", one, two, method=MergeMethod.CAT, weights=(0.6, 1.2)), ignore, never)
    convert(tmp_path / "out", read_base(base), LIMITS, tmp_path / "out.gguf")
    patched = tiny.merge(tiny.merge(weights, first, 0.6 * 6 / 4), second, 1.2 * 1 / 2)
    expected = logits(tiny.write_model(tmp_path / "patched.gguf", patched))
    assert np.abs(logits(base, tmp_path / "out.gguf") - expected).max() < 1e-3
    assert np.abs(logits(base) - expected).max() > 0.05, "the adapter changes nothing: the comparison proves nothing"


def test_a_ties_merge_equals_the_base_with_its_own_delta_added(tmp_path: Path) -> None:
    weights = tiny.random_weights(1)
    base = tiny.write_model(tmp_path / "base.gguf", weights)
    parents = [parent(tmp_path / name, seed, 4, 4.0)[0] for seed, name in enumerate(("one", "two", "three"))]
    merge(spec_of(tmp_path / "out", *parents, method=MergeMethod.TIES), ignore, never)
    convert(tmp_path / "out", read_base(base), LIMITS, tmp_path / "out.gguf")
    own = load_tensors(tmp_path / "out" / "adapter_model.safetensors", LIMITS)
    expected = logits(tiny.write_model(tmp_path / "patched.gguf", tiny.merge(weights, own, 1.0)))
    assert np.abs(logits(base, tmp_path / "out.gguf") - expected).max() < 1e-3
    assert np.abs(logits(base) - expected).max() > 0.01
