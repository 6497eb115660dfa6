"""I2: no start without a proof. A fake driver with lag, noise, a foreign process and a GPU that is lost."""

from __future__ import annotations

import asyncio
import itertools
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.device.contracts import MemoryHolder, MemorySample
from engine.device.ground import Machine
from engine.device.memory import (
    MIB,
    HostMemory,
    Need,
    NvmlMemory,
    agree,
    device_memory,
    prove,
    settle,
)
from engine.errors import DeviceLostError, EnvironmentUnfitError
from registry.clock import SeededClock, SystemClock

TOTAL = 24_000
NEED = Need(10_000, 400)
"""10,500 MiB with its margin of 5 %."""


@dataclass
class FakeMemory:
    """A device or a machine whose looks are given; the last one repeats."""

    device_id: str
    free: list[int]

    async def sample(self) -> MemorySample:
        return MemorySample(self.free.pop(0) if len(self.free) > 1 else self.free[0], TOTAL)


@pytest.mark.parametrize(
    ("free", "fits"), [([11_000], True), ([10_400], False), ([11_000, 10_400], False), ([10_400, 11_000], False)]
)
async def test_on_a_gpu_the_machines_memory_is_proven_too(tmp_path: Path, free: list[int], fits: bool) -> None:
    """PREFLIGHT of 2.2: a trainer needs memory of the machine beside the GPU's. Both of two looks must show it."""
    device, host = FakeMemory("gpu-a", [TOTAL]), FakeMemory("cpu", free)
    machine = await asyncio.to_thread(Machine, device, tmp_path, SystemClock(), host)
    proof = await machine.prove_host(10_000, margin_mib=400)
    assert proof.proven is fits
    assert "10500 MiB are needed" in proof.reason


async def test_where_the_device_is_the_machine_nothing_is_proven_twice(tmp_path: Path) -> None:
    machine = await asyncio.to_thread(Machine, FakeMemory("cpu", [1]), tmp_path, SystemClock(), FakeMemory("cpu", [1]))
    assert (await machine.prove_host(10_000, margin_mib=400)).proven


def samples(*free: int, holders: tuple[MemoryHolder, ...] = ()) -> list[MemorySample]:
    return [MemorySample(mib, TOTAL, holders) for mib in free]


class LostError(Exception):
    pass


@dataclass
class FakeNvml:
    """As much of pynvml as is used; `free` gives the MiB of each look."""

    free: Iterable[int]
    holders: tuple[tuple[int, int | None], ...] = ()
    known: tuple[str, ...] = ("GPU-a",)
    lost: bool = False
    inits: int = 0
    NVMLError: type[Exception] = field(default=LostError)

    def nvmlInit(self) -> None:
        self.inits += 1
        if self.lost:
            raise LostError("driver not loaded")

    def nvmlDeviceGetHandleByUUID(self, uuid: str) -> object:
        if uuid not in self.known:
            raise LostError("not found")
        return uuid

    def nvmlDeviceGetMemoryInfo(self, handle: object) -> object:
        if self.lost:
            raise LostError("GPU is lost")
        if not isinstance(self.free, itertools.chain):
            self.free = itertools.chain(self.free)
        return SimpleNamespace(free=next(self.free) * MIB, total=TOTAL * MIB)

    def nvmlDeviceGetComputeRunningProcesses(self, handle: object) -> list[object]:
        return [SimpleNamespace(pid=pid, usedGpuMemory=None if mib is None else mib * MIB) for pid, mib in self.holders]


@pytest.mark.parametrize(
    ("free", "proven"),
    [
        ([20_000], False),  # one look proves nothing
        ([20_000, 20_000], True),
        ([20_000, 20_400], True),  # moves by less than 2 % of 24,000
        ([20_000, 20_500], False),  # still moves
        ([20_500, 20_000], False),
        ([10_500, 10_500], True),  # exactly enough
        ([10_499, 10_500], False),  # the first of the two was not enough
        ([10_500, 10_499], False),
        ([10_499, 10_500, 10_500], True),
        ([20_000, 20_000, 5_000], False),  # enough once, not any more
        ([1_000, 1_000, 1_000], False),  # settled, and too little: Studio's two equal, still full samples
    ],
)
def test_i2_two_samples_in_a_row_that_are_enough_and_agree(free: list[int], proven: bool) -> None:
    proof = prove(samples(*free), NEED)
    assert proof.proven == proven, proof.reason
    assert str(free[-1]) in proof.reason and "10500 MiB are needed (10000 and a margin of 500)" in proof.reason


def test_the_margin_is_the_configured_one_or_a_share_of_a_large_need() -> None:
    assert Need(1_000, 512).free_mib == 1_512
    assert Need(100_000, 512).free_mib == 105_000
    assert Need(0, 0).free_mib == 0


def test_small_devices_may_move_by_256_mib() -> None:
    assert agree(MemorySample(1_000, 2_000), MemorySample(1_256, 2_000))
    assert not agree(MemorySample(1_000, 2_000), MemorySample(1_257, 2_000))


def test_i2_a_foreign_process_is_named_and_our_sleeping_server_is_not() -> None:
    game = MemoryHolder(777, "game", 3_000)
    server = MemoryHolder(100, "vllm", None)
    proof = prove(samples(20_000, 20_000, holders=(server, game)), Need(10_000, 512, frozenset({100})))
    assert not proof.proven and proof.foreign == (game,)
    assert "pid 777 (game, 3000 MiB) is on the device and is not ours to end" in proof.reason
    assert prove(samples(20_000, 20_000, holders=(server,)), Need(10_000, 512, frozenset({100}))).proven


@given(st.lists(st.integers(0, TOTAL), min_size=1, max_size=8), st.integers(0, TOTAL), st.integers(0, 2_000))
def test_i2_whatever_was_measured_a_proof_means_enough_twice(free: list[int], need: int, margin: int) -> None:
    proof = prove(samples(*free), Need(need, margin))
    if proof.proven:
        assert len(free) >= 2 and min(free[-2:]) >= need + margin and abs(free[-1] - free[-2]) <= 480


def naive(found: list[MemorySample], need: Need) -> bool:
    """The broken variant: one look."""
    return found[-1].free_mib >= need.free_mib


def test_control_one_look_is_fooled_by_memory_that_is_about_to_go() -> None:
    """Negative control: the first look of a device that a dying neighbour is just leaving and a new one takes."""
    moving = samples(4_000, 11_000)
    assert naive(moving, NEED) and not prove(moving, NEED).proven
    assert not prove([*moving, *samples(9_000)], NEED).proven


async def test_lag_memory_that_comes_back_in_parts_is_waited_for() -> None:
    memory = NvmlMemory("GPU-a", FakeNvml([2_000, 6_000, 12_000, 18_000, 23_000, 23_100]))
    proof = await settle(memory, NEED, 5, SystemClock())
    assert proof.proven and proof.samples == 6 and proof.free_mib == 23_100


async def test_noise_is_not_taken_for_movement() -> None:
    memory = NvmlMemory("GPU-a", FakeNvml([20_000, 20_200]))
    assert (await settle(memory, NEED, 5, SystemClock())).samples == 2


async def test_what_never_comes_back_is_given_up_in_time_with_the_numbers() -> None:
    memory = NvmlMemory("GPU-a", FakeNvml(itertools.repeat(8_000)))
    async with asyncio.timeout(60):
        proof = await settle(memory, NEED, 0.5, SystemClock())
    assert not proof.proven
    assert proof.reason == ("Only 8000 MiB of 24000 MiB are free; 10500 MiB are needed (10000 and a margin of 500).")


async def test_a_foreign_process_is_read_from_the_driver() -> None:
    memory = NvmlMemory("GPU-a", FakeNvml(itertools.repeat(20_000), holders=((os.getpid(), 64), (2**22 + 1, None))))
    first, second = (await memory.sample()).holders
    assert (first.pid, first.mib) == (os.getpid(), 64) and "python" in first.command
    assert second.mib is None and second.command == ""
    assert not (await settle(memory, NEED, 0, SeededClock())).proven


async def test_a_lost_gpu_is_an_error_of_its_own_and_is_seen_when_it_comes_back() -> None:
    nvml = FakeNvml(itertools.repeat(20_000))
    memory = NvmlMemory("GPU-a", nvml)
    await memory.sample()
    nvml.lost = True
    for _ in range(2):
        with pytest.raises(DeviceLostError, match="GPU-a does not answer"):
            await settle(memory, NEED, 5, SystemClock())
    nvml.lost = False
    assert (await memory.sample()).free_mib == 20_000 and nvml.inits == 3


async def test_the_real_library_without_a_driver_is_a_lost_gpu() -> None:
    with pytest.raises(DeviceLostError, match="GPU-nowhere"):
        await NvmlMemory("GPU-nowhere").sample()


async def test_the_hosts_memory_is_what_is_available(tmp_path: Path) -> None:
    sample = await HostMemory(tmp_path).sample()
    meminfo = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
    assert sample.total_mib == int(meminfo["MemTotal"].split()[0]) // 1024 and not sample.holders
    assert abs(sample.free_mib - int(meminfo["MemAvailable"].split()[0]) // 1024) < sample.total_mib // 4


def _v2(group: Path, limit: str) -> None:
    (group / "memory.max").write_text(limit)
    (group / "memory.current").write_text(str(600 * MIB))
    (group / "memory.stat").write_text(f"anon 1\ninactive_file {100 * MIB}\n")


def _v1(group: Path, limit: str) -> None:
    (group / "memory").mkdir()
    (group / "memory/memory.limit_in_bytes").write_text(limit)
    (group / "memory/memory.usage_in_bytes").write_text(str(600 * MIB))
    (group / "memory/memory.stat").write_text(f"inactive_file 5\ntotal_inactive_file {100 * MIB}\n")


@pytest.mark.parametrize("lay_out", [_v1, _v2])
async def test_a_containers_limit_counts_where_it_is_lower(
    tmp_path: Path, lay_out: Callable[[Path, str], None]
) -> None:
    lay_out(tmp_path, str(1_000 * MIB))
    sample = await HostMemory(tmp_path).sample()
    assert (sample.free_mib, sample.total_mib) == (500, 1_000)


@pytest.mark.parametrize("limit", ["max", str(2**63 - 4096), "garbage"])
async def test_no_limit_is_the_machines(tmp_path: Path, limit: str) -> None:
    _v2(tmp_path, limit)
    assert (await HostMemory(tmp_path).sample()).total_mib == (await HostMemory(tmp_path / "no").sample()).total_mib


def test_the_configured_gpu_or_the_first_or_the_cpu() -> None:
    assert device_memory("", []).device_id == "cpu"
    assert device_memory("", ["GPU-a", "GPU-b"]).device_id == "gpu-GPU-a"
    assert device_memory("GPU-b", ["GPU-a", "GPU-b"]).device_id == "gpu-GPU-b"
    with pytest.raises(EnvironmentUnfitError, match="There is no GPU GPU-c; this machine has GPU-a"):
        device_memory("GPU-c", ["GPU-a"])
