"""A20, A21, A23: what a run reports: output, exit code, time-out, limits, channels."""

from __future__ import annotations

import asyncio
import os
import resource
import socket
from dataclasses import replace
from pathlib import Path

import pytest

from engine.config import load_config
from engine.errors import InputError, SandboxUnavailableError
from engine.sandbox.probe import SandboxReport, probe
from engine.sandbox.run import Sandbox, exit_code
from engine.sandbox.types import Level, Program

SETTINGS = load_config(
    overrides=["sandbox.min_level=none", "sandbox.timeout_s=20", "sandbox.output_bytes=10000"]
).sandbox


@pytest.fixture(scope="module")
def real() -> SandboxReport:
    return probe(SETTINGS)


@pytest.fixture(params=list(Level))
def sandbox(request: pytest.FixtureRequest, real: SandboxReport, tmp_path: Path) -> Sandbox:
    if request.param is Level.STRICT and real.level is not Level.STRICT:
        pytest.skip(real.reason)
    return Sandbox(SETTINGS, replace(real, level=request.param), tmp_path / "scratch")


def script(code: str, **rest: object) -> Program:
    return Program(files={"main.py": code}, argv=("main.py",), **rest)  # type: ignore[arg-type]  # fields by name


async def test_a20_output_exit_code_and_level_are_reported(sandbox: Sandbox) -> None:
    result = await sandbox.run(script("import sys\nprint('out')\nprint('err', file=sys.stderr)\nsys.exit(3)"))
    assert (result.stdout, result.stderr, result.exit_code) == ("out\n", "err\n", 3)
    assert (result.timed_out, result.truncated, result.killed) == (False, False, "")
    assert result.level is sandbox.level
    assert 0 < result.duration_s < 20


async def test_a20_a_timeout_is_a_state_of_its_own_and_keeps_partial_output(sandbox: Sandbox) -> None:
    """A21 too: what was printed before the kill is there although nobody flushed."""
    limits = replace(sandbox.limits, timeout_s=1.5)
    result = await sandbox.run(script("print('partial')\nwhile True: pass", limits=limits))
    assert result.timed_out
    assert (result.killed, result.stdout) == ("timeout", "partial\n")
    assert result.exit_code != 0


async def test_a20_an_exit_in_time_is_not_a_timeout(sandbox: Sandbox) -> None:
    result = await sandbox.run(script("import sys; sys.exit(1)"))
    assert (result.timed_out, result.exit_code) == (False, 1)


async def test_a20_death_by_a_signal_is_negative(sandbox: Sandbox) -> None:
    assert (await sandbox.run(script("import os; os.kill(os.getpid(), 11)"))).exit_code == -11


async def test_an_exit_of_97_is_the_programs_own(sandbox: Sandbox) -> None:
    """Stage 2 refuses with 97 too; only the control socket tells which it was, and the program cannot reach that."""
    assert (await sandbox.run(script("import sys; sys.exit(97)"))).exit_code == 97


async def test_a23_long_output_keeps_both_ends_around_a_marker(sandbox: Sandbox) -> None:
    result = await sandbox.run(script("print('first')\nprint('x' * 100000)\nprint('last')"))
    assert result.truncated
    assert result.stdout.startswith("first\n")
    assert result.stdout.endswith("last\n")
    assert "\n[output truncated: 90012 bytes left out]\n" in result.stdout
    assert len(result.stdout) < SETTINGS.output_bytes + 100


async def test_a23_output_of_exactly_the_limit_is_whole(sandbox: Sandbox) -> None:
    result = await sandbox.run(script("import os; os.write(1, b'y' * 10000)"))
    assert (result.stdout, result.truncated) == ("y" * 10000, False)


async def test_a23_binary_output_is_safe(sandbox: Sandbox) -> None:
    result = await sandbox.run(script("import os; os.write(1, bytes(range(256)))"))
    assert result.exit_code == 0
    assert "\ufffd" in result.stdout
    assert result.stdout.startswith("\0\1\2")


async def test_g7_a_flood_does_not_grow_this_process(sandbox: Sandbox) -> None:
    """G7 at 300 MB: it is drained, not stored."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    result = await sandbox.run(script("import os\nfor _ in range(4800): os.write(1, b'x' * 65536)\nprint('end')"))
    assert result.exit_code == 0
    assert result.stdout.endswith("end\n")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000


async def test_standard_input_arrives_and_cannot_be_rewritten(sandbox: Sandbox) -> None:
    code = "import os, sys\ndata = sys.stdin.buffer.read()\ntry: os.write(0, b'x')\nexcept OSError: print(len(data))"
    assert (await sandbox.run(script(code, stdin=b"z" * 300_000))).stdout == "300000\n"


async def test_the_environment_is_exactly_ours(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    """A22: no secret of the parent's, and nothing that steers Python."""
    monkeypatch.setenv("HF_TOKEN", "secret")
    monkeypatch.setenv("PYTHONPATH", "/tmp")
    monkeypatch.setenv("LD_PRELOAD", "")
    result = await sandbox.run(script("import os\nprint(*sorted(os.environ))"))
    assert result.stdout == (
        "HOME LANG MALLOC_ARENA_MAX OMP_NUM_THREADS OPENBLAS_NUM_THREADS PATH PYTHONDONTWRITEBYTECODE "
        "PYTHONHASHSEED PYTHONUNBUFFERED TMPDIR TZ\n"
    )


async def test_files_arrive_in_a_fresh_work_directory(sandbox: Sandbox) -> None:
    code = (
        "import os\nprint(sorted(os.listdir()), open('a/b.txt').read(), os.getcwd() == os.environ['HOME'])\n"
        "open('left', 'w')"
    )
    program = Program(files={"main.py": code, "a/b.txt": "nested ü"}, argv=("main.py",))
    first, second = await sandbox.run(program), await sandbox.run(program)
    assert first.stdout == second.stdout == "['a', 'main.py'] nested ü True\n"


async def test_source_that_is_not_unicode_fails_as_a_program_not_as_a_sandbox(sandbox: Sandbox) -> None:
    assert (await sandbox.run(script("print('\ud800')"))).exit_code == 1


@pytest.mark.parametrize("path", ["../x.py", "/etc/x", "a/../../x", "", ".", "a\0b"])
async def test_a_file_that_leads_outside_is_refused(path: str, sandbox: Sandbox) -> None:
    with pytest.raises(InputError):
        await sandbox.run(Program(files={path: ""}, argv=("main.py",)))


async def test_files_that_do_not_fit_are_refused_before_anything_runs(sandbox: Sandbox) -> None:
    limits = replace(sandbox.limits, file_mb=1)
    with pytest.raises(InputError, match="file_mb"):
        await sandbox.run(script("#" * (1 << 21), limits=limits))


async def test_a_channel_keeps_its_number_and_works_both_ways(sandbox: Sandbox) -> None:
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    code = f"import socket\nc = socket.socket(fileno={theirs.fileno()})\nc.sendall(c.recv(9).upper())\n"
    loop = asyncio.get_running_loop()
    with ours, theirs:
        async with sandbox.start(script(code, channel_fds=(theirs.fileno(),))) as running:
            theirs.close()
            await loop.sock_sendall(ours, b"ping")
            assert await loop.sock_recv(ours, 9) == b"PING"
            assert (await running.wait()).exit_code == 0
            assert await loop.sock_recv(ours, 9) == b"", "nothing inside holds the channel any more"


async def test_touch_makes_the_file_and_copies_keep_working(sandbox: Sandbox) -> None:
    """Modes and times cannot be set at landlock; what asks for them must neither fail nor believe in a file."""
    code = "import os, pathlib, shutil\npathlib.Path('a').touch()\nshutil.copy2('a', 'b')\n"
    code += "print([os.path.exists(name) for name in 'ab'])"
    result = await sandbox.run(script(code))
    assert result.stdout == "[True, True]\n", result.stderr


async def test_without_channels_no_descriptor_is_open(sandbox: Sandbox) -> None:
    """S2: an empty list means nothing."""
    leak, _ = os.pipe()
    os.set_inheritable(leak, True)
    code = (
        "import os\nfound = []\nfor n in range(1000):\n    try: os.fstat(n); found.append(n)\n"
        "    except OSError: pass\nprint(found)"
    )
    assert (await sandbox.run(script(code))).stdout == "[0, 1, 2]\n"


async def test_only_pipes_and_stream_sockets_may_be_channels(sandbox: Sandbox, tmp_path: Path) -> None:
    """A directory's descriptor would be a door out; a datagram socket could address anybody."""
    directory = os.open(tmp_path, os.O_RDONLY)
    datagram, other = socket.socketpair(type=socket.SOCK_DGRAM)
    with datagram, other:
        for descriptor in (directory, datagram.fileno(), 1):
            with pytest.raises(InputError, match="neither a pipe nor a stream socket"):
                await sandbox.run(script("", channel_fds=(descriptor,)))


async def test_kill_ends_it_and_says_so(sandbox: Sandbox) -> None:
    async with sandbox.start(script("import time; time.sleep(600)")) as running:
        running.kill()
        result = await running.wait()
        assert await running.wait() is result
    assert (result.killed, result.timed_out) == ("stopped", False)
    assert result.exit_code != 0


async def test_leaving_the_block_early_ends_the_program(sandbox: Sandbox, tmp_path: Path) -> None:
    read, write = os.pipe()
    with pytest.raises(LookupError):  # the caller's own error, not a group around it
        async with sandbox.start(script("import time; time.sleep(600)", channel_fds=(write,))):
            raise LookupError
    os.close(write)
    assert await asyncio.to_thread(os.read, read, 1) == b""
    assert not await asyncio.to_thread(lambda: list((tmp_path / "scratch").glob("*")))


async def test_several_run_at_once_without_seeing_each_other(sandbox: Sandbox) -> None:
    code = (
        "import os, sys, time\nopen('mine', 'w').write(sys.argv[1])\ntime.sleep(0.2)\n"
        "print(open('mine').read(), len(os.listdir('..')))"
    )
    programs = [Program(files={"main.py": code}, argv=("main.py", str(i))) for i in range(5)]
    results = await asyncio.gather(*(sandbox.run(program) for program in programs))
    assert [result.stdout for result in results] == [f"{i} 1\n" for i in range(5)]


async def test_readonly_paths_can_be_read_and_not_written(sandbox: Sandbox, tmp_path: Path) -> None:
    library = tmp_path / "library"
    library.mkdir()
    (library / "lib.py").write_text("value = 'read'")
    new = str(library / "new")
    code = f"import sys\nsys.path.append({str(library)!r})\nimport lib\nprint(lib.value)\nopen({new!r}, 'w')"
    result = await sandbox.run(script(code, readonly_paths=(str(library),)))
    assert result.stdout == "read\n"
    assert (result.exit_code == 1) is (sandbox.level is not Level.NONE)


async def test_processor_time_of_several_threads_counts(sandbox: Sandbox) -> None:
    """A22: RLIMIT_CPU counts the process; its signal is reported as the time-out that it is."""
    code = "import resource, signal\nprint(resource.getrlimit(resource.RLIMIT_CPU))"
    limits = replace(sandbox.limits, timeout_s=2.5)
    assert (await sandbox.run(script(code, limits=limits))).stdout == "(3, 4)\n"
    result = await sandbox.run(script("import os; os.kill(os.getpid(), 24)"))
    assert (result.timed_out, result.killed, result.exit_code) == (True, "timeout", -24)


async def test_a_scratch_directory_of_somebody_elses_is_refused(real: SandboxReport, tmp_path: Path) -> None:
    shared = tmp_path / "shared"
    shared.mkdir(mode=0o700)
    shared.chmod(0o777)
    with pytest.raises(SandboxUnavailableError, match="not a private directory"):
        await Sandbox(SETTINGS, replace(real, level=Level.NONE), shared).run(script(""))


def test_exit_codes_are_read_the_way_shells_write_them() -> None:
    codes = {0: 0, 1: 1, 97: 97, 128: 128, 137: -9, 139: -11, 255: 255, -9: -9, None: -9}
    assert {code: exit_code(code) for code in codes} == codes
