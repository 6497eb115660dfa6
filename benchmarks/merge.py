"""Merging adapters of a 7B-shaped model: core space against dense deltas, time and peak memory.

    python -m benchmarks.merge [--adapters 2,5,20] [--layers 32] [--dense-layers 1] [--method ties] [--json]

The adapters are random, of rank 16, for all seven linear modules of layers as a Llama of 7 billion weights has them
(4096 hidden, 11008 MLP), written to the disk as PEFT directories. Each figure is one run of the merging process that
the engine starts: from reading the spec to the finished output on the disk, with the highest resident memory that the
kernel counted for it. A dense merge of all layers takes hours on two cores, so it is run on `--dense-layers`, and core
space is run on as many too, to be compared; nothing is extrapolated. "Dense" here is our own, one matrix at a time:
holding all deltas of 20 adapters would take 20 times the model.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save_file

from engine.api_evolution import MergeMethod, MergeSpace
from engine.evolution.errands import SETTINGS
from engine.evolution.merging.spec import CONFIG, WEIGHTS, Limits, Merge, Merged, ParentFiles, Progress, read_word

HIDDEN, MLP, RANK = 4096, 11008, 16
SHAPES = {
    "self_attn.q_proj": (HIDDEN, HIDDEN),
    "self_attn.k_proj": (HIDDEN, HIDDEN),
    "self_attn.v_proj": (HIDDEN, HIDDEN),
    "self_attn.o_proj": (HIDDEN, HIDDEN),
    "mlp.gate_proj": (MLP, HIDDEN),
    "mlp.up_proj": (MLP, HIDDEN),
    "mlp.down_proj": (HIDDEN, MLP),
}
BASE = "llama-7b-shaped"
LIMITS = Limits(max_bytes=4 << 30, max_rank=512)
RUN_S = 3600.0
"""Longest single merge that is waited for."""


@dataclass(frozen=True)
class Figure:
    """One merge."""

    space: str
    adapters: int
    layers: int
    modules: int
    seconds: float
    cpu_seconds: float
    """Of all its threads: says what it costs also where other work has the cores."""
    peak_mib: int
    retained_energy: float
    output_mib: int


def write_adapter(folder: Path, seed: int, layers: int) -> ParentFiles:
    """A random adapter whose delta has entries of about a thousandth, as after training."""
    folder.mkdir()
    numbers = np.random.default_rng(seed)
    tensors: dict[str, NDArray[np.float32]] = {}
    for layer in range(layers):
        for module, (rows, columns) in SHAPES.items():
            name = f"base_model.model.model.layers.{layer}.{module}"
            tensors[f"{name}.lora_A.weight"] = numbers.standard_normal((RANK, columns), dtype=np.float32) * 0.015
            tensors[f"{name}.lora_B.weight"] = numbers.standard_normal((rows, RANK), dtype=np.float32) * 0.015
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})
    targets = sorted(module.rpartition(".")[2] for module in SHAPES)
    config = {"peft_type": "LORA", "r": RANK, "lora_alpha": RANK, "target_modules": targets}
    (folder / CONFIG).write_text(json.dumps(config))
    return ParentFiles(id=folder.name, directory=folder)


def run(root: Path, parents: list[ParentFiles], method: MergeMethod, space: MergeSpace, layers: int) -> Figure:
    """One merge in a process of its own.

    Raises:
        SystemExit: it failed; the message says why.
    """
    spec = Merge(
        parents=tuple(parents),
        base_model_id=BASE,
        method=method,
        rank=RANK,
        space=space,
        limits=LIMITS,
        output=root / "output",
    )
    (root / "spec.json").write_text(spec.model_dump_json())
    argv = [sys.executable, "-P", "-m", "engine.evolution.merging", str(root / "spec.json")]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1]), **SETTINGS}
    before = cpu_seconds()
    done = subprocess.run(argv, env=environment, stdout=subprocess.PIPE, timeout=RUN_S, check=False)
    words = [word for line in done.stdout.splitlines() if not isinstance(word := read_word(line), Progress)]
    said = words[-1] if words else None
    if not isinstance(said, Merged):
        raise SystemExit(f"{len(parents)} adapters in {space} space: {said or done.returncode}")
    return Figure(
        space=space.value,
        adapters=len(parents),
        layers=layers,
        modules=said.modules,
        seconds=said.seconds,
        cpu_seconds=cpu_seconds() - before,
        peak_mib=said.peak_mib,
        retained_energy=said.retained_energy,
        output_mib=(root / "output" / WEIGHTS).stat().st_size >> 20,
    )


def cpu_seconds() -> float:
    """Of all children that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def measure(counts: list[int], method: MergeMethod, layers: int, dense_layers: int) -> list[Figure]:
    """Every figure, told as it comes."""
    figures: list[Figure] = []
    runs = [(MergeSpace.CORE, layers), (MergeSpace.CORE, dense_layers), (MergeSpace.DELTA, dense_layers)]
    for depth in filter(None, dict.fromkeys((layers, dense_layers))):
        with tempfile.TemporaryDirectory(prefix="merge-") as name:
            root = Path(name)
            parents = [write_adapter(root / f"adapter-{seed}", seed, depth) for seed in range(max(counts))]
            for count in counts:
                for space in dict.fromkeys(space for space, of in runs if of == depth):
                    figures.append(run(root, parents[:count], method, space, depth))
                    print(line(figures[-1]), file=sys.stderr, flush=True)
    return figures


def line(figure: Figure) -> str:
    """For a person."""
    what = f"{figure.space:>5} space, {figure.adapters:>2} adapters, {figure.layers:>2} layers"
    time = f"{figure.seconds:8.2f} s, {figure.cpu_seconds:8.2f} s of CPU"
    return f"{what} ({figure.modules} matrices): {time}, {figure.peak_mib:6d} MiB at most"


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--adapters", default="2,5,20", help="numbers of adapters, with commas")
    parser.add_argument("--layers", type=int, default=32, help="of core space alone; 0 leaves it out")
    parser.add_argument("--dense-layers", type=int, default=1, help="of both, to compare them; 0 leaves dense out")
    parser.add_argument("--method", choices=[method.value for method in MergeMethod], default=MergeMethod.TIES.value)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    counts = [int(part) for part in options.adapters.split(",")]
    figures = measure(counts, MergeMethod(options.method), options.layers, options.dense_layers)
    if options.json:
        print(json.dumps([asdict(figure) for figure in figures], indent=2))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
