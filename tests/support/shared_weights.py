"""The embedded model as safetensors, made once and kept in pytest's cache: half a minute that no run pays twice."""

from __future__ import annotations

import asyncio
import fcntl
import hashlib
from pathlib import Path

import pytest

from engine.config import load_config
from engine.inference import dequantize
from engine.inference.base_weights import BaseWeights, ensure_base_weights


def shared_weights(config: pytest.Config) -> BaseWeights:
    """Made by the code as it is now: a change of `dequantize` makes them anew."""
    code = hashlib.sha256(Path(dequantize.__file__).read_bytes()).hexdigest()[:12]
    home = config.cache.mkdir(f"base-weights-{code}")
    with (home / ".lock").open("w") as lock:  # another worker may want them in the same moment
        fcntl.flock(lock, fcntl.LOCK_EX)
        return asyncio.run(ensure_base_weights(load_config(home / "none.toml", (), {}), home, lambda _step: None))
