"""The baseline of `benchmarks.learn`: two adapters merged factor by factor, as PEFT's `linear` does.

    python -m benchmarks.learn_peft '{"parents": [DIR, DIR], "weights": [1, 1], "output": DIR}'

PEFT's rule for two adapters of one rank: A = sum sqrt(w s) A_t, B = sum sqrt(w s) B_t, so that B A has cross terms.
It needs no base model, and so none is loaded; a test compares it with PEFT itself.
"""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path

from safetensors.torch import load_file, save_file
from torch import Tensor

from registry.adapter_config import AdapterConfig, parse_config

WEIGHTS = "adapter_model.safetensors"
CONFIG = "adapter_config.json"
MAX_RANK = 512


def combine(parents: list[dict[str, Tensor]], factors: list[float]) -> dict[str, Tensor]:
    """Weighted sums of the factors by name; `factors` are weight times scaling."""
    names = sorted(set().union(*parents))
    return {
        name: sum(
            (math.sqrt(factor) * tensors[name].float() for tensors, factor in zip(parents, factors, strict=True)),
            start=0 * parents[0][name].float(),
        )
        for name in names
    }


def write(parents: list[Path], weights: list[float], output: Path) -> None:
    """Merge the adapters in these directories into `output`, which exists."""
    configs = [parse_config((parent / CONFIG).read_bytes(), MAX_RANK) for parent in parents]
    factors = [weight * config.scaling for weight, config in zip(weights, configs, strict=True)]
    merged = combine([load_file(parent / WEIGHTS) for parent in parents], factors)
    save_file({name: tensor.contiguous() for name, tensor in merged.items()}, output / WEIGHTS)
    first = configs[0]
    assert first.base_model_id is not None, "what was trained here says its base"
    config = AdapterConfig(first.rank, float(first.rank), first.target_modules, first.base_model_id)
    (output / CONFIG).write_bytes(config.to_json(first.base_model_id))


def main() -> None:
    job = json.loads(sys.argv[1])
    write([Path(parent) for parent in job["parents"]], job["weights"], Path(job["output"]))


if __name__ == "__main__":
    main()
