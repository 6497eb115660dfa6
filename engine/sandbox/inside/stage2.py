"""Stage 2: the last trusted code before the program. Confines itself, proves it by trying, then becomes the program.

Run as `python -I -S -c START DIRECTORY PLAN_FD CONTROL_FD` (`launch.START`), from inside bubblewrap at level strict
and directly otherwise.

    read plan -> (no namespaces: fork; the parent stays as warden) -> rlimits, no privileges, closed descriptors
              -> Landlock -> seccomp -> write the files -> verify by trying -> tell the engine "ready" -> exec

Whatever fails on the way ends in exit 97 and a reason on the control socket; the program does not start then.
Not a `preexec_fn`: those are not safe in a process with threads, and the engine has threads.
"""

from __future__ import annotations

import ctypes
import marshal
import os
import resource
import sys

import landlock
import seccomp
from kernel import call, close_all_but, libc, prctl, unsigned
from warden import FAILED, supervise

TYPE_CHECKING = False  # importing typing, signal or json would double the time that all this takes
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, NoReturn

    Plan = dict[str, Any]

HIGHEST_FD = 1024
"""Descriptors are proven closed up to here; close_range closed them all."""
PR_CAPBSET_DROP, PR_SET_SECUREBITS, PR_SET_NO_NEW_PRIVS = 24, 28, 38
PR_GET_NO_NEW_PRIVS, PR_GET_SECCOMP = 39, 21
PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL = 47, 4
NO_ROOT_LOCKED = 0b11  # uid 0 gains nothing at exec, for good
CAPABILITY_HEADER = (0x20080522).to_bytes(4, "little") + bytes(4)
NEW_USER_NAMESPACE, AF_UNIX, AF_INET, SOCK_STREAM = 0x10000000, 1, 2, 1


class NotConfinedError(Exception):
    """Something worked that must not."""


def main() -> NoReturn:
    """Confine, verify, exec. Never returns."""
    plan_fd, control = int(sys.argv[2]), int(sys.argv[3])
    try:
        # The plan comes from the engine alone, through a sealed descriptor; marshal starts 10 ms faster than json.
        with open(plan_fd, "rb") as stream:
            plan: Plan = marshal.load(stream)
        if plan["supervise"]:
            supervise(control)
        os.set_inheritable(control, False)
        if plan["namespaces"]:
            check_namespaces(plan["namespaces"])
        confine(plan, control)
        write_files(plan)
        verify(plan, control)
        os.write(control, b"ready\n")
        os.execve(plan["command"][0], plan["command"], plan["environment"])
    except BaseException as error:
        os.write(control, f"{type(error).__name__}: {error}\n".encode(errors="replace"))
        os._exit(FAILED)


def check_namespaces(outside: dict[str, str]) -> None:
    """Each namespace must differ from the engine's: bubblewrap really made it."""
    for name, identity in outside.items():
        if os.readlink(f"/proc/self/ns/{name}") == identity:
            raise NotConfinedError(f"the {name} namespace is the engine's own")


def confine(plan: Plan, control: int) -> None:
    for name, (soft, hard) in plan["limits"].items():
        resource.setrlimit(getattr(resource, name), (soft, hard))
    drop_capabilities()
    prctl(PR_SET_NO_NEW_PRIVS, 1)
    close_all_but({0, 1, 2, control, *plan["keep"]})
    if not plan["confine"]:
        return
    landlock.restrict(plan["rules"], plan["landlock_abi"])
    program = seccomp.build(
        os.uname().machine,
        pid=os.getpid(),
        free_signals=plan["free_signals"],
        free_groups=plan["free_groups"],
        free_metadata=plan["free_metadata"],
    )
    seccomp.install(program)


def drop_capabilities() -> None:
    """Matters when the engine runs as root; an ordinary user has none and may not drop the bounding set."""
    libc.prctl(PR_CAP_AMBIENT, *unsigned(PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0))
    for capability in range(64):
        if libc.prctl(PR_CAPBSET_DROP, *unsigned(capability, 0, 0, 0)) != 0:
            break
    libc.prctl(PR_SET_SECUREBITS, *unsigned(NO_ROOT_LOCKED, 0, 0, 0))
    if libc.capset(CAPABILITY_HEADER, bytes(24)) != 0:
        raise OSError(ctypes.get_errno(), "capabilities are not dropped")


def write_files(plan: Plan) -> None:
    """After Landlock, so that a path that leads out of the work directory fails here too."""
    os.umask(0o077)
    os.makedirs(plan["work"], exist_ok=True)
    os.chdir(plan["work"])
    for path, content in plan["files"].items():
        os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
        with open(path, "xb") as stream:
            stream.write(content)


def verify(plan: Plan, control: int) -> None:
    """Try what is forbidden. Anything that works raises NotConfinedError."""
    for name, (soft, hard) in plan["limits"].items():
        if resource.getrlimit(getattr(resource, name)) != (soft, hard):
            raise NotConfinedError(f"{name} is not {soft}")
    if libc.prctl(PR_GET_NO_NEW_PRIVS, *unsigned(0, 0, 0, 0)) != 1:
        raise NotConfinedError("setuid programs still gain privileges")
    for descriptor in set(range(3, HIGHEST_FD)) - {control, *plan["keep"]}:
        must_fail(f"descriptor {descriptor}", lambda fd=descriptor: os.fstat(fd))
    if not plan["confine"]:
        return
    data = ctypes.create_string_buffer(24)
    if libc.capget(CAPABILITY_HEADER, data) != 0 or any(data.raw):
        raise NotConfinedError("capabilities are left")
    if libc.prctl(PR_GET_SECCOMP, *unsigned(0, 0, 0, 0)) != 2:
        raise NotConfinedError("no seccomp filter")
    here = os.path.abspath(__file__)
    must_fail("reading outside", lambda: os.open(here, os.O_RDONLY))
    must_fail("listing outside", lambda: os.listdir("/"))
    must_fail("reading /proc", lambda: os.open("/proc/self/environ", os.O_RDONLY))
    must_fail("writing outside", lambda: os.open(os.path.dirname(here) + "/written", os.O_WRONLY | os.O_CREAT))
    must_fail("writing the interpreter's directory", lambda: os.mkdir(sys.base_prefix + "/written"))
    must_fail("a TCP socket", lambda: call(libc.socket, AF_INET, SOCK_STREAM, 0))
    must_fail("a Unix socket", lambda: call(libc.socket, AF_UNIX, SOCK_STREAM, 0))
    must_fail("a user namespace", lambda: call(libc.unshare, NEW_USER_NAMESPACE))
    must_fail("ptrace", lambda: call(libc.ptrace, 0, 0, 0, 0))
    must_fail("another process's limits", lambda: resource.prlimit(os.getppid(), resource.RLIMIT_CORE))
    if plan["supervise"]:
        must_fail("a signal to outside", lambda: os.kill(os.getppid(), 0))
        must_fail("leaving the process group", lambda: os.setpgid(0, os.getppid()))


def must_fail(what: str, attempt: Callable[[], object]) -> None:
    try:
        attempt()
    except (OSError, ValueError):
        return
    raise NotConfinedError(f"{what}: was possible")
