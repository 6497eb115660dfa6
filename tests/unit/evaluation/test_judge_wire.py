"""Only plain data by exact type crosses; what cannot be read never becomes a value."""
# ruff: noqa: E501 - tables of values

from __future__ import annotations

import datetime
import os
from collections import Counter, OrderedDict, defaultdict, deque
from decimal import Decimal
from fractions import Fraction
from pathlib import PosixPath
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.evaluation.inside import wire
from engine.evaluation.inside.link import write_back

SCALARS = (
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary()
    | st.complex_numbers(allow_nan=False) | st.decimals(allow_nan=False) | st.fractions() | st.dates() | st.datetimes()
    | st.times() | st.timedeltas() | st.uuids()
)  # fmt: skip
HASHABLE = SCALARS | st.tuples(SCALARS, SCALARS) | st.frozensets(SCALARS)
VALUES = st.recursive(
    HASHABLE,
    lambda inner: st.lists(inner) | st.tuples(inner, inner) | st.dictionaries(HASHABLE, inner) | st.sets(HASHABLE),
    max_leaves=12,
)


def shape(value: Any) -> Any:
    """Value and types, so that 1 and True differ."""
    if isinstance(value, (list, tuple, deque)):
        return type(value), [shape(item) for item in value]
    if isinstance(value, dict):
        return type(value), [(shape(k), shape(v)) for k, v in value.items()]
    return type(value), value


@given(VALUES)
def test_what_goes_in_comes_out(value: Any) -> None:
    assert shape(wire.decode(wire.unpack(wire.pack({"v": wire.encode(value)})[4:])["v"])) == shape(value)


@pytest.mark.parametrize(
    "value",
    [
        Counter("aab"), OrderedDict(b=1, a=2), defaultdict(list, {"a": [1]}), deque([1, 2]), bytearray(b"x"), range(1, 9, 2),
        slice(1, None), Ellipsis, NotImplemented, int, ValueError, Decimal("NaN").copy_abs().is_nan(), Fraction(1, 3),
        PosixPath("a/b"), UUID(int=5), datetime.datetime(2024, 1, 1, tzinfo=datetime.UTC), float("inf"), 10**5000,
    ],
    ids=lambda value: type(value).__name__,
)  # fmt: skip
def test_library_values(value: Any) -> None:
    assert shape(wire.decode(wire.encode(value))) == shape(value)


class _Int(int):
    def __eq__(self, other: object) -> bool:
        return True

    __hash__ = int.__hash__


class _List(list[int]):
    pass


@pytest.mark.parametrize("value", [_Int(1), _List(), [_Int(1)], {"a": _List()}, object(), lambda: 1, wire])
def test_subclasses_and_objects_are_no_data(value: Any) -> None:
    with pytest.raises(wire.NotPlainError):
        wire.encode(value)


def test_cycles_are_no_data() -> None:
    value: list[Any] = []
    value.append(value)
    with pytest.raises(wire.NotPlainError):
        wire.encode(value)


@pytest.mark.parametrize(
    "data",
    [
        {}, [], ["?"], ["l"], ["l", 5], ["i", "zz"], ["R", "print"], ["R", "no such"], ["d", [[1]]], ["r", "1/0"], ["h", 1],
        ["B", "os", "_exit"], ["u", "x"], ["T", "never"], ["k", "x"], [["l"], []], [None], ["s", [["l", []]]],
    ],
    ids=str,
)  # fmt: skip
def test_garbage_is_an_error_and_never_a_value(data: Any) -> None:
    with pytest.raises((wire.WireError, wire.NotPlainError)):
        wire.decode(data)


@pytest.mark.parametrize("body", [b"", b"[]", b"1", b"{", b"\xff", b"[" * 100_000, b'{"a": ' + b"1" * 5000 + b"}"])
def test_frames_that_are_none(body: bytes) -> None:
    with pytest.raises(wire.WireError):
        wire.unpack(body)


def test_frames_have_a_limit() -> None:
    with pytest.raises(wire.WireError):
        wire.pack({"v": "x" * (wire.MAX_FRAME + 1)})
    read, write = os.pipe()
    try:
        os.write(write, b"\xff\xff\xff\xff")
        with pytest.raises(wire.WireError):
            wire.receive(read)
        wire.send(write, {"a": 1})
        assert wire.receive(read) == {"a": 1}
        os.write(write, b"\0\0\0\x05{}")
        os.close(write)
        write = -1
        with pytest.raises(wire.WireError):
            wire.receive(read)
        assert wire.receive(read) is None
    finally:
        os.close(read)
        if write >= 0:
            os.close(write)


def test_write_back_keeps_inner_containers() -> None:
    row = [1, 2]
    grid = [row, [3]]
    write_back(grid, [[5, 6], [3], [7]])
    assert grid == [[5, 6], [3], [7]] and grid[0] is row
    table = {"a": [1], "b": 2}
    inner = table["a"]
    write_back(table, {"a": [9]})
    assert table == {"a": [9]} and table["a"] is inner
    write_back(row, {"not": "a list"})
    assert row == [5, 6]
