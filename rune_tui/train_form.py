"""From what is typed into the train dialog to a request that the engine takes; knows no Textual. Blocks on files."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from engine.api_training import TrainRequest
from engine.errors import InputError

MAX_DIGITS = 9
"""More steps than that nobody has time for."""

_LABELS = {
    "adapter_id": "name",
    "max_steps": "steps",
    "warm_start": "start from",
    "preset": "preset",
    "dataset": "file",
}


@dataclass(frozen=True)
class TrainForm:
    """The fields as typed."""

    from_trajectories: bool = True
    dataset: str = ""
    adapter_id: str = ""
    preset: str = "standard"
    max_steps: str = ""
    warm_start: str = ""


def read_train_form(form: TrainForm) -> TrainRequest:
    """The request.

    Raises:
        InputError: one plain sentence about the first field that is not right.
    """
    dataset = None if form.from_trajectories else str(_file(form.dataset))
    steps = form.max_steps.strip()
    if steps and not (steps.isdecimal() and len(steps) <= MAX_DIGITS):
        raise InputError(f"steps: {steps!r} is not a number.")
    try:
        return TrainRequest(
            adapter_id=form.adapter_id.strip() or None,
            dataset=dataset,
            from_trajectories=form.from_trajectories,
            preset=form.preset.strip() or "standard",
            max_steps=int(steps) if steps else None,
            warm_start=form.warm_start.strip() or None,
        )
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        name = str(first["loc"][0]) if first["loc"] else "dataset"
        raise InputError(f"{_LABELS.get(name, name)}: {first['msg']}.") from error


def _file(text: str) -> Path:
    name = text.strip()
    if not name:
        raise InputError("Give a file of examples, or choose the verified attempts.")
    try:
        path = Path(name).expanduser().absolute()
        if not path.is_file():
            raise InputError(f"{name} is not a file.")
    except (OSError, ValueError, RuntimeError) as error:
        raise InputError(f"{name} is not the name of a file.") from error
    return path
