"""What `spawn` promises: words, statuses, graces, descriptors; and that nothing is left when it fails."""

from __future__ import annotations

import asyncio
import json
import signal
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
from support.guarded_trees import FAMILY, command

from engine.device import guarded
from engine.device.contracts import ProcessId
from engine.device.guarded import Guarded, explain, spawn
from engine.device.guardian import PR_SET_CHILD_SUBREAPER, prctl
from engine.device.lock import DeviceLock, is_free
from engine.device.processes import (
    TREE_VARIABLE,
    Record,
    become_subreaper,
    boot_id,
    is_alive,
    is_subreaper,
    process_id,
    read_records,
    send,
    survivors,
)
from engine.errors import DeviceBusyError, EnvironmentUnfitError, StartInterruptedError

IGNORES = """
    import signal, time
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    print("ready", flush=True)
    time.sleep(1000)
"""
SAVES = """
    import os, signal, sys, time
    def save(*_):
        os.write(1, b"saved\\n")
        sys.exit(75)
    signal.signal(signal.SIGTERM, save)
    print("ready", flush=True)
    time.sleep(1000)
"""


def children() -> set[int]:
    """Our own children, corpses included; other tests of the run may have left theirs."""
    return {child.pid for child in psutil.Process().children()}


@pytest.fixture
async def lock(tmp_path: Path):
    taken = await DeviceLock.acquire("cpu", tmp_path)
    yield taken
    taken.release()


@pytest.fixture
def subreaper() -> Iterator[None]:
    become_subreaper()
    assert is_subreaper()
    yield
    prctl(PR_SET_CHILD_SUBREAPER, 0)


async def records(run: Path) -> list[Record]:
    return await asyncio.to_thread(read_records, run / "guardians")


async def process_of(pid: str) -> ProcessId:
    found = await asyncio.to_thread(process_id, int(pid))
    assert found
    return found


async def alive(*processes: ProcessId) -> list[ProcessId]:
    return await asyncio.to_thread(lambda: [process for process in processes if is_alive(process)])


async def lines(tree: Guarded) -> list[str]:
    """All of its output, to the end."""
    assert tree.stdout is not None
    return (await tree.stdout.read()).decode().split("\n")[:-1]


async def first(tree: Guarded) -> str:
    assert tree.stdout is not None
    return (await tree.stdout.readline()).decode().strip()


@pytest.mark.parametrize(
    ("program", "code", "number", "reason"),
    [
        ("raise SystemExit(0)", 0, None, "ended with status 0"),
        ("raise SystemExit(70)", 70, None, "ended with status 70"),
        ("import os; os.kill(os.getpid(), 9)", None, signal.SIGKILL, "was ended by SIGKILL"),
        ("import os; os.abort()", None, signal.SIGABRT, "was ended by SIGABRT"),
    ],
)
async def test_g5_the_exit_status_is_relayed(tmp_path: Path, lock: DeviceLock, program, code, number, reason) -> None:
    tree = await spawn(command(tmp_path, lock, program))
    ended = await tree.wait()
    assert (ended.code, ended.signal, ended.reason) == (code, number, reason)
    assert tree.ended and await tree.wait() == ended == await tree.stop(0)
    assert await records(tmp_path) == []


async def test_a_real_time_signal_has_words_too() -> None:
    assert explain(-1, 63).reason == "was ended by signal 63" and explain(-1, 63).signal is None


async def test_the_record_names_the_child_before_its_first_instruction(tmp_path: Path, lock: DeviceLock) -> None:
    program = f"print(open({str(tmp_path / 'guardians' / 'server.json')!r}).read(), end='', flush=True)"
    tree = await spawn(command(tmp_path, lock, program))
    record = json.loads((await lines(tree))[0])
    await tree.wait()
    assert record["child"] == tree.child_pid and record["pid"] == tree.process.pid
    assert (record["role"], record["epoch"], record["boot_id"]) == ("server", 1, await asyncio.to_thread(boot_id))


async def test_the_child_sees_its_environment_and_four_descriptors(tmp_path: Path, lock: DeviceLock) -> None:
    program = """
        import os, signal
        print(sorted(os.environ))
        print(sorted(int(fd) for fd in os.listdir("/proc/self/fd") if os.path.exists(f"/proc/self/fd/{fd}")))
        print(os.getsid(0) == os.getpid(), signal.getsignal(signal.SIGTERM) == signal.SIG_DFL)
        print(open("/proc/self/status").read().partition("SigIgn:")[2].split()[0])
    """
    tree = await spawn(command(tmp_path, lock, program))
    environment, descriptors, own, ignored = await lines(tree)
    await tree.wait()
    assert "LC_CTYPE" in environment or environment == str(sorted(["MARK", "PATH", TREE_VARIABLE]))
    assert descriptors == "[0, 1, 2, 4]", "input, output, log, and the lock"
    assert own == "True True"
    ours = 1 << (signal.SIGPIPE - 1) | 1 << (signal.SIGXFSZ - 1)
    inherited = int(Path("/proc/self/status").read_text().partition("SigIgn:")[2].split()[0], 16)
    assert (int(ignored, 16) & ~inherited | ours) & 0x7FFFFFFF == ours, "what we ignore, and what its own Python does"


async def test_a_child_gets_its_grace_to_save(tmp_path: Path, lock: DeviceLock) -> None:
    tree = await spawn(command(tmp_path, lock, SAVES))
    assert await first(tree) == "ready"
    ended, said = await asyncio.gather(tree.stop(30), lines(tree))
    assert (ended.code, said) == (75, ["saved"])


async def test_g3_what_ignores_term_is_killed_after_the_grace(tmp_path: Path, lock: DeviceLock) -> None:
    tree = await spawn(command(tmp_path, lock, IGNORES))
    await first(tree)
    async with asyncio.timeout(20):
        assert (await tree.stop(0.2)).signal is signal.SIGKILL


async def test_g4_a_shorter_grace_overtakes_and_all_who_wait_are_answered(tmp_path: Path, lock: DeviceLock) -> None:
    tree = await spawn(command(tmp_path, lock, IGNORES))
    await first(tree)
    async with asyncio.timeout(60), asyncio.TaskGroup() as group:
        patient = [group.create_task(tree.stop(1000)) for _ in range(3)]
        hurried = group.create_task(tree.stop(0))
    assert {task.result() for task in patient} == {hurried.result()}


async def test_a_cancelled_stop_still_stops(tmp_path: Path, lock: DeviceLock) -> None:
    tree = await spawn(command(tmp_path, lock, IGNORES))
    await first(tree)
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(tree.stop(0.3), 0.01)
    async with asyncio.timeout(60):
        await tree.wait()


async def test_helpers_end_with_the_child_and_the_output_ends_with_them(tmp_path: Path, lock: DeviceLock) -> None:
    """A child that exits leaves no daemon: the guardian goes only when all have gone."""
    program = "import os, time\nif os.fork() == 0:\n    os.setsid()\n    time.sleep(1000)\nprint('parent', flush=True)"
    tree = await spawn(command(tmp_path, lock, program))
    assert await lines(tree) == ["parent"]
    assert (await tree.wait()).code == 0
    assert await alive(tree.process) == []


async def test_guardian_sigkill_the_engine_adopts_ends_and_reaps(
    tmp_path: Path, lock: DeviceLock, subreaper: None
) -> None:
    before = await asyncio.to_thread(children)
    tree = await spawn(command(tmp_path, lock, FAMILY))
    processes = [await process_of(word) for word in (await first(tree)).split()]
    await asyncio.to_thread(send, tree.process, signal.SIGKILL)
    ended = await tree.wait()
    assert ended.reason == "lost its guardian and was ended"
    assert await alive(*processes) == []
    assert await asyncio.to_thread(children) <= before, "not even corpses are left"


async def test_guardian_sigkill_without_adoption_ends_them_too(tmp_path: Path, lock: DeviceLock) -> None:
    tree = await spawn(command(tmp_path, lock, FAMILY))
    processes = [await process_of(word) for word in (await first(tree)).split()]
    await asyncio.to_thread(send, tree.process, signal.SIGKILL)
    await tree.wait()
    assert await alive(*processes) == []


async def test_control_a_guardian_killed_at_once_leaves_orphans_until_wait_ends_them(
    tmp_path: Path, lock: DeviceLock
) -> None:
    """Negative control: it is `wait` that ends them, and nothing else."""
    tree = await spawn(command(tmp_path, lock, FAMILY))
    daemon = await process_of((await first(tree)).split()[1])
    await asyncio.to_thread(send, tree.process, signal.SIGKILL)
    while not tree.ended:
        await asyncio.sleep(0)
    [record] = await records(tmp_path)
    assert daemon in await asyncio.to_thread(lambda: survivors(record, boot_id()))
    with pytest.raises(DeviceBusyError, match=f"{daemon.pid}"):
        await spawn(command(tmp_path, lock, FAMILY))
    await tree.wait()
    assert await alive(daemon) == []


async def test_a_guardian_that_hangs_itself_does_not_keep_stop_from_returning(
    tmp_path: Path, lock: DeviceLock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(guarded, "LAST_RESORT_S", 0.2)
    tree = await spawn(command(tmp_path, lock, FAMILY))
    processes = [await process_of(word) for word in (await first(tree)).split()]
    await asyncio.to_thread(send, tree.process, signal.SIGSTOP)
    async with asyncio.timeout(60):
        assert "lost its guardian" in (await tree.stop(0)).reason
    assert await alive(tree.process, *processes) == []


@pytest.mark.parametrize("argv", [("/nowhere/program",), ("/dev/null",)])
async def test_what_cannot_be_started_is_one_sentence_and_leaves_nothing(
    tmp_path: Path, lock: DeviceLock, argv: tuple[str, ...]
) -> None:
    before = await asyncio.to_thread(children)
    with pytest.raises(EnvironmentUnfitError, match=f"{argv[0]} could not be started: .*(No such|Permission)"):
        await spawn(replace(command(tmp_path, lock, ""), argv=argv))
    assert await records(tmp_path) == []
    assert await asyncio.to_thread(children) <= before


async def test_a_guardian_killed_before_its_first_word_is_no_fault_of_the_program(
    tmp_path: Path, lock: DeviceLock
) -> None:
    """Found by 200 rounds of `kill -9`: the job failed, where it was only to be tried again."""
    before = await asyncio.to_thread(children)
    task = asyncio.ensure_future(spawn(command(tmp_path, lock, IGNORES, role="trainer")))
    while not (started := children() - before):  # in this thread: its interpreter takes longer to start than a look
        await asyncio.sleep(0)
    for pid in started:
        psutil.Process(pid).kill()
    with pytest.raises(StartInterruptedError, match="lost its guardian"):
        await task
    assert await asyncio.to_thread(children) <= before


async def test_a_record_that_cannot_be_written_starts_nothing(tmp_path: Path, lock: DeviceLock) -> None:
    (tmp_path / "guardians").mkdir()
    (tmp_path / "guardians" / "server.json").mkdir()
    with pytest.raises(EnvironmentUnfitError, match="could not be started: IsADirectoryError"):
        await spawn(command(tmp_path, lock, "print('ran')"))


async def test_c3_a_spawn_cancelled_anywhere_leaves_nothing(tmp_path: Path) -> None:
    for turns in range(40):
        lock = await DeviceLock.acquire("cpu", tmp_path)
        task = asyncio.ensure_future(spawn(command(tmp_path, lock, IGNORES, role="trainer")))
        for _ in range(turns):
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        lock.release()
        assert is_free(tmp_path / "cpu.lock"), turns
        assert await records(tmp_path) == []


async def test_a_worker_thread_may_not_spawn(tmp_path: Path, lock: DeviceLock) -> None:
    """The parent-death signal would fire when that thread ends."""
    caught: list[BaseException] = []

    def run() -> None:
        try:
            asyncio.run(spawn(command(tmp_path, lock, IGNORES)))
        except RuntimeError as error:
            caught.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert "main thread" in str(caught[0])


async def test_g7_a_flood_on_the_log_is_set_aside_at_the_next_start(tmp_path: Path, lock: DeviceLock) -> None:
    (tmp_path / "log").write_bytes(b"x" * (11 << 20))
    tree = await spawn(replace(command(tmp_path, lock, "print('new')"), pipe_stdout=False))
    await tree.wait()
    assert (tmp_path / "log").read_text() == "new\n" and (tmp_path / "log.1").stat().st_size == 11 << 20
