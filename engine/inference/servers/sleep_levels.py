"""Which sleep vLLM is asked for: a pure rule over numbers that the caller has measured.

Level 1 copies the weights to pinned RAM and back: seconds. Level 2 drops them and reads them from the disk again:
more seconds, and nothing is held meanwhile. None of them fits: the server is stopped.
"""

from __future__ import annotations

from dataclasses import dataclass

PINNED_COPIES = 2
"""RAM that a copy of the weights takes: torch rounds pinned blocks up to powers of two (8 GB took 22, vLLM #48337)."""
TRAINER_MIB = 4096
"""RAM of a trainer beside the device's memory: interpreter, torch, CUDA context, the data set."""
MARGIN_MIB = 2048
"""RAM that stays free: the copy makes the sleeping server the first choice of the kernel's OOM killer."""


@dataclass(frozen=True)
class Ram:
    """The machine's memory and the model's, in MiB."""

    available_mib: int
    weights_mib: int


def choose_level(wanted: int, ram: Ram, *, gpu: bool, weights_on_disk: bool) -> int | None:
    """The level, or None where only a full stop will do.

    Args:
        wanted: `vllm.sleep_level`; 0 chooses.
        gpu: without one, sleep only pauses the server: nothing is copied, nothing is dropped.
        weights_on_disk: level 2 reads them again.
    """
    if not gpu or wanted == 1:
        return 1
    if wanted == 0 and ram.available_mib >= PINNED_COPIES * ram.weights_mib + TRAINER_MIB + MARGIN_MIB:
        return 1
    return 2 if weights_on_disk else None
