"""An adapter's factors, read module by module: checked, widened to float32, with the adapter's scale folded into B.

Bytes are hostile until `registry.safeload` has read them: the whole file is scanned once when it is opened (digest,
layout, NaN), and a module's tensors are read when they are asked for, so that neither memory nor open files grow with
the number of adapters. The config is read by the registry's schema, `rank_pattern` and `alpha_pattern` included.
"""

from __future__ import annotations

import os
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from engine.evolution.merging.core_space import Factors
from engine.evolution.merging.spec import CONFIG, WEIGHTS, ParentFiles
from registry.adapter_config import MAX_CONFIG_BYTES, AdapterConfig
from registry.errors import AdapterRejected
from registry.patterns import Patterns, check_patterned, parse_patterned
from registry.safeload import AdapterLimits, Scan, open_regular, read_tensor, scan
from registry.strict_json import parse_object

_REFUSED: Mapping[str, str] = {
    "use_dora": "DoRA scales whole columns by a magnitude of its own, which no sum of deltas keeps",
    "modules_to_save": "it replaces whole modules, which are not deltas",
    "lora_bias": "it adds biases, which are not deltas of the weights",
}
"""What cannot be merged, with the reason; whatever else the registry's schema refuses, it refuses with its own."""


class AdapterFactors:
    """One adapter, checked and ready to be read. It holds no file open: a process may only have some hundreds."""

    def __init__(self, parent: ParentFiles, limits: AdapterLimits) -> None:
        """
        Raises:
            AdapterRejected: it cannot be read, is not the file of that digest, or is of a kind that cannot be merged.
        """
        self.id = parent.id
        self._path = parent.directory / WEIGHTS
        try:
            self.config, self._patterns = read_config(parent.directory / CONFIG, limits.max_rank)
            with _opened(self._path) as file:
                self._scan = _scanned(file, limits, parent.sha256)
                self._seen = _identity(file)
            self._pairs = check_patterned(self._scan.tensors, self.config, self._patterns)
        except AdapterRejected as error:
            raise AdapterRejected(f"{parent.id}: {error}") from error

    @property
    def shapes(self) -> dict[str, tuple[int, int]]:
        """(out, in) of the delta by module."""
        return {module: (b.shape[0], a.shape[1]) for module, (a, b) in self._pairs.items()}

    @property
    def rank(self) -> int:
        """The highest of its modules'."""
        return max(a.shape[0] for a, _ in self._pairs.values())

    def factors(self, module: str) -> Factors | None:
        """Of one module; None where the adapter leaves it alone.

        Raises:
            AdapterRejected: the file is not the one that was checked, or its scale is too large for its values.
        """
        pair = self._pairs.get(module)
        if pair is None:
            return None
        with _opened(self._path) as file:
            if _identity(file) != self._seen:
                raise AdapterRejected(f"{self.id}: its weights were changed while they were merged")
            a, b = (read_tensor(file, self._scan, tensor).astype(np.float32) for tensor in pair)
        with np.errstate(over="ignore"):  # looked for in the next line
            scaled = b * np.float32(self._patterns.of(module, self.config).scaling)
        if not np.isfinite(scaled).all():
            raise AdapterRejected(f"{self.id}: {module} times its scale is beyond what float32 holds")
        return Factors(scaled, a)


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
    return parse_patterned(raw, max_rank)


@contextmanager
def _opened(path: Path) -> Generator[int]:
    descriptor = open_regular(path)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _identity(file: int) -> tuple[int, int, int, int]:
    """What changes when another file takes its place, or somebody writes to it."""
    facts = os.fstat(file)
    return facts.st_dev, facts.st_ino, facts.st_size, facts.st_mtime_ns


def _scanned(file: int, limits: AdapterLimits, sha256: str | None) -> Scan:
    found = scan(file, limits)
    if sha256 is not None and found.sha256 != sha256:
        raise AdapterRejected("its weights do not have the digest that was published")
    return found
