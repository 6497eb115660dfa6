"""The smallest JSON value that a schema admits: what the scripted backend answers to `response_format`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from engine.inference.sidecar.backend import BadRequestError

MAX_DEPTH = 32
"""Nesting of a schema; a schema that refers to itself would never end."""


def instance(schema: Mapping[str, Any]) -> Any:
    """A value of this schema: const, enum, $ref into $defs, anyOf/oneOf/allOf, objects, arrays, strings, numbers.

    Raises:
        BadRequestError: a keyword that this generator does not know, or nesting without end.
    """
    return _value(schema, schema, 0)


def _value(schema: Mapping[str, Any], root: Mapping[str, Any], depth: int) -> Any:
    if depth > MAX_DEPTH:
        raise BadRequestError("response_format: the schema is nested too deeply")
    match schema:
        case {"const": value} | {"enum": [value, *_]} | {"default": value}:
            return value
        case {"$ref": str(reference)}:
            return _value(_resolve(reference, root), root, depth + 1)
        case {"anyOf": [first, *_]} | {"oneOf": [first, *_]}:
            return _value(first, root, depth + 1)
        case {"allOf": [*parts]}:
            merged = {key: value for part in parts for key, value in part.items()}
            return _value(merged, root, depth + 1)
        case _:
            return _typed(schema, root, depth)


def _typed(schema: Mapping[str, Any], root: Mapping[str, Any], depth: int) -> Any:
    kind = schema.get("type", "object" if "properties" in schema else "null")
    match kind if isinstance(kind, str) else _first(kind):
        case "object":
            properties: Mapping[str, Any] = schema.get("properties", {})
            return {name: _value(part, root, depth + 1) for name, part in properties.items()}
        case "array":
            return [_value(schema.get("items", {}), root, depth + 1) for _ in range(int(schema.get("minItems", 1)))]
        case "string":
            return "text".ljust(int(schema.get("minLength", 0)), "x")[: int(schema.get("maxLength", MAX_DEPTH * 128))]
        case "integer":
            return int(schema.get("minimum", min(1, schema.get("maximum", 1))))
        case "number":
            return float(schema.get("minimum", min(0.5, schema.get("maximum", 0.5))))
        case "boolean":
            return True
        case "null":
            return None
        case other:
            raise BadRequestError(f"response_format: unknown type {other!r}")


def _first(kinds: Sequence[str]) -> str:
    return kinds[0] if kinds else "null"


def _resolve(reference: str, root: Mapping[str, Any]) -> Mapping[str, Any]:
    node: Any = root
    for part in reference.removeprefix("#/").split("/"):
        node = node.get(part) if isinstance(node, Mapping) else None
    if not isinstance(node, Mapping):
        raise BadRequestError(f"response_format: {reference} points nowhere")
    return node
