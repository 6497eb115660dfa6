"""From what is typed into the merge dialog to a request that the engine takes; knows no Textual."""

from __future__ import annotations

from dataclasses import dataclass

from pydantic import ValidationError

from engine.api_evolution import MergeMethod, MergeRequest
from engine.errors import InputError

METHODS = ", ".join(MergeMethod)

MAX_TEXT = 200
"""Characters of a field; an id has half of that."""


@dataclass(frozen=True)
class MergeForm:
    """The fields as typed."""

    adapters: tuple[str, ...]
    """In the order in which they were chosen."""
    method: str = MergeMethod.TIES
    density: str = ""
    weights: str = ""
    rank: str = ""
    adapter_id: str = ""
    suite: str = ""


def read_merge_form(form: MergeForm) -> MergeRequest:
    """The request.

    Raises:
        InputError: one plain sentence about the first field that is not right.
    """
    if len(form.adapters) < 2:
        raise InputError("Choose at least two adapters: Enter marks the one under the cursor.")
    weights = tuple(_number("weights", part) for part in form.weights.replace(",", " ").split())
    if weights and len(weights) != len(form.adapters):
        raise InputError(f"weights: {len(form.adapters)} adapters need as many weights, or none.")
    values: dict[str, object] = {"adapters": form.adapters, "method": form.method.strip(), "weights": weights}
    if form.density.strip():
        values["density"] = _number("density", form.density.strip())
    for name, text in (("rank", form.rank), ("adapter_id", form.adapter_id), ("suite", form.suite)):
        if text.strip():
            values[name] = text.strip()[:MAX_TEXT]
    if values["method"] == MergeMethod.CAT_LEARNED and "suite" not in values:
        raise InputError("suite: cat-learned learns its scalars on the train split of a suite; name one.")
    try:
        return MergeRequest.model_validate(values)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        name = {"adapter_id": "name"}.get(str(first["loc"][0]), str(first["loc"][0]))
        raise InputError(f"{name}: {first['msg']}.") from error


def _number(name: str, text: str) -> float:
    try:
        return float(text)
    except ValueError as error:
        raise InputError(f"{name}: {text!r} is not a number.") from error
