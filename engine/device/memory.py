"""The device's memory: what is free, who holds it, and the proof of it that every start needs.

A proof is two samples in a row, 250 ms apart on a GPU, that are both large enough and agree with each other: memory
of a process that has just ended comes back late and in parts, and one look in the middle of that proves nothing.
Decided on what the device has free; process numbers only name who is in the way (in a container the driver gives
none).
"""

from __future__ import annotations

import asyncio
import importlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, cast

import psutil

from engine.device.contracts import Memory, MemoryHolder, MemorySample
from engine.device.lock import CPU
from engine.device.processes import command_line
from engine.errors import DeviceLostError, EnvironmentUnfitError
from registry.clock import Clock
from registry.files import run_to_end

MIB = 1 << 20
SAMPLE_S = 0.25
HOST_SAMPLE_S = 0.05
"""Of the machine's own memory: the kernel has it back before it says that a process is gone, a driver does not."""
MARGIN_SHARE = 0.05
"""Of the need: an estimate is off in proportion to its size."""
STABLE_MIB = 256
STABLE_SHARE = 0.02
"""Of the device's memory: what two samples may differ by and still agree."""


@dataclass(frozen=True)
class Need:
    """What must be free, and whose presence is no surprise."""

    mib: int
    margin_mib: int
    """At least; a large need asks for more."""
    known: frozenset[int] = frozenset()
    """Process numbers that may compute on the device: the sleeping server's tree."""

    @property
    def free_mib(self) -> int:
        return self.mib + max(self.margin_mib, int(self.mib * MARGIN_SHARE))


@dataclass(frozen=True)
class Proof:
    """The outcome of a memory proof."""

    proven: bool
    reason: str
    """One sentence with the numbers, whichever way it went."""
    free_mib: int
    needed_mib: int
    """Need and margin together."""
    samples: int
    foreign: tuple[MemoryHolder, ...] = ()
    """Processes on the device that are not known to us."""


def prove(samples: Sequence[MemorySample], need: Need) -> Proof:
    """Decide on the samples so far, the oldest first. Pure."""
    assert samples, "a proof needs samples"
    last = samples[-1]
    foreign = tuple(holder for holder in last.holders if holder.pid not in need.known)
    enough = all(sample.free_mib >= need.free_mib for sample in samples[-2:])
    stable = len(samples) >= 2 and agree(samples[-2], last)
    proven = enough and stable and not foreign
    reason = _reason(last, need, foreign, enough=enough, stable=stable)
    return Proof(proven, reason, last.free_mib, need.free_mib, len(samples), foreign)


def agree(first: MemorySample, second: MemorySample) -> bool:
    """Whether nothing much moved between two samples."""
    return abs(first.free_mib - second.free_mib) <= max(STABLE_MIB, int(second.total_mib * STABLE_SHARE))


def _reason(last: MemorySample, need: Need, foreign: tuple[MemoryHolder, ...], *, enough: bool, stable: bool) -> str:
    have = f"{last.free_mib} MiB of {last.total_mib} MiB are free"
    want = f"{need.free_mib} MiB are needed ({need.mib} and a margin of {need.free_mib - need.mib})"
    if foreign:
        return f"{have}, but {' and '.join(map(_named, foreign))} is on the device and is not ours to end; {want}."
    if not enough:
        return f"Only {have}; {want}."
    if not stable:
        return f"{have} but the amount still moves; {want}."
    return f"{have}; {want}."


def _named(holder: MemoryHolder) -> str:
    held = "an unknown amount" if holder.mib is None else f"{holder.mib} MiB"
    return f"pid {holder.pid} ({holder.command or 'unknown'}, {held})"


async def settle(memory: Memory, need: Need, settle_s: float, clock: Clock) -> Proof:
    """Sample until the need is proven, or `settle_s` have passed; a first pair is always taken.

    Raises:
        DeviceLostError: the driver does not answer for the device any more.
    """
    deadline = clock.monotonic() + settle_s
    pause_s = HOST_SAMPLE_S if memory.device_id == CPU else SAMPLE_S
    samples = [await memory.sample()]
    while True:
        await asyncio.sleep(pause_s)
        samples.append(await memory.sample())
        proof = prove(samples, need)
        if proof.proven or clock.monotonic() >= deadline:
            return proof


class HostMemory:
    """The machine's memory, where there is no GPU: what is available without swapping.

    A container's limit counts where it is lower: the kernel ends what exceeds it, whatever the machine has free.
    """

    def __init__(self, cgroup: Path = Path("/sys/fs/cgroup")) -> None:
        self._cgroup = cgroup

    @property
    def device_id(self) -> str:
        return CPU

    async def sample(self) -> MemorySample:
        return await run_to_end(self._sample)

    def _sample(self) -> MemorySample:
        machine = psutil.virtual_memory()
        free, total = machine.available, machine.total
        limit, used = self._limit()
        if limit is not None and limit < total:
            free, total = min(free, max(0, limit - used)), limit
        return MemorySample(free // MIB, total // MIB)

    def _limit(self) -> tuple[int | None, int]:
        """Bytes allowed to our control group (None: no limit) and used by it, page cache that can go left out."""
        for names in (
            ("memory.max", "memory.current"),
            ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes"),
        ):
            limit, used = (_number(self._cgroup / name) for name in names)
            if limit is not None and used is not None:
                return limit, used - min(used, self._cache((self._cgroup / names[0]).parent))
        return None, 0

    def _cache(self, group: Path) -> int:
        try:
            lines = (group / "memory.stat").read_text(encoding="ascii").splitlines()
        except OSError:
            return 0
        counts = dict(line.split(" ", 1) for line in lines if " " in line)
        return int(counts.get("total_inactive_file") or counts.get("inactive_file") or 0)


def _number(path: Path) -> int | None:
    try:
        text = path.read_text(encoding="ascii").strip()
    except OSError:
        return None
    return int(text) if text.isdigit() else None


class Nvml(Protocol):
    """The part of pynvml that is used; a test gives an object of its own."""

    NVMLError: type[Exception]

    def nvmlInit(self) -> None: ...
    def nvmlDeviceGetHandleByUUID(self, uuid: str) -> object: ...
    def nvmlDeviceGetMemoryInfo(self, handle: object) -> Any: ...
    def nvmlDeviceGetComputeRunningProcesses(self, handle: object) -> Sequence[Any]: ...


class NvmlMemory:
    """One GPU's memory by NVML. The handle is taken anew after a failure, so a driver that comes back is seen."""

    def __init__(self, uuid: str, nvml: Nvml | None = None) -> None:
        """
        Args:
            uuid: as the driver writes it, `GPU-...`: unlike the index it never changes.
            nvml: None is pynvml.
        """
        self._uuid = uuid
        self._nvml = nvml
        self._handle: object | None = None

    @property
    def device_id(self) -> str:
        return f"gpu-{self._uuid}"

    async def sample(self) -> MemorySample:
        return await run_to_end(self._sample)

    def _sample(self) -> MemorySample:
        nvml = self._nvml = self._nvml or cast(Nvml, importlib.import_module("pynvml"))
        try:
            if self._handle is None:
                nvml.nvmlInit()
                self._handle = nvml.nvmlDeviceGetHandleByUUID(self._uuid)
            memory = nvml.nvmlDeviceGetMemoryInfo(self._handle)
            running = nvml.nvmlDeviceGetComputeRunningProcesses(self._handle)
        except nvml.NVMLError as error:
            self._handle = None
            raise DeviceLostError(
                f"The GPU {self._uuid} does not answer ({error}); see `nvidia-smi` and the kernel's log."
            ) from error
        return MemorySample(int(memory.free) // MIB, int(memory.total) // MIB, tuple(map(_holder, running)))


def _holder(process: Any) -> MemoryHolder:
    used = process.usedGpuMemory
    return MemoryHolder(int(process.pid), command_line(int(process.pid)), None if used is None else int(used) // MIB)


def device_memory(gpu: str, uuids: Sequence[str]) -> Memory:
    """The memory of the configured device.

    Args:
        gpu: `device.gpu`: a UUID, or "" for the first GPU, or the CPU where there is none.
        uuids: of the GPUs that there are.

    Raises:
        EnvironmentUnfitError: there is no GPU of that UUID.
    """
    if gpu and gpu not in uuids:
        there = ", ".join(uuids) or "no GPU"
        raise EnvironmentUnfitError(f"There is no GPU {gpu}; this machine has {there}. Correct device.gpu.")
    chosen = gpu or next(iter(uuids), "")
    return NvmlMemory(chosen) if chosen else HostMemory()
