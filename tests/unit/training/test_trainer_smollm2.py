"""QLoRA on the embedded model for real: SmolLM2-135M in NF4, a few dozen steps, in the process that engines start."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from support.shared_weights import shared_weights
from support.tiny_base import addition_rows, write_rows

from engine.config import load_config
from engine.training.estimate import peak_mib, read_shape
from engine.training.protocol import End, Progress, TrainerExit, parse
from engine.training.spec import TrainSpec
from registry.adapter_config import parse_config
from registry.safeload import AdapterLimits, check_pairs, open_regular, scan

ROOT = Path(__file__).parents[3]
STEPS = 24


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_smollm2_learns_by_qlora(pytestconfig: pytest.Config, tmp_path: Path) -> None:
    config = load_config(tmp_path / "none.toml")
    base = shared_weights(pytestconfig)
    keys = {"rank": 8, "batch_size": 2, "epochs": 10, "max_steps": STEPS, "evaluate_every": 12}
    spec = TrainSpec(
        job_id="smollm2",
        base_directory=base.directory,
        base_model_id=config.model.base_id,
        base_digest=base.digest,
        data=write_rows(tmp_path / "data.jsonl", addition_rows(28, held_out=4)),
        recipe=config.train.model_copy(update={**keys, "learning_rate": 1e-3}),
        seed=1,
        output=tmp_path / "output",
        checkpoints=tmp_path / "checkpoints",
    )
    spec.write(tmp_path / "spec.json")
    command = [sys.executable, "-m", "engine.training.qlora", str(tmp_path / "spec.json")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, timeout=1000, check=False)
    assert done.returncode == TrainerExit.DONE, done.stdout[-2000:] + done.stderr[-2000:]
    words = [parse(line) for line in done.stdout.splitlines()]
    losses = [word.loss for word in words if isinstance(word, Progress)]
    assert len(losses) == STEPS
    end = words[-1]
    assert isinstance(end, End)
    metrics = end.metrics
    assert sum(losses[-4:]) < sum(losses[:4]) / 2
    assert metrics.held_out_start is not None
    assert metrics.held_out_loss is not None
    assert metrics.held_out_loss < metrics.held_out_start / 2
    assert metrics.method == "qlora"
    descriptor = open_regular(spec.output / "adapter_model.safetensors", foreign=True)
    found = scan(descriptor, AdapterLimits(64 << 20, 256))
    adapter = parse_config((spec.output / "adapter_config.json").read_bytes(), 256)
    assert len(check_pairs(found.tensors, adapter)) == 30 * 7
    bf16 = metrics.compute.endswith("bfloat16")
    estimate = peak_mib(read_shape(base.directory), spec.recipe, bf16=bf16, gpu=False, longest=100, longest_answer=40)
    assert 0.6 * metrics.peak_mib < estimate < 1.6 * metrics.peak_mib
