"""A port of loopback for a server that another process starts a moment later."""

from __future__ import annotations

import random
import socket
from contextlib import suppress
from pathlib import Path

RANGE = Path("/proc/sys/net/ipv4/ip_local_port_range")
BELOW = 10_000
"""So many ports below those that the kernel gives out by itself are drawn from."""
TRIES = 100


def free_port() -> int:
    """One that is free, and that the kernel gives to no other test before the server has it."""
    first = int(RANGE.read_text(encoding="ascii").split()[0])
    lowest = max(1024, first - BELOW)
    dice = random.SystemRandom()  # the tests' own is seeded: two workers would draw the same
    for _ in range(TRIES if lowest < first else 0):
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", dice.randrange(lowest, first)))
            return int(probe.getsockname()[1])
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
