"""The seed and the temperature of each attempt, so that the same task with the same base seed replays.

A retry draws with another seed. Where the model gave the very same code again, the seed alone did not help, so each
repeat also raises the temperature by `TEMPERATURE_STEP`, up to `TEMPERATURE_MAX`.
"""

from __future__ import annotations

import hashlib

from engine.api_models import PhaseName

SEED_SPACE = 2**31
"""Seeds are below this: llama.cpp and the API both take them as 32-bit signed numbers."""

TEMPERATURE_STEP = 0.2
"""Enough to leave a rut of a small model, too little to make its code fall apart at once."""

TEMPERATURE_MAX = 1.0
"""Above this a small model's code no longer parses."""


def attempt_seed(base: int, phase: PhaseName, loop: str, attempt: int) -> int:
    """Seed of one model call: the base plus a stable function of where in the session the call stands."""
    place = f"{phase.value}\0{loop}\0{attempt}".encode()
    offset = int.from_bytes(hashlib.sha256(place).digest()[:8], "big")
    return (base + offset) % SEED_SPACE


def retry_temperature(base: float, repeats: int) -> float:
    """`base` raised for each time that the same code came again, never lowered."""
    assert repeats >= 0, "repeats are counted from 0"
    return max(base, min(TEMPERATURE_MAX, base + TEMPERATURE_STEP * repeats))
