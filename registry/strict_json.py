"""JSON from strangers: no duplicate key, no NaN, no surprise in depth or size."""

from __future__ import annotations

import json
from typing import NoReturn

from registry.errors import AdapterRejected


def parse_object(raw: bytes, what: str) -> dict[str, object]:
    """The JSON object in `raw`; `what` names the place in messages.

    Raises:
        AdapterRejected: not UTF-8, not JSON, not an object, a key given twice, NaN or Infinity, or nested too deep.
    """

    def refuse_constant(name: str) -> NoReturn:
        raise AdapterRejected(f"{what}: {name} is not a JSON number")

    def unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
        found = dict(pairs)
        if len(found) != len(pairs):
            raise AdapterRejected(f"{what}: a key is given twice")
        return found

    try:
        value: object = json.loads(raw.decode("utf-8"), object_pairs_hook=unique, parse_constant=refuse_constant)
    except (UnicodeDecodeError, ValueError, RecursionError) as error:
        raise AdapterRejected(f"{what}: not valid JSON ({type(error).__name__})") from error
    if not isinstance(value, dict):
        raise AdapterRejected(f"{what}: not a JSON object")
    return value


def is_integer(value: object) -> bool:
    """A JSON integer: `true` is not one, though Python thinks so."""
    return isinstance(value, int) and not isinstance(value, bool)
