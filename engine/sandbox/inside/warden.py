"""The warden: where there is no pid namespace, a trusted parent that outlives the program and ends all it started."""

from __future__ import annotations

import os
import select

from kernel import close_all_but, prctl

TYPE_CHECKING = False  # importing typing would take longer than all the rest
if TYPE_CHECKING:
    from collections.abc import Callable

FAILED = 97
SIGKILL = 9
PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36


def supervise(control: int) -> None:
    """Fork: the child returns and becomes the program; the parent outlives it to end everything that it started.

    The parent ends the tree when the program ends, and when the engine's end of `control` closes: also a SIGKILL of
    the engine does that.
    """
    prctl(PR_SET_CHILD_SUBREAPER, 1)
    warden = os.getpid()
    child = os.fork()
    if child == 0:
        os.setpgid(0, 0)
        prctl(PR_SET_PDEATHSIG, SIGKILL)
        if os.getppid() != warden:
            os._exit(FAILED)
        return
    watched = os.pidfd_open(child)
    close_all_but({control, watched})
    poll = select.poll()
    poll.register(watched, select.POLLIN)
    poll.register(control, select.POLLRDHUP | select.POLLHUP)
    poll.poll()
    signal_quietly(os.killpg, child)  # atomic: a fork cannot slip out of its group between two kills
    status = reap_everything(child)
    code = os.waitstatus_to_exitcode(status)
    os._exit(code if code >= 0 else 128 - code)


def reap_everything(child: int) -> int:
    """Kill and reap until no descendant is left; orphans come here because of the subreaper flag."""
    status = 0
    while True:
        for pid in children():
            signal_quietly(os.kill, pid)
        try:
            pid, ended = os.waitpid(-1, 0)
        except ChildProcessError:
            return status
        if pid == child:
            status = ended


def children() -> list[int]:
    """This process's children, from its own /proc entry, or from everybody's where the kernel lacks that file."""
    try:
        with open(f"/proc/self/task/{os.getpid()}/children") as stream:
            return [int(pid) for pid in stream.read().split()]
    except FileNotFoundError:
        pass
    found: list[int] = []
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{name}/stat") as stream:
                parent = stream.read().rpartition(")")[2].split()[1]
        except OSError:
            continue
        if int(parent) == os.getpid():
            found.append(int(name))
    return found


def signal_quietly(send: Callable[[int, int], None], target: int) -> None:
    try:
        send(target, SIGKILL)
    except (ProcessLookupError, PermissionError):
        return  # gone already, or a zombie of it
