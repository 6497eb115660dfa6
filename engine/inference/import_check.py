"""What is checked of an adapter that comes from elsewhere, beyond what `registry` checks of every adapter's files.

The registry knows no base model. Here the shapes are compared with those of the configured one, where the adapter was
made for it and its file is there; nothing but a header is read of it. And no module may change the model out of all
proportion: such an adapter is damaged or hostile, and everything that is merged with it would be too.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from statistics import median

import numpy as np

from engine.config import Config
from engine.errors import EnvironmentUnfitError, ModelNotFoundError
from engine.inference.adapter_check import linear_shapes
from engine.inference.model_files import model_path
from engine.inference.sidecar.gguf_header import read_header
from registry.blobs import WEIGHTS, Staged
from registry.errors import AdapterRejected
from registry.safeload import check_pairs, open_regular, read_tensor

MAX_CHANGE = 100.0
"""Root mean square of what a module's delta adds to a weight. Adapters that were trained here have 0.002 to 0.15, and
a base model's weights are below 1."""
MAX_OUTLIER = 100.0
"""Times the median of its modules that one may change the model by. Trained adapters stay below 3."""
MIN_MODULES = 8
"""With fewer, a median says little."""

ARCHITECTURES = frozenset({"llama", "qwen2", "qwen3"})
"""Of GGUF files, whose tensors stand for modules as below."""
_MODULES: Mapping[str, str] = {
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
"""Name in a GGUF file -> name in a layer of the transformers model."""
_BLOCK = re.compile(r"blk\.(?P<layer>\d+)\.(?P<name>\w+)\.weight")

Shapes = Mapping[str, tuple[int, int]]
"""(out, in) of a base model's linear modules by dotted path."""


class ImportCheck:
    """Looks at an adapter that is checked and copied, but not listed. Blocks while it reads the copy."""

    def __init__(self, config: Config) -> None:
        self._config = config

    def __call__(self, staged: Staged) -> None:
        """Raises:
        AdapterRejected: it does not fit the base model, or changes it out of all proportion; names the tensor.
        """
        blob = staged.blob
        if blob.base_model_id == self._config.model.base_id and (shapes := base_shapes(self._config)) is not None:
            check_pairs(blob.weights.tensors, blob.config, shapes)
        check_proportion(dict(changes(staged)))


def base_shapes(config: Config) -> Shapes | None:
    """The configured base model's, from the header of its file; None where they cannot be told. Blocks.

    They cannot where there is no model, or a GGUF file is of another architecture than `ARCHITECTURES`.
    """
    folder = Path(config.model.path).expanduser()
    try:
        if config.model.path and folder.is_dir():
            return linear_shapes(folder)
        return _of_gguf(model_path(config))
    except (ModelNotFoundError, EnvironmentUnfitError, OSError, ValueError):
        return None


def _of_gguf(path: Path) -> Shapes | None:
    header = read_header(path)
    if header.settings.get("general.architecture") not in ARCHITECTURES:
        return None
    shapes: dict[str, tuple[int, int]] = {}
    for name, shape in header.shapes.items():
        if (module := _module(name)) is not None and len(shape) == 2:
            shapes[module] = (shape[1], shape[0])
    return shapes


def _module(tensor: str) -> str | None:
    """The linear module that a tensor of a GGUF file is the weight of."""
    if tensor == "output.weight":
        return "lm_head"
    match = _BLOCK.fullmatch(tensor)
    if match is None or match["name"] not in _MODULES:
        return None
    return f"model.layers.{match['layer']}.{_MODULES[match['name']]}"


def check_proportion(changes: Mapping[str, float]) -> None:
    """Compare what the modules change.

    Args:
        changes: root mean square of each module's delta, by dotted path.

    Raises:
        AdapterRejected: one changes the model out of all proportion; names it.
    """
    module, most = max(changes.items(), key=lambda item: item[1])
    if not most <= MAX_CHANGE:
        raise AdapterRejected(
            f"module {module!r} changes each weight by {most:.3g} (root mean square); at most {MAX_CHANGE:g} is taken"
        )
    moved = [change for change in changes.values() if change > 0]
    if len(moved) >= MIN_MODULES and most > MAX_OUTLIER * median(moved):
        raise AdapterRejected(
            f"module {module!r} changes each weight by {most:.3g} (root mean square), where half of the adapter's"
            f" modules change it by less than {median(moved):.3g}; at most {MAX_OUTLIER:g} times that is taken"
        )


def changes(staged: Staged) -> Iterator[tuple[str, float]]:
    """Root mean square of what each module's delta adds to a weight, from the copy that would be listed."""
    weights, config = staged.blob.weights, staged.blob.config
    descriptor = open_regular(staged.directory / WEIGHTS)
    try:
        for module, (a, b) in check_pairs(weights.tensors, config).items():
            down, up = (read_tensor(descriptor, weights, side).astype(np.float64) for side in (a, b))
            squares = float(((down @ down.T) * (up.T @ up)).sum())  # of the delta's entries, without making it
            yield module, config.scaling * math.sqrt(max(0.0, squares) / (a.shape[1] * b.shape[0]))
    finally:
        os.close(descriptor)
