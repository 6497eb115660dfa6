"""The seccomp-BPF filter: which system calls the program may not make, as data, and the code that installs it.

Foreign architectures and x32 die. A deny list follows, and calls that need a look at their arguments. Calls that
are newer than this table are refused as unknown, which every libc copes with, so that a new kernel adds no way out.
Numbers are (x86-64, aarch64); None where the architecture has no such call.
"""

from __future__ import annotations

import ctypes
import errno
import struct

ARCHITECTURES = {"x86_64": (0xC000003E, 0), "aarch64": (0xC00000B7, 1)}
"""Machine name -> (AUDIT_ARCH constant, column of the tables)."""
X32_BIT = 0x40000000
FIRST_UNKNOWN = 450
"""set_mempolicy_home_node and everything after it (Linux 5.17 and newer) was never looked at."""

Numbers = tuple[int | None, int | None]

DENIED: dict[str, Numbers] = {
    # sight and control of other processes
    "ptrace": (101, 117),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "process_madvise": (440, 440),
    "process_mrelease": (448, 448),
    "kcmp": (312, 272),
    "pidfd_getfd": (438, 438),
    "migrate_pages": (256, 238),
    "move_pages": (279, 239),
    "ioprio_set": (251, 30),
    "perf_event_open": (298, 241),
    # namespaces and mounts
    "unshare": (272, 97),
    "setns": (308, 268),
    "mount": (165, 40),
    "umount2": (166, 39),
    "pivot_root": (155, 41),
    "chroot": (161, 51),
    "move_mount": (429, 429),
    "open_tree": (428, 428),
    "fsopen": (430, 430),
    "fsconfig": (431, 431),
    "fsmount": (432, 432),
    "fspick": (433, 433),
    "mount_setattr": (442, 442),
    "open_by_handle_at": (304, 265),
    "quotactl": (179, 60),
    "quotactl_fd": (443, 443),
    # large kernel surface that no honest program here needs
    "bpf": (321, 280),
    "userfaultfd": (323, 282),
    "io_uring_setup": (425, 425),
    "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427),
    "keyctl": (250, 219),
    "add_key": (248, 217),
    "request_key": (249, 218),
    "personality": (135, 92),
    "fanotify_init": (300, 262),
    "inotify_init": (253, None),
    "inotify_init1": (294, 26),
    "lookup_dcookie": (212, 18),
    "modify_ldt": (154, None),
    # memory that neither rlimits nor the watchdog sees, and that can outlive the program
    "memfd_create": (319, 279),
    "memfd_secret": (447, 447),
    "shmget": (29, 194),
    "shmat": (30, 196),
    "msgget": (68, 186),
    "semget": (64, 190),
    "mq_open": (240, 180),
    # the network; a connected socketpair remains, without addresses
    "socket": (41, 198),
    "connect": (42, 203),
    "bind": (49, 200),
    "listen": (50, 201),
    "accept": (43, 202),
    "accept4": (288, 242),
    # the machine
    "kexec_load": (246, 104),
    "kexec_file_load": (320, 294),
    "init_module": (175, 105),
    "finit_module": (313, 273),
    "delete_module": (176, 106),
    "swapon": (167, 224),
    "swapoff": (168, 225),
    "reboot": (169, 142),
    "sethostname": (170, 161),
    "setdomainname": (171, 162),
    "acct": (163, 89),
    "syslog": (103, 116),
    "iopl": (172, None),
    "ioperm": (173, None),
    "uselib": (134, None),
    "vhangup": (153, 58),
    "settimeofday": (164, 170),
    "clock_settime": (227, 112),
    "adjtimex": (159, 171),
    "clock_adjtime": (305, 266),
    "nfsservctl": (180, 42),
}

# Landlock does not cover metadata: the owner could change the mode of any file of theirs. A mode or a time that
# does not change is harmless to honest code (shutil.copy), so these succeed without effect.
METADATA_IGNORED: dict[str, Numbers] = {
    "chmod": (90, None),
    "fchmod": (91, 52),
    "fchmodat": (268, 53),
    "utime": (132, None),
    "utimes": (235, None),
    "futimesat": (261, None),
}
UTIMENSAT: Numbers = (280, 88)
"""Ignored like the others, but refused where it asks for "now": `Path.touch` begins with that and would take an
ignored call for a file that is there; refused, it goes on to make the file."""
METADATA_DENIED: dict[str, Numbers] = {
    "chown": (92, None),
    "lchown": (94, None),
    "fchown": (93, 55),
    "fchownat": (260, 54),
    "setxattr": (188, 5),
    "lsetxattr": (189, 6),
    "fsetxattr": (190, 7),
    "removexattr": (197, 14),
    "lremovexattr": (198, 15),
    "fremovexattr": (199, 16),
}
# Without a pid namespace the process group is what gets killed as one, so nobody may leave it.
GROUP: dict[str, Numbers] = {"setsid": (112, 157), "setpgid": (109, 154)}

KILL: dict[str, Numbers] = {"kill": (62, 129), "rt_sigqueueinfo": (129, 138)}
THREAD_KILL: dict[str, Numbers] = {"tgkill": (234, 131), "rt_tgsigqueueinfo": (297, 240)}
KILL_DENIED: dict[str, Numbers] = {"tkill": (200, 130), "pidfd_send_signal": (424, 424)}

# Their first argument names a process; 0 means the caller.
SELF_ONLY: dict[str, Numbers] = {
    "prlimit64": (302, 261),
    "sched_setaffinity": (203, 122),
    "sched_setscheduler": (144, 119),
    "sched_setparam": (142, 118),
    "sched_setattr": (314, 274),
}
SETPRIORITY: Numbers = (141, 140)
CLONE: Numbers = (56, 220)
CLONE3: Numbers = (435, 435)
SOCKETPAIR: Numbers = (53, 199)
SENDTO: Numbers = (44, 206)
IOCTL: Numbers = (16, 29)
FCNTL: Numbers = (72, 25)

NAMESPACE_FLAGS = 0x7E020000
BAD_IOCTLS = (0x5412, 0x541C, 0x5423, 0x8901, 0x8902)
"""TIOCSTI, TIOCLINUX (type into a terminal), TIOCSETD, FIOSETOWN, SIOCSPGRP (send signals by way of a file)."""
BAD_FCNTLS = (8, 10, 15)
"""F_SETOWN, F_SETSIG, F_SETOWN_EX: the kernel would send a signal of choice to a process of choice."""

_ALLOW, _KILL_PROCESS, _ERRNO = 0x7FFF0000, 0x80000000, 0x00050000
_LOAD, _EQUAL, _AT_LEAST, _ANY_BIT, _AND, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x54, 0x06
_NUMBER_OFFSET, _ARCHITECTURE_OFFSET = 0, 4

Instruction = tuple[int, int, int, int]


def build(machine: str, *, pid: int, free_signals: bool, free_groups: bool, free_metadata: bool) -> list[Instruction]:
    """The filter for one process, as BPF instructions (code, jump if true, jump if false, operand).

    Args:
        machine: a key of ARCHITECTURES.
        pid: the program's own, the one that it may signal where signals are not free.
        free_signals: Landlock or a pid namespace already keeps signals inside.
        free_groups: a pid namespace ends the whole tree, so sessions and groups may be changed.
        free_metadata: nothing outside is owned by this user, so modes may be changed.

    Raises:
        KeyError: no table for that machine.
    """
    architecture, column = ARCHITECTURES[machine]
    program = [_load(_ARCHITECTURE_OFFSET), (_EQUAL, 1, 0, architecture), _return(_KILL_PROCESS)]
    program += [_load(_NUMBER_OFFSET)]
    if machine == "x86_64":
        program += [(_AT_LEAST, 0, 1, X32_BIT), _return(_KILL_PROCESS)]
    program += [(_AT_LEAST, 0, 1, FIRST_UNKNOWN), _refuse(errno.ENOSYS)]

    rules = [(numbers, [_refuse(errno.EPERM)]) for numbers in DENIED.values()]
    rules += _argument_rules()
    if not free_groups:
        rules += [(numbers, [_refuse(errno.EPERM)]) for numbers in GROUP.values()]
    if not free_metadata:
        rules += [(numbers, [_refuse(0)]) for numbers in METADATA_IGNORED.values()]
        rules += [(UTIMENSAT, _without_pointer(2, errno.EPERM, otherwise=0))]
        rules += [(numbers, [_refuse(errno.EPERM)]) for numbers in METADATA_DENIED.values()]
    if not free_signals:
        rules += _signal_rules(pid)
    for numbers, body in rules:
        number = numbers[column]
        if number is not None:
            program += [(_EQUAL, 0, len(body), number), *body]
    return [*program, _return(_ALLOW)]


def _argument_rules() -> list[tuple[Numbers, list[Instruction]]]:
    rules = [(numbers, _only(0, (0,))) for numbers in SELF_ONLY.values()]
    rules += [
        (SETPRIORITY, [_argument(0), (_EQUAL, 0, 2, 0), _argument(1), (_EQUAL, 1, 0, 0), *_verdict(denied_first=True)]),
        (CLONE, [_argument(0), (_ANY_BIT, 0, 1, NAMESPACE_FLAGS), *_verdict(denied_first=True)]),
        (CLONE3, [_refuse(errno.ENOSYS)]),  # its flags are in memory, out of sight; libc falls back to clone
        # A datagram socket could send to any path or abstract name, so pairs are streams only.
        (
            SOCKETPAIR,
            [
                *[_argument(0), (_EQUAL, 0, 4, 1), _argument(1), (_AND, 0, 0, 0xF), (_EQUAL, 0, 1, 1)],
                *_verdict(denied_first=False),
            ],
        ),
        (SENDTO, [_argument(4), (_EQUAL, 0, 2, 0), _argument(4, high=True), (_EQUAL, 1, 0, 0), *_verdict(True)]),
        (IOCTL, _never(1, BAD_IOCTLS)),
        (FCNTL, _never(1, BAD_FCNTLS)),
    ]
    return rules


def _signal_rules(pid: int) -> list[tuple[Numbers, list[Instruction]]]:
    own = (pid, 0, (1 << 32) - pid)  # itself, and its group by either name
    rules = [(numbers, _only(0, own)) for numbers in KILL.values()]
    rules += [(numbers, _only(0, (pid,))) for numbers in THREAD_KILL.values()]
    return rules + [(numbers, [_refuse(errno.EPERM)]) for numbers in KILL_DENIED.values()]


def _only(argument: int, values: tuple[int, ...]) -> list[Instruction]:
    checks = [(_EQUAL, len(values) - index, 0, value) for index, value in enumerate(values)]
    return [_argument(argument), *checks, *_verdict(denied_first=True)]


def _never(argument: int, values: tuple[int, ...]) -> list[Instruction]:
    checks = [(_EQUAL, len(values) - index, 0, value) for index, value in enumerate(values)]
    return [_argument(argument), *checks, *_verdict(denied_first=False)]


def _without_pointer(argument: int, number: int, *, otherwise: int) -> list[Instruction]:
    """`number` where that pointer is NULL, else `otherwise`."""
    low, high = _argument(argument), _argument(argument, high=True)
    return [low, (_EQUAL, 0, 2, 0), high, (_EQUAL, 1, 0, 0), _refuse(otherwise), _refuse(number)]


def _verdict(denied_first: bool) -> list[Instruction]:
    answers = [_refuse(errno.EPERM), _return(_ALLOW)]
    return answers if denied_first else answers[::-1]


def _load(offset: int) -> Instruction:
    return (_LOAD, 0, 0, offset)


def _argument(index: int, *, high: bool = False) -> Instruction:
    return _load(16 + 8 * index + (4 if high else 0))  # both architectures are little-endian


def _return(value: int) -> Instruction:
    return (_RETURN, 0, 0, value)


def _refuse(number: int) -> Instruction:
    return _return(_ERRNO | number)


def install(program: list[Instruction]) -> None:
    """Put the filter on this process; no_new_privs must be set. Raises OSError where the kernel refuses."""
    code = b"".join(struct.pack("=HBBI", *instruction) for instruction in program)
    buffer = ctypes.create_string_buffer(code, len(code))
    header = struct.pack("@HP", len(code) // 8, ctypes.addressof(buffer))
    libc = ctypes.CDLL(None, use_errno=True)
    set_seccomp, filter_mode = 22, 2
    if libc.prctl(set_seccomp, ctypes.c_ulong(filter_mode), header, ctypes.c_ulong(0), ctypes.c_ulong(0)) != 0:
        raise OSError(ctypes.get_errno(), "seccomp filter refused")
