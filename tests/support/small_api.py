"""A private API in the form of the built-in suites: typed, documented, with names that say nothing."""

from __future__ import annotations

from engine.api_models import TaskMode, TaskSpec

MODULE = '''
def gyre(n: int, xs: list[int]) -> list[int]:
    """Rotate the list left by n places."""
    return xs[n % len(xs):] + xs[:n % len(xs)] if xs else []

def tumble(xs: list[int]) -> list[int]:
    """Order the list from largest down."""
    return sorted(xs, reverse=True)

def swell(n: int, xs: list[int]) -> list[int]:
    """Add n to every item."""
    return [x + n for x in xs]

def lone(xs: list[int]) -> list[int]:
    """Drop repeated items, keeping the first of each."""
    return list(dict.fromkeys(xs))

def nab(n: int, xs: list[int]) -> list[int]:
    """Take the first n items."""
    xs[:] = xs[:n]
    return xs

def spin(xs: list[int]) -> list[int]:
    """Never comes back."""
    while True:
        pass

def hurl(xs: list[int]) -> list[int]:
    """Raises always."""
    raise RuntimeError("no")

def _hidden(xs: list[int]) -> list[int]:
    return xs

def loose(xs):
    return xs
'''
"""`nab` changes its argument in place, `spin` hangs, `hurl` raises: the search must outlive all three."""


def gyre(n: int, xs: list[int]) -> list[int]:
    return xs[n % len(xs) :] + xs[: n % len(xs)] if xs else []


INPUTS = ([3, 1, 2, 9, 5], [7, 7, 4, 1, 8, 2], [10, 2, 2, 6, 1])


def rotate_then_order(n: int) -> TaskSpec:
    """`tumble` of what `gyre` takes, after `nab`: three calls, one of which loses items."""
    tests = "\n".join(f"assert solve({xs}) == {sorted(gyre(2, xs)[:n], reverse=True)}" for xs in INPUTS)
    return api_task(f"runekit: rotate left by 2, take the first {n}, then order from largest down.", tests)


def api_task(prompt: str, tests: str, **more: object) -> TaskSpec:
    values: dict[str, object] = {
        "id": "t",
        "prompt": prompt,
        "tests": tests,
        "entry_point": "solve",
        "files": {"runekit.py": MODULE},
        "prelude": "from runekit import *\n",
        "mode": TaskMode.EXPLORE,
        **more,
    }
    return TaskSpec.model_validate(values)
