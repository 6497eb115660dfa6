"""Steps on words of small letters. Each gives a new text; a number, where one is taken, comes first."""

from __future__ import annotations

from string import ascii_lowercase, ascii_uppercase

__all__ = ["blot", "bray", "churn", "ladle", "nib", "pare", "quirk", "smudge"]


def quirk(s: str) -> str:
    """Spell it backwards."""
    return s[::-1]


def nib(n: int, s: str) -> str:
    """Keep the last n letters."""
    return s[max(0, len(s) - n) :]


def pare(n: int, s: str) -> str:
    """Cut off the last n letters."""
    return s[: max(0, len(s) - n)]


def smudge(n: int, s: str) -> str:
    """Write each letter n times."""
    return "".join(letter * n for letter in s)


def blot(s: str) -> str:
    """Strike out the vowels."""
    return "".join(letter for letter in s if letter not in "aeiouAEIOU")


def bray(s: str) -> str:
    """Turn it into capitals."""
    return s.upper()


def ladle(s: str) -> str:
    """Put the letters in alphabetical order."""
    return "".join(sorted(s))


def churn(n: int, s: str) -> str:
    """Move each letter n places on in the alphabet; after z comes a."""
    moved = ascii_lowercase[n % 26 :] + ascii_lowercase[: n % 26]
    return s.translate(str.maketrans(ascii_lowercase + ascii_uppercase, moved + moved.upper()))
