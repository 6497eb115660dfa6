"""The few kernel calls that Python does not wrap, for stage 2 and the warden."""

from __future__ import annotations

import ctypes
import os

TYPE_CHECKING = False  # importing typing would take longer than all the rest
if TYPE_CHECKING:
    from collections.abc import Callable

libc = ctypes.CDLL(None, use_errno=True)


def close_all_but(kept: set[int]) -> None:
    start = 0
    for descriptor in [*sorted(kept), 1 << 20]:
        if start < descriptor:  # an empty range at 0 closes everything: CPython passes -1 to the kernel
            os.closerange(start, descriptor)
        start = descriptor + 1


def call(function: Callable[..., int], *arguments: int) -> int:
    result = function(*unsigned(*arguments))
    if result < 0:
        raise OSError(ctypes.get_errno(), "refused")
    return result


def prctl(option: int, value: int) -> None:
    call(libc.prctl, option, value, 0, 0, 0)


def unsigned(*values: int) -> list[ctypes.c_ulong]:
    return [ctypes.c_ulong(value) for value in values]
