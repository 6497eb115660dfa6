"""Small valid adapters, made from a seed: for whatever must be shown to take one."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

SAMPLE_BASE_MODEL = "samples/tiny"
"""The base model that sample adapters name unless told otherwise."""


def safetensors_bytes(tensors: Mapping[str, NDArray[Any]], metadata: Mapping[str, str] | None = None) -> bytes:
    """The file for these float32 or float16 tensors, in the order given."""
    header: dict[str, object] = {"__metadata__": dict(metadata or {"format": "pt"})}
    offset = 0
    for name, array in tensors.items():
        dtype = {"float32": "F32", "float16": "F16"}[array.dtype.name]
        header[name] = {"dtype": dtype, "shape": list(array.shape), "data_offsets": [offset, offset + array.nbytes]}
        offset += array.nbytes
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + b"".join(array.tobytes() for array in tensors.values())


def sample_tensors(
    seed: int = 0, *, rank: int = 4, width: int = 16, layers: int = 2, modules: Sequence[str] = ("q_proj", "v_proj")
) -> dict[str, NDArray[np.float32]]:
    """LoRA pairs with PEFT's names: A of shape (rank, width), B of shape (width, rank)."""
    random = np.random.default_rng(seed)
    tensors: dict[str, NDArray[np.float32]] = {}
    for layer in range(layers):
        for module in modules:
            stem = f"base_model.model.model.layers.{layer}.self_attn.{module}"
            tensors[f"{stem}.lora_A.weight"] = random.standard_normal((rank, width), dtype=np.float32)
            tensors[f"{stem}.lora_B.weight"] = random.standard_normal((width, rank), dtype=np.float32)
    return tensors


def sample_config(
    *, rank: int = 4, modules: Sequence[str] = ("q_proj", "v_proj"), base_model_id: str | None = SAMPLE_BASE_MODEL
) -> dict[str, object]:
    """An adapter_config.json with the keys that matter."""
    return {
        "base_model_name_or_path": base_model_id,
        "bias": "none",
        "lora_alpha": 2 * rank,
        "peft_type": "LORA",
        "r": rank,
        "target_modules": list(modules),
        "task_type": "CAUSAL_LM",
    }


def write_sample(directory: Path, seed: int = 0, *, rank: int = 4, base_model_id: str = SAMPLE_BASE_MODEL) -> Path:
    """Write a valid PEFT directory, other weights for each seed; gives the directory."""
    directory.mkdir(parents=True)
    weights = safetensors_bytes(sample_tensors(seed, rank=rank))
    (directory / "adapter_model.safetensors").write_bytes(weights)
    config = json.dumps(sample_config(rank=rank, base_model_id=base_model_id))
    (directory / "adapter_config.json").write_text(config)
    return directory
