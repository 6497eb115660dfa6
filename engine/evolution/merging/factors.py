"""An adapter's factors, read module by module: checked, widened to float32, with the adapter's scale folded into B.

Bytes are hostile until `registry.safeload` has read them: the whole file is scanned once when it is opened (digest,
layout, NaN), and a module's tensors are read when they are asked for, so that memory does not grow with the number of
adapters. The config is read by the registry's schema, with one thing more: `rank_pattern` and `alpha_pattern`, by
which PEFT gives modules ranks and alphas of their own. The registry itself does not list such adapters.
"""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import TypeVar, cast

import numpy as np

from engine.evolution.merging.core_space import Factors
from engine.evolution.merging.spec import CONFIG, WEIGHTS, ParentFiles
from registry.adapter_config import MAX_CONFIG_BYTES, AdapterConfig, parse_config
from registry.errors import AdapterRejected
from registry.safeload import AdapterLimits, Scan, TensorInfo, check_pairs, open_regular, read_tensor, scan
from registry.strict_json import is_integer, parse_object

Number = TypeVar("Number", int, float)

_LITERAL = re.compile(r"[A-Za-z0-9_.]{1,200}")
_REFUSED: Mapping[str, str] = {
    "use_dora": "DoRA scales whole columns by a magnitude of its own, which no sum of deltas keeps",
    "modules_to_save": "it replaces whole modules, which are not deltas",
    "lora_bias": "it adds biases, which are not deltas of the weights",
}
"""What cannot be merged, with the reason; whatever else the registry's schema refuses, it refuses with its own."""


@dataclass(frozen=True)
class Patterns:
    """Exceptions from a config's rank and alpha: the end of a module's dotted path -> its own value."""

    ranks: Mapping[str, int]
    alphas: Mapping[str, float]

    def of(self, module: str, config: AdapterConfig) -> AdapterConfig:
        """The config as it is for one module."""
        return replace(
            config,
            rank=_of(self.ranks, module, config.rank),
            alpha=_of(self.alphas, module, config.alpha),
        )


class AdapterFactors:
    """One adapter, open for reading. Close it, or use it as a context manager."""

    def __init__(self, parent: ParentFiles, limits: AdapterLimits) -> None:
        """
        Raises:
            AdapterRejected: it cannot be read, is not the file of that digest, or is of a kind that cannot be merged.
        """
        self.id = parent.id
        self._file = -1
        try:
            self.config, self._patterns = read_config(parent.directory / CONFIG, limits.max_rank)
            self._file = open_regular(parent.directory / WEIGHTS)
            self._scan = _scanned(self._file, limits, parent.sha256)
            self._pairs = _pairs(self._scan.tensors, self.config, self._patterns)
        except AdapterRejected as error:
            self.close()
            raise AdapterRejected(f"{parent.id}: {error}") from error

    def __enter__(self) -> AdapterFactors:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Give the file back."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    @property
    def shapes(self) -> dict[str, tuple[int, int]]:
        """(out, in) of the delta by module."""
        return {module: (b.shape[0], a.shape[1]) for module, (a, b) in self._pairs.items()}

    @property
    def rank(self) -> int:
        """The highest of its modules'."""
        return max(a.shape[0] for a, _ in self._pairs.values())

    def factors(self, module: str) -> Factors | None:
        """Of one module; None where the adapter leaves it alone."""
        pair = self._pairs.get(module)
        if pair is None:
            return None
        a, b = (read_tensor(self._file, self._scan, tensor).astype(np.float32) for tensor in pair)
        scale = self._patterns.of(module, self.config).scaling
        return Factors(b * np.float32(scale), a)


def read_config(path: Path, max_rank: int) -> tuple[AdapterConfig, Patterns]:
    """An adapter_config.json, of an adapter that can be merged.

    Raises:
        AdapterRejected: names the key and why.
    """
    descriptor = open_regular(path)
    with os.fdopen(descriptor, "rb") as file:
        raw = file.read(MAX_CONFIG_BYTES + 1)
    if len(raw) > MAX_CONFIG_BYTES:
        raise AdapterRejected(f"{path.name} is longer than {MAX_CONFIG_BYTES} bytes")
    values = parse_object(raw, path.name)
    for key, reason in _REFUSED.items():
        if values.get(key):
            raise AdapterRejected(f"{path.name}: {key!r}: {reason}")
    ranks = _pattern("rank_pattern", values.pop("rank_pattern", None))
    alphas = _pattern("alpha_pattern", values.pop("alpha_pattern", None))
    if any(not is_integer(rank) or not 1 <= rank <= max_rank for rank in ranks.values()):
        raise AdapterRejected(f"{path.name}: 'rank_pattern': a rank is a whole number from 1 to {max_rank}")
    config = parse_config(json.dumps(values).encode(), max_rank)
    return config, Patterns({name: int(rank) for name, rank in ranks.items()}, alphas)


def _pattern(key: str, value: object) -> dict[str, float]:
    """PEFT reads its keys as regular expressions; here they are names: a stranger's expression may never end."""
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise AdapterRejected(f"adapter_config.json: {key!r}: it is an object")
    pattern = cast("dict[str, object]", value)
    for name, number in pattern.items():
        if _LITERAL.fullmatch(name) is None:
            raise AdapterRejected(f"adapter_config.json: {key!r}: {name[:100]!r} is not a plain module name")
        if isinstance(number, bool) or not isinstance(number, int | float) or not 0 < number < math.inf:
            raise AdapterRejected(f"adapter_config.json: {key!r}: {name[:100]!r} is not given a number above 0")
    return cast("dict[str, float]", pattern)


def _of(pattern: Mapping[str, Number], module: str, otherwise: Number) -> Number:
    """The first name that the module's path ends in decides, as in PEFT."""
    found = (value for name, value in pattern.items() if module == name or module.endswith(f".{name}"))
    return next(found, otherwise)


def _scanned(file: int, limits: AdapterLimits, sha256: str | None) -> Scan:
    found = scan(file, limits)
    if sha256 is not None and found.sha256 != sha256:
        raise AdapterRejected("its weights do not have the digest that was published")
    return found


def _pairs(
    tensors: Sequence[TensorInfo], config: AdapterConfig, patterns: Patterns
) -> dict[str, tuple[TensorInfo, TensorInfo]]:
    if not patterns.ranks:
        return check_pairs(tensors, config)
    pairs: dict[str, tuple[TensorInfo, TensorInfo]] = {}
    groups: dict[int, list[TensorInfo]] = {}
    for tensor in tensors:
        module = tensor.name.removeprefix("base_model.model.").rpartition(".lora_")[0]
        groups.setdefault(patterns.of(module, config).rank, []).append(tensor)
    for rank, group in groups.items():
        pairs.update(check_pairs(group, replace(config, rank=rank)))
    return pairs
