"""Landlock through ctypes: the process gives up every file, TCP and signal right that it was not granted.

Needs no privilege, cannot be undone, and is inherited. Every right that the running ABI knows is handled, so what
no rule grants is refused. Struct layouts and bit numbers are the kernel's uapi/linux/landlock.h.
"""

from __future__ import annotations

import ctypes
import os
import struct

CREATE_RULESET, ADD_RULE, RESTRICT_SELF = 444, 445, 446  # the same on every architecture
VERSION_FLAG = 1
RULE_PATH_BENEATH = 1

EXECUTE, WRITE_FILE, READ_FILE, READ_DIR = 1 << 0, 1 << 1, 1 << 2, 1 << 3
REMOVE_DIR, REMOVE_FILE = 1 << 4, 1 << 5
MAKE_DIR, MAKE_REG, MAKE_SYM = 1 << 7, 1 << 8, 1 << 12
REFER, TRUNCATE, IOCTL_DEV = 1 << 13, 1 << 14, 1 << 15

# No devices, sockets, named pipes: MAKE_CHAR (6), MAKE_SOCK (9), MAKE_FIFO (10), MAKE_BLOCK (11) are never granted.
GRANTS = {
    "execute": EXECUTE | READ_FILE | READ_DIR,
    "read": READ_FILE | READ_DIR,
    "write": READ_FILE
    | READ_DIR
    | WRITE_FILE
    | REMOVE_DIR
    | REMOVE_FILE
    | MAKE_DIR
    | MAKE_REG
    | MAKE_SYM
    | REFER
    | TRUNCATE,
    "device": READ_FILE | WRITE_FILE,
}
FILE_RIGHTS = EXECUTE | READ_FILE | WRITE_FILE | TRUNCATE | IOCTL_DEV
"""The only rights that the kernel accepts for a rule on something that is not a directory."""

_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long


def abi() -> int:
    """The running kernel's Landlock ABI; 0 where there is none."""
    version = _libc.syscall(ctypes.c_long(CREATE_RULESET), None, ctypes.c_size_t(0), ctypes.c_uint32(VERSION_FLAG))
    return max(version, 0)


def handled(version: int) -> tuple[int, int, int]:
    """Every file, network and scope right that this ABI knows."""
    files = (1 << 13) - 1
    files |= REFER if version >= 2 else 0
    files |= TRUNCATE if version >= 3 else 0
    files |= IOCTL_DEV if version >= 5 else 0
    network = 0b11 if version >= 4 else 0  # bind and connect TCP, and no rule: all TCP is refused
    scopes = 0b11 if version >= 6 else 0  # abstract sockets and signals of outsiders
    return files, network, scopes


def ruleset_attributes(version: int) -> bytes:
    """struct landlock_ruleset_attr, as long as that ABI expects it."""
    size = 1 if version < 4 else 2 if version < 6 else 3
    return struct.pack(f"={size}Q", *handled(version)[:size])


def restrict(rules: list[tuple[str, str]], version: int) -> None:
    """Confine this process for good.

    Args:
        rules: (path, one of GRANTS); a path that does not exist is skipped, since it grants nothing.
        version: the ABI to use, at most that of the kernel.

    Raises:
        OSError: the kernel refused; nothing may run then.
    """
    attributes = ruleset_attributes(version)
    ruleset = _call(CREATE_RULESET, attributes, ctypes.c_size_t(len(attributes)), ctypes.c_uint32(0))
    files = handled(version)[0]
    for path, grant in rules:
        try:
            parent = os.open(path, os.O_PATH | os.O_CLOEXEC)
        except FileNotFoundError:
            continue
        allowed = GRANTS[grant] & files
        if not os.path.isdir(path):
            allowed &= FILE_RIGHTS
        rule = struct.pack("=Qi", allowed, parent)
        _call(ADD_RULE, ctypes.c_int(ruleset), ctypes.c_int(RULE_PATH_BENEATH), rule, ctypes.c_uint32(0))
        os.close(parent)
    _call(RESTRICT_SELF, ctypes.c_int(ruleset), ctypes.c_uint32(0))
    os.close(ruleset)


def _call(number: int, *arguments: object) -> int:
    result = _libc.syscall(ctypes.c_long(number), *arguments)
    if result < 0:
        error = ctypes.get_errno()
        raise OSError(error, f"Landlock call {number}: {os.strerror(error)}")
    return result
