"""Steps on lists of whole numbers. Each gives a new list; a number, where one is taken, comes first."""

from __future__ import annotations

__all__ = ["flim", "gyre", "lone", "nab", "shed", "sift", "swell", "tumble"]


def flim(xs: list[int]) -> list[int]:
    """Reverse the order."""
    return xs[::-1]


def nab(n: int, xs: list[int]) -> list[int]:
    """Take the first n."""
    return xs[:n]


def shed(n: int, xs: list[int]) -> list[int]:
    """Drop the first n."""
    return xs[n:]


def swell(n: int, xs: list[int]) -> list[int]:
    """Multiply each by n."""
    return [x * n for x in xs]


def sift(xs: list[int]) -> list[int]:
    """Keep those above zero."""
    return [x for x in xs if x > 0]


def tumble(xs: list[int]) -> list[int]:
    """Order from largest down."""
    return sorted(xs, reverse=True)


def lone(xs: list[int]) -> list[int]:
    """Keep each value once, where it comes first."""
    return list(dict.fromkeys(xs))


def gyre(n: int, xs: list[int]) -> list[int]:
    """Rotate left by n."""
    return xs[n % len(xs) :] + xs[: n % len(xs)] if xs else []
