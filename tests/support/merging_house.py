"""Small adapters on disk, written straight from numbers, and what their deltas are, computed the long way."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.api_evolution import MergeMethod
from engine.evolution.merging.spec import Limits, Merge, ParentFiles
from registry.safeload import AdapterLimits, load_tensors
from registry.samples import safetensors_bytes

Pairs = dict[str, tuple[NDArray[np.float32], NDArray[np.float32]]]
"""Module -> (B, A)."""

BASE = "samples/tiny"
LIMITS = Limits(max_bytes=1 << 22, max_rank=64)
SHAPES = {"layers.0.q_proj": (12, 10), "layers.0.v_proj": (6, 10), "layers.1.q_proj": (12, 10)}


def random_pairs(seed: int, rank: int = 3, shapes: Mapping[str, tuple[int, int]] = SHAPES) -> Pairs:
    numbers = np.random.default_rng(seed)
    return {
        module: (
            numbers.standard_normal((rows, rank), dtype=np.float32),
            numbers.standard_normal((rank, columns), dtype=np.float32),
        )
        for module, (rows, columns) in shapes.items()
    }


def write_pairs(folder: Path, pairs: Pairs, **config: Any) -> ParentFiles:
    """Write a PEFT directory. Keys of the config replace what fits the pairs; None leaves a key out."""
    folder.mkdir(parents=True)
    tensors: dict[str, NDArray[np.float32]] = {}
    for module, (b, a) in pairs.items():
        tensors[f"base_model.model.{module}.lora_A.weight"] = a
        tensors[f"base_model.model.{module}.lora_B.weight"] = b
    (folder / "adapter_model.safetensors").write_bytes(safetensors_bytes(tensors))
    rank = max(a.shape[0] for _, a in pairs.values())
    targets = sorted({module.rpartition(".")[2] for module in pairs})
    values = {"peft_type": "LORA", "r": rank, "lora_alpha": rank, "target_modules": targets} | config
    (folder / "adapter_config.json").write_text(json.dumps({key: value for key, value in values.items() if value}))
    return ParentFiles(id=folder.name, directory=folder)


def deltas(pairs: Pairs, scale: float = 1.0) -> dict[str, NDArray[np.float64]]:
    return {module: scale * b.astype(np.float64) @ a for module, (b, a) in pairs.items()}


def read_deltas(folder: Path) -> dict[str, NDArray[np.float64]]:
    """What an adapter that was written by a merge does: its config must be plain, with a scale of 1."""
    config = json.loads((folder / "adapter_config.json").read_text())
    assert config["lora_alpha"] == config["r"] and not config.get("use_rslora")
    tensors = load_tensors(folder / "adapter_model.safetensors", AdapterLimits(1 << 24, 512))
    modules = {name.removeprefix("base_model.model.").rpartition(".lora_")[0] for name in tensors}
    pair = "base_model.model.{}.lora_{}.weight"
    return {
        module: tensors[pair.format(module, "B")].astype(np.float64) @ tensors[pair.format(module, "A")]
        for module in modules
    }


def spec_of(output: Path, *parents: ParentFiles, method: MergeMethod = MergeMethod.LINEAR, **fields: Any) -> Merge:
    values: dict[str, Any] = {"limits": LIMITS, **fields}
    return Merge(parents=parents, base_model_id=BASE, method=method, output=output, **values)


def ignore(done: int, total: int, note: str) -> None:
    """Progress that nobody watches."""


def never(spec: Merge, tell: object) -> tuple[float, ...]:
    raise AssertionError("nothing is learned here")
