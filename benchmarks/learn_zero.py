"""An adapter that changes nothing, as a control: another's with B = 0, which is how every training begins.

python -m benchmarks.learn_zero ADAPTER_DIR OUTPUT_DIR
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

WEIGHTS = "adapter_model.safetensors"
CONFIG = "adapter_config.json"


def write(source: Path, output: Path) -> None:
    """Write it into `output`, which exists."""
    tensors = load_file(source / WEIGHTS)
    emptied = {name: torch.zeros_like(one) if ".lora_B." in name else one for name, one in tensors.items()}
    save_file(emptied, output / WEIGHTS)
    shutil.copyfile(source / CONFIG, output / CONFIG)


if __name__ == "__main__":
    write(Path(sys.argv[1]), Path(sys.argv[2]))
