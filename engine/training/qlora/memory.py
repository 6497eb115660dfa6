"""Memory: how much is used, and what running out of it looks like."""

from __future__ import annotations

import gc
import os
import resource
from pathlib import Path

import torch

MIB = 1 << 20
SIGNS = ("out of memory", "not enough memory", "can't allocate memory")
"""What the allocators of CUDA and of the CPU write; torch has an own exception for the first only."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether fewer sequences at a time would help."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(sign in str(error).lower() for sign in SIGNS)


def release(device: torch.device) -> None:
    """Give back what nothing refers to."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


def used_mib(device: torch.device) -> int:
    """Of the GPU, reserved by this process; else of the machine, resident."""
    if device.type == "cuda":
        return torch.cuda.memory_reserved(device) // MIB
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") // MIB


def peak_mib(device: torch.device) -> int:
    """The most that `used_mib` ever was."""
    if device.type == "cuda":
        return torch.cuda.max_memory_reserved(device) // MIB
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
