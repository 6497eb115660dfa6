"""The private API on words: eight invented functions, and how tasks ask for them."""

from __future__ import annotations

from random import Random
from string import ascii_lowercase

from engine.evaluation.suites.compositions import Library, Operation
from engine.evaluation.suites.private import inkwell
from engine.evaluation.suites.private_suite import PrivateSuite

VOWEL_SHARE = 0.4
"""Of the letters of an input, so that striking vowels out leaves something, and changes something."""


def draw(random: Random, length: int) -> str:
    """A word that nobody knows, of small letters."""
    return "".join(random.choice("aeiou" if random.random() < VOWEL_SHARE else ascii_lowercase) for _ in range(length))


LIBRARY = Library(
    name="inkwell",
    title="A private API on words: eight invented functions, their compositions asked for in English.",
    module=inkwell,
    parameter="s",
    operations=(
        Operation(
            "nib",
            True,
            known=("keep the last {n} letters", "take the last {n} letters", "pick the last {n} letters"),
            unseen=("keep only the last {n} letters", "take just the last {n} letters"),
        ),
        Operation(
            "quirk",
            False,
            known=("spell it backwards", "reverse the letters", "write it backwards"),
            unseen=("reverse it", "spell the letters backwards"),
        ),
        Operation(
            "pare",
            True,
            known=("cut off the last {n} letters", "drop the last {n} letters", "remove the last {n} letters"),
            unseen=("leave out the last {n} letters", "cut the last {n} letters off"),
        ),
        Operation(
            "blot",
            False,
            known=("strike out the vowels", "remove the vowels", "drop all vowels"),
            unseen=("remove all vowels", "strike the vowels out"),
        ),
        Operation(
            "bray",
            False,
            known=("turn it into capitals", "make it upper case", "write it in capitals"),
            unseen=("turn it into upper case", "make all letters capitals"),
        ),
        Operation(
            "smudge",
            True,
            known=("write each letter {n} times", "repeat each letter {n} times", "give each letter {n} times"),
            unseen=("repeat every letter {n} times", "write every letter {n} times"),
        ),
        Operation(
            "ladle",
            False,
            known=("put the letters in order", "sort the letters", "order it alphabetically"),
            unseen=("sort it alphabetically", "order the letters"),
        ),
        Operation(
            "churn",
            True,
            known=("move each letter {n} on", "shift each letter by {n}", "shift the letters on by {n}"),
            unseen=("move every letter {n} on", "shift all letters by {n}"),
        ),
    ),
    draw=draw,
)

SUITE = PrivateSuite(LIBRARY)
