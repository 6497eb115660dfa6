"""The private API on lists of whole numbers: eight invented functions, and how tasks ask for them."""

from __future__ import annotations

from random import Random

from engine.evaluation.suites.compositions import Library, Operation
from engine.evaluation.suites.private import runekit
from engine.evaluation.suites.private_suite import PrivateSuite

LARGEST = 9
"""Of the numbers in an input, up and down: one digit is one token."""
REPEATS = 0.3
"""Share of the numbers that were just there, so that dropping repeats changes something anywhere."""


def draw(random: Random, length: int) -> list[int]:
    """A list with numbers on both sides of zero, some of them more than once."""
    xs: list[int] = []
    for _ in range(length):
        again = xs and random.random() < REPEATS
        xs.append(random.choice(xs[-2:]) if again else random.randint(-LARGEST, LARGEST))
    return xs


LIBRARY = Library(
    name="runekit",
    title="A private API on lists: eight invented functions, their compositions asked for in English.",
    module=runekit,
    parameter="xs",
    operations=(
        Operation(
            "nab",
            True,
            known=("take the first {n}", "keep the first {n}", "pick the first {n}"),
            unseen=("keep only the first {n}", "take just the first {n}"),
        ),
        Operation(
            "flim",
            False,
            known=("reverse the order", "turn it around", "flip the order"),
            unseen=("turn the order around", "reverse it"),
        ),
        Operation(
            "shed",
            True,
            known=("drop the first {n}", "skip the first {n}", "remove the first {n}"),
            unseen=("leave out the first {n}", "drop just the first {n}"),
        ),
        Operation(
            "lone",
            False,
            known=("drop repeats", "keep each value once", "remove duplicates"),
            unseen=("drop the duplicates", "remove repeats"),
        ),
        Operation(
            "sift",
            False,
            known=("keep those above zero", "keep the positive ones", "keep only positive values"),
            unseen=("keep just those above zero", "keep the positive values"),
        ),
        Operation(
            "swell",
            True,
            known=("multiply each by {n}", "scale each by {n}", "make each {n} times as large"),
            unseen=("multiply every value by {n}", "scale all of them by {n}"),
        ),
        Operation(
            "tumble",
            False,
            known=("order from largest down", "sort from high to low", "sort in descending order"),
            unseen=("order from high to low", "sort from largest down"),
        ),
        Operation(
            "gyre",
            True,
            known=("rotate left by {n}", "rotate {n} to the left", "turn left by {n}"),
            unseen=("rotate it left by {n}", "turn {n} to the left"),
        ),
    ),
    draw=draw,
)

SUITE = PrivateSuite(LIBRARY)
