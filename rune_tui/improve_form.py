"""From what is typed into the improve dialog to a request that the engine takes; knows no Textual."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pydantic import ValidationError

from engine.api_evolution import ImproveRequest
from engine.api_learning import Split, SuiteInfo
from engine.errors import InputError

MAX_DIGITS = 9
"""More tasks than that no suite has."""

REHEARSED = " ".join(ImproveRequest.model_fields["rehearse"].default)
"""What is rehearsed where nothing else is typed."""

_LABELS = {"limit": "tasks", "rehearse": "answered as before"}


@dataclass(frozen=True)
class ImproveForm:
    """The fields as typed."""

    suite: str
    """Under the cursor; empty: no suite has anything to learn from."""
    rounds: str = "1"
    preset: str = "standard"
    limit: str = ""
    rehearse: str = REHEARSED
    """Names with space or commas between them."""
    explore: bool = True


def teaching(suites: Sequence[SuiteInfo]) -> list[SuiteInfo]:
    """The suites that have both what to learn from and what decides."""
    return [suite for suite in suites if suite.counts.get(Split.TRAIN) and suite.counts.get(Split.GATE)]


def read_improve_form(form: ImproveForm) -> ImproveRequest:
    """The request.

    Raises:
        InputError: one plain sentence about the first field that is not right.
    """
    if not form.suite:
        raise InputError("No suite has tasks to learn from; `rune-tui suite add` takes one with a train split.")
    values: dict[str, object] = {
        "suite": form.suite,
        "rounds": _number("rounds", form.rounds),
        "preset": form.preset.strip() or "standard",
        "explore": form.explore,
        "rehearse": tuple(form.rehearse.replace(",", " ").split()),
    }
    if form.limit.strip():
        values["limit"] = _number("tasks", form.limit)
    try:
        return ImproveRequest.model_validate(values)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        name = str(first["loc"][0])
        raise InputError(f"{_LABELS.get(name, name)}: {first['msg'].removeprefix('Value error, ')}.") from error


def _number(name: str, text: str) -> int:
    digits = text.strip()
    if not (digits.isascii() and digits.isdecimal() and len(digits) <= MAX_DIGITS):
        raise InputError(f"{name}: {digits!r} is not a number.")
    return int(digits)
