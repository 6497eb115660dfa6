"""A model's numbered lists: the subtasks of a decomposition, and the guilty subtasks of a diagnosis."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

FALLBACK_NAME = "implementation"
FALLBACK_CHARS = 200
MIN_NAME_ALONE = 3
"""A line without separator must be longer than this to name a subtask."""
MAX_NAME_CHARS = 100
"""A longer "name" is a sentence; the rest moves into the description."""

# For stripped lines. The space around what is found is stripped too, not matched: a pattern that can take a run of
# spaces in more than one way freezes the engine on a model that writes nothing else.
_NUMBERED = re.compile(r"^(?P<outer>\*\*)?\s*\d{1,3}\s*[.):]\s*(?P<inner>\*\*)?\s*(?P<item>.+)$")
_DEPENDS = re.compile(r"\[\s*depends(?:\s+on)?\s*:(?P<names>[^\]]*+)\]", re.IGNORECASE)
_EM_DASH = re.compile("—")
_SEPARATOR = re.compile(r"(?<=\s)[-–](?=\s)|:(?=\s)|(?<=\s):")
_LEADING_SEPARATOR = re.compile(r"^\s*[-–—:]\s*")
_NOTHING = frozenset({"", "none", "nothing", "n/a", "-"})


@dataclass(frozen=True)
class Subtask:
    """One part of the work. `depends` holds what the list says, unresolved, until `resolve`."""

    name: str
    description: str = ""
    depends: tuple[str, ...] = ()


@dataclass(frozen=True)
class Decomposition:
    """What a decompose answer says."""

    subtasks: tuple[Subtask, ...]
    """As listed: duplicates are still there, dependencies are names of listed subtasks."""
    fallback: bool = False
    """Nothing could be parsed; `subtasks` is the one substitute."""


def parse_decomposition(text: str) -> Decomposition:
    """Subtasks of a numbered list, dependencies resolved to names; one fallback subtask where there is no list."""
    listed = [subtask for line in text.splitlines() if (subtask := _subtask(line)) is not None]
    if not listed:
        return Decomposition((Subtask(FALLBACK_NAME, text.strip()[:FALLBACK_CHARS]),), fallback=True)
    return Decomposition(tuple(resolve(listed)))


def resolve(listed: Sequence[Subtask]) -> list[Subtask]:
    """The same subtasks with dependencies as exact names; 1-based numbers become names, unknown ones go."""
    names = {subtask.name.lower(): subtask.name for subtask in reversed(listed)}

    def name_of(reference: str) -> str | None:
        known = names.get(reference.lower())
        if known is not None or not reference.isdecimal():
            return known
        index = int(reference)
        return names[listed[index - 1].name.lower()] if 1 <= index <= len(listed) else None

    return [
        Subtask(
            subtask.name,
            subtask.description,
            tuple(dict.fromkeys(found for reference in subtask.depends if (found := name_of(reference)) is not None)),
        )
        for subtask in listed
    ]


def without_duplicates(subtasks: Sequence[Subtask]) -> list[Subtask]:
    """The first of each lower-cased name."""
    first: dict[str, Subtask] = {}
    for subtask in subtasks:
        first.setdefault(subtask.name.lower(), subtask)
    return list(first.values())


def parse_diagnosis(text: str, names: Sequence[str]) -> dict[str, str]:
    """Guilty subtask -> what is wrong with it, from a numbered list.

    A line names a subtask exactly, or contains its whole name; a line that names none is dropped. The longest name wins
    where one is part of another ("parse" in "parse-args").
    """
    by_length = sorted(names, key=len, reverse=True)
    found: dict[str, str] = {}
    for line in text.splitlines():
        match = _NUMBERED.match(line.strip())
        if match is None:
            continue
        item = _plain(match["item"])
        head, note = _name_and_rest(match, match["item"])
        exact = next((name for name in names if name.lower() == head.lower()), None)
        name = exact or next((name for name in by_length if _whole_name(name, item)), None)
        if name is not None:
            found.setdefault(name, note or item)
    return found


def project_label(prompt: str) -> str:
    """First sentence of the prompt, to the first full stop; else the first line."""
    before, stop, _ = prompt.strip().partition(".")
    return " ".join(before.split()) if stop else prompt.strip().split("\n", 1)[0].strip()


def _subtask(line: str) -> Subtask | None:
    match = _NUMBERED.match(line.strip())
    if match is None:
        return None
    item = match["item"]
    depends = tuple(
        name
        for found in _DEPENDS.finditer(item)
        for part in found["names"].split(",")
        if (name := _plain(part)).lower() not in _NOTHING
    )
    name, description = _name_and_rest(match, _DEPENDS.sub("", item))
    separated = bool(description)
    if not name or (not separated and len(name) <= MIN_NAME_ALONE):
        return None
    if len(name) > MAX_NAME_CHARS:
        name, description = name[:MAX_NAME_CHARS].rsplit(" ", 1)[0], f"{name} {description}".strip()
    return Subtask(name, description, depends)


def _name_and_rest(match: re.Match[str], item: str) -> tuple[str, str]:
    """A bold beginning is the name; else the text before an em dash; else before a hyphen or colon beside a space."""
    bold, mark, rest = item.partition("**")
    if mark and (match["outer"] or match["inner"]) and bold.strip():
        return _plain(bold).rstrip(":").strip(), _plain(_LEADING_SEPARATOR.sub("", rest))
    plain = _plain(item)
    separator = _EM_DASH.search(plain) or _SEPARATOR.search(plain)
    if separator is None:
        return plain.rstrip(":").strip(), ""
    return plain[: separator.start()].strip(), plain[separator.end() :].strip()


def _plain(text: str) -> str:
    """Without bold markers, code marks and outer space."""
    return re.sub(r"\*\*|`", "", text).strip()


def _whole_name(name: str, text: str) -> bool:
    return re.search(rf"(?<![\w-]){re.escape(name)}(?![\w-])", text, re.IGNORECASE) is not None
