"""The PEFT directory that a merge ends with: written beside its place, made durable, renamed into it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save_file

from engine.evolution.merging.core_space import Factors
from engine.evolution.merging.spec import CONFIG, WEIGHTS
from registry.adapter_config import AdapterConfig
from registry.files import sync_directory

PREFIX = "base_model.model."
"""PEFT's, before a module's path."""


def write_adapter(output: Path, modules: Mapping[str, Factors], targets: tuple[str, ...], base_model_id: str) -> None:
    """Make `output`, or replace what a killed run of the same merge left.

    Args:
        modules: all of one rank. The scale is in the factors: alpha is written equal to the rank.

    Raises:
        OSError: the disk is full, or the parent directory is not there.
    """
    rank = next(iter(modules.values())).rank
    partial = output.with_name(f".{output.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(mode=0o700)
    # PEFT's own mark: some readers refuse a file without it.
    save_file(_tensors(modules), partial / WEIGHTS, metadata={"format": "pt"})
    (partial / CONFIG).write_bytes(AdapterConfig(rank, float(rank), targets, base_model_id).to_json(base_model_id))
    for name in (WEIGHTS, CONFIG):
        _sync(partial / name)
    sync_directory(partial)
    shutil.rmtree(output, ignore_errors=True)
    partial.rename(output)
    sync_directory(output.parent)


def _tensors(modules: Mapping[str, Factors]) -> dict[str, NDArray[np.float32]]:
    tensors: dict[str, NDArray[np.float32]] = {}
    for module, factors in modules.items():
        for side, matrix in (("A", factors.a), ("B", factors.b)):
            tensors[f"{PREFIX}{module}.lora_{side}.weight"] = np.ascontiguousarray(matrix, dtype=np.float32)
    return tensors


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
