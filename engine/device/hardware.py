"""What this machine has: CPUs, memory, GPUs, disk. Reads only; loads no CUDA context and no torch.

GPU facts come from NVML, the driver's own management library. No driver, no library, a broken one: each of these
means an empty list, never an error, since a workstation without a GPU is an ordinary one.
"""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass, field
from pathlib import Path

import psutil

MB = 1 << 20


@dataclass(frozen=True)
class Gpu:
    """One NVIDIA GPU as its driver reports it."""

    name: str
    uuid: str
    vram_total_mb: int
    vram_free_mb: int


@dataclass(frozen=True)
class Hardware:
    """A snapshot; probe again to refresh it."""

    cpu_count: int
    """CPUs this process may use."""
    ram_total_mb: int
    ram_available_mb: int
    disk_total_mb: int
    disk_free_mb: int
    """Of the file system that holds the given directory."""
    gpus: tuple[Gpu, ...] = field(default=())


def probe(directory: Path) -> Hardware:
    """Look at the machine. Blocks for some milliseconds, longer while a GPU driver wakes up.

    Args:
        directory: RUNE_HOME, or its nearest parent that exists; its file system is the one measured.
    """
    memory = psutil.virtual_memory()
    existing = next(path for path in (directory.absolute(), *directory.absolute().parents) if path.exists())
    disk = shutil.disk_usage(existing)
    return Hardware(
        cpu_count=len(os.sched_getaffinity(0)),
        ram_total_mb=memory.total // MB,
        ram_available_mb=memory.available // MB,
        disk_total_mb=disk.total // MB,
        disk_free_mb=disk.free // MB,
        gpus=probe_gpus(),
    )


def probe_gpus() -> tuple[Gpu, ...]:
    """The GPUs that NVML reports; empty where it is missing or fails in any way."""
    import pynvml  # costs 40 ms and only a probe needs it

    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return ()
    try:
        return tuple(_gpu(pynvml.nvmlDeviceGetHandleByIndex(index)) for index in range(pynvml.nvmlDeviceGetCount()))
    except (pynvml.NVMLError, UnicodeDecodeError):
        return ()
    finally:
        pynvml.nvmlShutdown()


def _gpu(handle: object) -> Gpu:
    import pynvml

    memory = pynvml.nvmlDeviceGetMemoryInfo(handle)
    return Gpu(
        name=_text(pynvml.nvmlDeviceGetName(handle)),
        uuid=_text(pynvml.nvmlDeviceGetUUID(handle)),
        vram_total_mb=int(memory.total) // MB,
        vram_free_mb=int(memory.free) // MB,
    )


def _text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else value
