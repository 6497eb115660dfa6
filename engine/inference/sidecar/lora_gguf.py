"""PEFT LoRA -> the GGUF file that llama.cpp loads while it runs.

Only numpy and the `gguf` package: no torch. The adapter's bytes are hostile until `registry.safeload` has read them;
names and shapes are then checked against the base model's own tensors.

For the llama architecture the GGUF of a base has the rows of q_proj and k_proj reordered, because llama.cpp rotates
neighbouring pairs where transformers rotates halves. A LoRA adds B @ A to such a matrix, so the rows of B are
reordered in the same way.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from numpy.typing import NDArray

from engine.inference.sidecar.adapter_files import WEIGHTS, read_config
from engine.inference.sidecar.gguf_header import read_header
from registry.adapter_config import AdapterConfig
from registry.errors import AdapterRejected
from registry.safeload import AdapterLimits, TensorInfo, check_pairs, load_tensors

HALVES_TO_PAIRS: Mapping[str, bool] = {"llama": True, "qwen2": False, "qwen3": False}
"""Architectures that can be converted, and whether their q and k rows are reordered."""
HEADS, KV_HEADS = "rune.base.head_count", "rune.base.head_count_kv"
"""Settings of our own, which llama.cpp passes over: what the order of the rows was made for."""
_LINEAR = re.compile(r"blk\.\d+\.(attn_q|attn_k|attn_v|attn_output|ffn_gate|ffn_up|ffn_down)|output")


@dataclass(frozen=True)
class BaseFacts:
    """What a conversion needs to know of the base model."""

    architecture: str
    layers: int
    heads: int
    kv_heads: int
    shapes: Mapping[str, tuple[int, int]]
    """(out, in) by GGUF name without `.weight`, of the linear modules."""


def read_base(path: Path) -> BaseFacts:
    """Facts of a GGUF model file; reads its header only.

    Raises:
        AdapterRejected: adapters of this architecture cannot be converted.
    """
    try:
        header = read_header(path)
        architecture = str(header.settings["general.architecture"])
        if architecture not in HALVES_TO_PAIRS:
            raise AdapterRejected(
                f"adapters for the architecture {architecture!r} cannot be converted to GGUF; "
                f"{', '.join(HALVES_TO_PAIRS)} can"
            )
        heads = int(header.settings[f"{architecture}.attention.head_count"])
        kv_heads = int(header.settings.get(f"{architecture}.attention.head_count_kv", 0)) or heads
        layers = int(header.settings[f"{architecture}.block_count"])
    except (ValueError, KeyError) as error:
        raise AdapterRejected(f"the base model {path.name} cannot be read: {error}") from error
    names = {name.removesuffix(".weight"): shape for name, shape in header.shapes.items()}
    shapes = {name: (shape[1], shape[0]) for name, shape in names.items() if _LINEAR.fullmatch(name)}
    return BaseFacts(architecture, layers, heads, kv_heads, shapes)


def base_settings(base: BaseFacts) -> dict[str, str | int]:
    """The settings of a converted adapter that say which kind of base it was made for."""
    return {gguf.Keys.General.ARCHITECTURE: base.architecture, HEADS: base.heads, KV_HEADS: base.kv_heads}


def convert(adapter: Path, base: BaseFacts, limits: AdapterLimits, target: Path) -> None:
    """Write the PEFT directory `adapter` as the GGUF file `target`.

    Raises:
        AdapterRejected: it is not an acceptable LoRA, or does not fit the base model; names the check.
    """
    config = read_config(adapter, limits)
    tensors = load_tensors(adapter / WEIGHTS, limits)
    infos = [TensorInfo(name, "F32", _pair(array.shape), 0, 0) for name, array in tensors.items()]
    names = gguf.get_tensor_name_map(_architecture(base.architecture), base.layers)
    modules = {module: _gguf_name(module, names, base) for module in check_pairs(infos, config)}
    shapes = {module: base.shapes[name] for module, name in modules.items()}
    pairs = check_pairs(infos, config, shapes)
    writer = _writer(target, base, config)
    for module, (a, b) in pairs.items():
        name = f"{modules[module]}.weight"
        writer.add_tensor(f"{name}.lora_a", _float32(tensors[a.name]))
        writer.add_tensor(f"{name}.lora_b", _reordered(_float32(tensors[b.name]), modules[module], base))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def halves_to_pairs(rows: NDArray[np.float32], heads: int) -> NDArray[np.float32]:
    """Rows of each head from (first half, second half) to (one of each, in turn). Shape (heads * size, any)."""
    size = rows.shape[0] // heads
    return np.ascontiguousarray(rows.reshape(heads, 2, size // 2, -1).swapaxes(1, 2).reshape(rows.shape))


def _pair(shape: tuple[int, ...]) -> tuple[int, int]:
    rows, columns = shape
    return rows, columns


def _gguf_name(module: str, names: gguf.TensorNameMap, base: BaseFacts) -> str:
    name = names.get_name(module)
    if name is None or name not in base.shapes:
        raise AdapterRejected(f"module {module!r} is not a linear module of the base model")
    return name


def _architecture(name: str) -> gguf.MODEL_ARCH:
    return next(architecture for architecture, text in gguf.MODEL_ARCH_NAMES.items() if text == name)


def _writer(target: Path, base: BaseFacts, config: AdapterConfig) -> gguf.GGUFWriter:
    writer = gguf.GGUFWriter(target, base.architecture)
    writer.add_uint32(HEADS, base.heads)
    writer.add_uint32(KV_HEADS, base.kv_heads)
    writer.add_type(gguf.GGUFType.ADAPTER)
    writer.add_string(gguf.Keys.Adapter.TYPE, "lora")
    # llama.cpp always divides by the rank; for rsLoRA the same number must come out.
    alpha = config.scaling * config.rank
    assert math.isfinite(alpha), "the registry's limits keep alpha finite"
    writer.add_float32(gguf.Keys.Adapter.LORA_ALPHA, alpha)
    return writer


def _float32(array: NDArray[Any]) -> NDArray[np.float32]:
    return np.ascontiguousarray(array, dtype=np.float32)


def _reordered(b: NDArray[np.float32], name: str, base: BaseFacts) -> NDArray[np.float32]:
    if not HALVES_TO_PAIRS[base.architecture]:
        return b
    if name.endswith("attn_q"):
        return halves_to_pairs(b, base.heads)
    return halves_to_pairs(b, base.kv_heads) if name.endswith("attn_k") else b
