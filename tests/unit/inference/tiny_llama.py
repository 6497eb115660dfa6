"""A random llama of a few kilobytes as GGUF, and LoRA adapters for it: enough to compare logits exactly."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save_file

HIDDEN, HEADS, KV_HEADS, FEED, LAYERS, VOCAB = 64, 4, 2, 96, 2, 32
KV = HIDDEN // HEADS * KV_HEADS
Weights = dict[str, NDArray[np.float32]]
MODULES: Mapping[str, tuple[str, int, int]] = {
    "self_attn.q_proj": ("attn_q", HIDDEN, HIDDEN),
    "self_attn.k_proj": ("attn_k", KV, HIDDEN),
    "self_attn.v_proj": ("attn_v", KV, HIDDEN),
    "self_attn.o_proj": ("attn_output", HIDDEN, HIDDEN),
    "mlp.gate_proj": ("ffn_gate", FEED, HIDDEN),
    "mlp.up_proj": ("ffn_up", FEED, HIDDEN),
    "mlp.down_proj": ("ffn_down", HIDDEN, FEED),
}
"""Name in transformers: name in GGUF, rows out, columns in."""


def random_weights(seed: int) -> Weights:
    """By GGUF name, in GGUF's row order."""
    random = np.random.default_rng(seed)

    def matrix(rows: int, columns: int) -> NDArray[np.float32]:
        return random.normal(0, 0.2, (rows, columns)).astype(np.float32)

    weights = {"token_embd": matrix(VOCAB, HIDDEN), "output": matrix(VOCAB, HIDDEN)}
    for layer in range(LAYERS):
        weights |= {f"blk.{layer}.{name}": matrix(out, into) for name, out, into in MODULES.values()}
    return weights


def write_model(path: Path, weights: Weights, architecture: str = "llama") -> Path:
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_context_length(128)
    writer.add_embedding_length(HIDDEN)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(FEED)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(HIDDEN // HEADS)
    writer.add_vocab_size(VOCAB)
    writer.add_tokenizer_model("none")
    ones = np.ones(HIDDEN, dtype=np.float32)
    norms = [f"blk.{layer}.{name}_norm" for layer in range(LAYERS) for name in ("attn", "ffn")]
    for name, array in (weights | dict.fromkeys(["output_norm", *norms], ones)).items():
        writer.add_tensor(f"{name}.weight", array)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def random_adapter(seed: int, rank: int, modules: Mapping[str, tuple[str, int, int]] = MODULES) -> Weights:
    """Tensors of a PEFT adapter, in transformers' names and row order."""
    random = np.random.default_rng(seed)
    tensors: Weights = {}
    for layer in range(LAYERS):
        for module, (_, out, into) in modules.items():
            name = f"base_model.model.model.layers.{layer}.{module}"
            tensors[f"{name}.lora_A.weight"] = random.normal(0, 0.3, (rank, into)).astype(np.float32)
            tensors[f"{name}.lora_B.weight"] = random.normal(0, 0.3, (out, rank)).astype(np.float32)
    return tensors


def write_adapter(folder: Path, tensors: Weights, rank: int, alpha: float, **config: Any) -> Path:
    folder.mkdir(parents=True)
    save_file(tensors, folder / "adapter_model.safetensors")
    targets = sorted({name.split(".")[-3] for name in tensors})
    values = {"peft_type": "LORA", "r": rank, "lora_alpha": alpha, "target_modules": targets, "bias": "none"}
    (folder / "adapter_config.json").write_text(json.dumps(values | config))
    return folder


def merge(weights: Weights, tensors: Weights, scaling: float, reorder: bool = True) -> Weights:
    """The base with the adapter's products added to its matrices, rows of q and k put where GGUF has them."""
    merged = {name: array.copy() for name, array in weights.items()}
    for layer in range(LAYERS):
        for module, (name, _, _) in MODULES.items():
            prefix = f"base_model.model.model.layers.{layer}.{module}"
            if f"{prefix}.lora_A.weight" not in tensors:
                continue
            delta = scaling * tensors[f"{prefix}.lora_B.weight"] @ tensors[f"{prefix}.lora_A.weight"]
            if reorder and name in ("attn_q", "attn_k"):
                delta = _gguf_rows(delta)
            merged[f"blk.{layer}.{name}"] += delta
    return merged


def _gguf_rows(rows: NDArray[np.float32]) -> NDArray[np.float32]:
    """Row (head, half, i) goes to (head, i, half): written out, so that it shares nothing with what it checks."""
    size = HIDDEN // HEADS
    moved = np.empty_like(rows)
    for head in range(len(rows) // size):
        for half in range(2):
            for i in range(size // 2):
                moved[head * size + 2 * i + half] = rows[head * size + half * (size // 2) + i]
    return moved
