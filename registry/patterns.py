"""Adapters whose modules have ranks and alphas of their own: PEFT's `rank_pattern` and `alpha_pattern`.

No backend but transformers applies them: vLLM ignores an alpha of a module's own without a word, and a GGUF file has
one alpha. So an adapter that has them is made plain when it comes in: each module's scale is multiplied into its B,
and its factors are padded with zeros to the highest rank. The deltas stay what they were, to the rounding of float32.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import cast

import numpy as np
from numpy.typing import NDArray

from registry.adapter_config import MAX_ALPHA, AdapterConfig, parse_config
from registry.errors import AdapterRejected
from registry.safeload import AdapterLimits, Scan, TensorInfo, check_pairs, parse_header, read_tensor, scan
from registry.strict_json import is_integer, parse_object

_NAME = re.compile(r"[A-Za-z0-9_.]{1,200}")
_FLOAT32_BYTES = 4

Pairs = dict[str, tuple[TensorInfo, TensorInfo]]
"""(A, B) by module."""


@dataclass(frozen=True)
class Patterns:
    """Exceptions from a config's rank and alpha: the end of a module's dotted path -> its own value."""

    ranks: Mapping[str, int]
    alphas: Mapping[str, float]

    def __bool__(self) -> bool:
        return bool(self.ranks or self.alphas)

    def of(self, module: str, config: AdapterConfig) -> AdapterConfig:
        """The config as it is for one module."""
        rank, alpha = _first(self.ranks, module), _first(self.alphas, module)
        return replace(
            config,
            rank=config.rank if rank is None else int(rank),
            alpha=config.alpha if alpha is None else float(alpha),
        )


def parse_patterned(raw: bytes, max_rank: int) -> tuple[AdapterConfig, Patterns]:
    """Read an adapter_config.json as `parse_config` does, and its patterns.

    Raises:
        AdapterRejected: names the key and why.
    """
    if b"_pattern" not in raw:
        return parse_config(raw, max_rank), Patterns({}, {})
    values = parse_object(raw, "adapter_config.json")
    ranks = _pattern("rank_pattern", values.pop("rank_pattern", None))
    alphas = _pattern("alpha_pattern", values.pop("alpha_pattern", None))
    if any(not is_integer(rank) or not 1 <= rank <= max_rank for rank in ranks.values()):
        raise _refusal("rank_pattern", f"a rank is a whole number from 1 to {max_rank}")
    if any(not 0 < alpha <= MAX_ALPHA for alpha in alphas.values()):
        raise _refusal("alpha_pattern", f"an alpha is a number above 0 and at most {MAX_ALPHA:g}")
    config = parse_config(json.dumps(values).encode(), max_rank)
    return config, Patterns({name: int(rank) for name, rank in ranks.items()}, alphas)


def check_patterned(tensors: Sequence[TensorInfo], config: AdapterConfig, patterns: Patterns) -> Pairs:
    """`check_pairs`, with each module's own rank.

    Raises:
        AdapterRejected: a tensor is not half of a LoRA pair, or a pair does not fit the config.
    """
    if not patterns.ranks:
        return check_pairs(tensors, config)
    groups: dict[int, list[TensorInfo]] = {}
    for tensor in tensors:
        module = tensor.name.removeprefix("base_model.model.").rpartition(".lora_")[0]
        groups.setdefault(patterns.of(module, config).rank, []).append(tensor)
    pairs: Pairs = {}
    for rank, group in groups.items():
        pairs.update(check_pairs(group, replace(config, rank=rank)))
    return pairs


def write_plain(
    descriptor: int,
    config: AdapterConfig,
    patterns: Patterns,
    limits: AdapterLimits,
    write: Callable[[bytes], object],
) -> tuple[Scan, AdapterConfig]:
    """Write a safetensors file of the same deltas with one rank and scale 1; gives its facts and its config.

    What is hashed is what is written, whoever writes to the patterned file meanwhile.

    Args:
        descriptor: the patterned file, at its start.

    Raises:
        AdapterRejected: the file is not acceptable, or what it becomes is too large.
    """
    found = scan(descriptor, limits)
    pairs = check_patterned(found.tensors, config, patterns)
    rank = max(a.shape[0] for a, _ in pairs.values())
    parts = {tensor.name: tensor for pair in pairs.values() for tensor in pair}
    scales = {b.name: patterns.of(module, config).scaling for module, (_, b) in pairs.items()}
    header, length = _header([_padded(tensor, rank, is_b=tensor.name in scales) for tensor in parts.values()])
    if len(header) + length > limits.max_bytes:
        raise AdapterRejected(f"with one rank of {rank} the weights have more than {limits.max_bytes} bytes")
    digest = hashlib.sha256()
    for chunk in (header, *_tensors(descriptor, found, parts, scales, rank)):
        digest.update(chunk)
        write(chunk)
    tensors = parse_header(header[8:], length)
    plain = replace(config, rank=rank, alpha=float(rank), use_rslora=False)
    return Scan(digest.hexdigest(), len(header) + length, tensors), plain


def _padded(tensor: TensorInfo, rank: int, *, is_b: bool) -> TensorInfo:
    shape = (tensor.shape[0], rank) if is_b else (rank, tensor.shape[1])
    return replace(tensor, dtype="F32", shape=shape)


def _header(tensors: Sequence[TensorInfo]) -> tuple[bytes, int]:
    """The start of the file, length included; and the bytes that its tensors take."""
    entries: dict[str, object] = {"__metadata__": {"format": "pt"}}
    end = 0
    for tensor in tensors:
        start, end = end, end + tensor.shape[0] * tensor.shape[1] * _FLOAT32_BYTES
        entries[tensor.name] = {"dtype": tensor.dtype, "shape": list(tensor.shape), "data_offsets": [start, end]}
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text, end


def _tensors(
    descriptor: int, found: Scan, parts: Mapping[str, TensorInfo], scales: Mapping[str, float], rank: int
) -> Iterator[bytes]:
    for name, tensor in parts.items():
        matrix = read_tensor(descriptor, found, tensor).astype(np.float32)
        own = matrix.shape[1] if name in scales else matrix.shape[0]
        padding = ((0, 0), (0, rank - own)) if name in scales else ((0, rank - own), (0, 0))
        with np.errstate(over="ignore"):  # looked for in the next line
            widened: NDArray[np.float32] = np.pad(matrix, padding) * np.float32(scales.get(name, 1.0))
        if not np.isfinite(widened).all():
            raise AdapterRejected(f"tensor {name!r} times its scale is beyond what float32 holds")
        yield widened.tobytes()


def _pattern(key: str, value: object) -> dict[str, float]:
    """PEFT reads its keys as regular expressions; here they are names: a stranger's expression may never end."""
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise _refusal(key, "it is an object")
    pattern = cast("dict[str, object]", value)
    for name, number in pattern.items():
        if _NAME.fullmatch(name) is None:
            raise _refusal(key, f"{name[:100]!r} is not a plain module name")
        if isinstance(number, bool) or not isinstance(number, int | float) or not 0 < number < math.inf:
            raise _refusal(key, f"{name[:100]!r} is not given a number above 0")
    return cast("dict[str, float]", pattern)


def _first(pattern: Mapping[str, float], module: str) -> float | None:
    """The first name that the module's path ends in decides, as in PEFT."""
    return next((value for name, value in pattern.items() if _ends_in(module, name)), None)


def _ends_in(module: str, name: str) -> bool:
    """PEFT's `(.*\\.)?name$` for names of these characters, where a dot of the name is any character."""
    before, end = module[: -len(name)], module[-len(name) :]
    if len(end) != len(name) or (before and not before.endswith(".")):
        return False
    return end == name or all(wanted in (".", character) for wanted, character in zip(name, end, strict=True))


def _refusal(key: str, reason: str) -> AdapterRejected:
    return AdapterRejected(f"adapter_config.json: {key!r}: {reason}")
