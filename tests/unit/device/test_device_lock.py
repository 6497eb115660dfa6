"""I8, C4: one holder of a device; who is refused learns by whom; the last copy frees it."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from support.guarded_trees import ROOT, family

from engine.device.lock import DeviceLock, busy, holders, is_free, lock_path
from engine.device.processes import send
from engine.errors import DeviceBusyError, EnvironmentUnfitError

GPU = "gpu-GPU-0000"
HOLDER = """
import asyncio, sys, pathlib
from engine.device.lock import DeviceLock
async def main():
    lock = await DeviceLock.acquire("cpu", pathlib.Path(sys.argv[1]))
    print("held", flush=True)
    await asyncio.to_thread(sys.stdin.read)
asyncio.run(main())
"""


def holder(run: Path) -> subprocess.Popen[str]:
    child = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(run)], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert child.stdout and child.stdout.readline() == "held\n"
    return child


def test_a_gpu_is_locked_for_the_user_and_the_cpu_for_the_home(tmp_path: Path) -> None:
    assert lock_path("cpu", tmp_path, {"XDG_RUNTIME_DIR": "/run/user/7"}) == tmp_path / "cpu.lock"
    assert lock_path(GPU, tmp_path, {"XDG_RUNTIME_DIR": "/run/user/7"}) == Path("/run/user/7/rune") / f"{GPU}.lock"
    assert lock_path(GPU, tmp_path, {}) == lock_path(GPU, tmp_path / "other", {})
    assert f"rune-{os.geteuid()}" in str(lock_path(GPU, tmp_path, {}))


async def test_one_at_a_time_and_free_after_release(tmp_path: Path) -> None:
    lock = await DeviceLock.acquire("cpu", tmp_path)
    assert not is_free(lock.path) and await asyncio.to_thread(holders, lock.path) == [os.getpid()]
    with pytest.raises(DeviceBusyError, match=f"pid {os.getpid()} "):
        await DeviceLock.acquire("cpu", tmp_path, wait_s=0)
    lock.release()
    assert is_free(lock.path) and await asyncio.to_thread(holders, lock.path) == []
    (await DeviceLock.acquire("cpu", tmp_path, wait_s=0)).release()


async def test_a_dying_holder_is_waited_for(tmp_path: Path) -> None:
    with await asyncio.to_thread(holder, tmp_path) as child:
        async with asyncio.timeout(60), asyncio.TaskGroup() as group:
            waiting = group.create_task(DeviceLock.acquire("cpu", tmp_path))
            await asyncio.sleep(0)
            child.kill()
    waiting.result().release()


@pytest.mark.timeout(300)
def test_c4_a_second_engine_is_refused_while_any_of_the_first_ones_tree_lives(tmp_path: Path) -> None:
    async def refused() -> str:
        with pytest.raises(DeviceBusyError) as caught:
            await DeviceLock.acquire("cpu", tmp_path, wait_s=0)
        return str(caught.value)

    with family(tmp_path, grace_s=1000) as people:
        assert f"pid {people.engine.pid} " in asyncio.run(refused())
        send(people.guardian, signal.SIGSTOP)  # it dies too slowly
        people.kill_engine()
        words = asyncio.run(refused())
        assert f"pid {people.guardian.pid} " in words and f"pid {people.child.pid} " in words
        send(people.guardian, signal.SIGCONT)
        assert people.gone()
    assert asyncio.run(DeviceLock.acquire("cpu", tmp_path, wait_s=0))


def test_one_that_waits_is_not_named_as_the_holder(tmp_path: Path) -> None:
    with holder(tmp_path) as child:
        descriptor = os.open(tmp_path / "cpu.lock", os.O_RDWR)
        assert holders(tmp_path / "cpu.lock") == [child.pid]
        assert str(os.getpid()) not in busy("cpu", tmp_path / "cpu.lock")
        os.close(descriptor)
        child.kill()


async def test_a_directory_of_somebody_else_is_refused(tmp_path: Path) -> None:
    open_to_all = tmp_path / "rune"
    open_to_all.mkdir()
    open_to_all.chmod(0o777)
    with pytest.raises(EnvironmentUnfitError, match="yours alone"):
        await DeviceLock.acquire(GPU, tmp_path, environment={"XDG_RUNTIME_DIR": str(tmp_path)})
    open_to_all.rmdir()
    open_to_all.symlink_to(tmp_path)
    with pytest.raises(EnvironmentUnfitError, match="yours alone"):
        await DeviceLock.acquire(GPU, tmp_path, environment={"XDG_RUNTIME_DIR": str(tmp_path)})


async def test_a_link_in_the_locks_place_is_refused(tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("kept")
    (tmp_path / "cpu.lock").symlink_to(tmp_path / "precious")
    with pytest.raises(OSError, match="symbolic"):
        await DeviceLock.acquire("cpu", tmp_path)


async def test_c3_a_cancelled_acquire_holds_nothing(tmp_path: Path) -> None:
    held = await DeviceLock.acquire("cpu", tmp_path)
    for turns in range(1, 20):
        task = asyncio.ensure_future(DeviceLock.acquire("cpu", tmp_path))
        for _ in range(turns):
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    held.release()
    assert is_free(held.path)


async def test_lock_files_are_this_users_alone(tmp_path: Path) -> None:
    lock = await DeviceLock.acquire(GPU, tmp_path, environment={"XDG_RUNTIME_DIR": str(tmp_path)})
    assert (tmp_path / "rune").stat().st_mode & 0o777 == 0o700 and lock.path.stat().st_mode & 0o777 == 0o600
    lock.release()
