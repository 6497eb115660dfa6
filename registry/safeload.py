"""The only way to read adapter bytes.

The safetensors library is safe against code execution, but accepts a million zero-size tensors (8 s, 950 MiB),
99 MB of padding, keys given twice, names such as `../../etc/passwd` and weights of NaN. So the header is parsed here,
with limits that fit a LoRA, and every byte is read once, from one open descriptor: what is hashed is what is checked
is what is copied, whoever writes to the file meanwhile.

    8 bytes: header length, little-endian | header: JSON, padded with spaces | tensors, dense, in offset order
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from stat import S_ISREG
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from registry.adapter_config import AdapterConfig
from registry.errors import AdapterRejected
from registry.strict_json import is_integer, parse_object

MAX_HEADER_BYTES = 2 << 20
"""5,000 tensors with names of 200 characters stay under it."""
MAX_TENSORS = 5_000
"""A 100-layer model with 7 modules has 1,400."""
MAX_METADATA_BYTES = 16 << 10
"""PEFT writes 15 bytes."""
MAX_DIMENSION = 1 << 22
"""No vocabulary or hidden size comes near; keeps every product below 2**63."""
CHUNK_BYTES = 1 << 20
"""Read at a time: memory stays flat whatever the file's size."""

_NAME = re.compile(r"[A-Za-z0-9_.]{1,200}")
_LORA = re.compile(r"(?:base_model\.model\.)?(?P<module>[A-Za-z0-9_.]+)\.lora_(?P<side>[AB])\.weight")
_WORD_TYPES = {"F32": "<u4", "F16": "<u2", "BF16": "<u2"}
_EXPONENTS = {"F32": 0x7F800000, "F16": 0x7C00, "BF16": 0x7F80}
"""Bits of a float's exponent: all set means infinite or not a number."""


@dataclass(frozen=True, slots=True)
class AdapterLimits:
    """How large an adapter may be."""

    max_bytes: int
    max_rank: int


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """One tensor of a file: `start` and `stop` are byte offsets from the end of the header."""

    name: str
    dtype: str
    shape: tuple[int, int]
    start: int
    stop: int


@dataclass(frozen=True, slots=True)
class Scan:
    """A whole file, read once and found acceptable."""

    sha256: str
    size_bytes: int
    tensors: tuple[TensorInfo, ...]


def open_regular(name: str | Path, directory: int | None = None, *, foreign: bool = False) -> int:
    """Open a regular file for reading, never through a link.

    Args:
        directory: descriptor that a relative `name` starts from.
        foreign: a stranger's file; it must not be a second name of a file elsewhere.

    Raises:
        AdapterRejected: it is missing, a link, or no regular file.
    """
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC  # NONBLOCK: a FIFO must not hold us
    try:
        descriptor = os.open(name, flags, dir_fd=directory)
    except (OSError, ValueError) as error:
        raise AdapterRejected(f"{Path(name).name}: cannot be opened as a plain file ({error})") from error
    status = os.fstat(descriptor)
    if not S_ISREG(status.st_mode) or (foreign and status.st_nlink != 1):
        os.close(descriptor)
        raise AdapterRejected(f"{Path(name).name}: not a plain file with one name")
    return descriptor


def scan(descriptor: int, limits: AdapterLimits, sink: Callable[[bytes], object] | None = None) -> Scan:
    """Read a safetensors file from its start, once; each chunk also goes to `sink` after its check.

    Raises:
        AdapterRejected: a limit, the header, the layout or a value is wrong.
    """
    digest = hashlib.sha256()

    def take(chunk: bytes) -> None:
        digest.update(chunk)
        if sink is not None:
            sink(chunk)

    size = os.fstat(descriptor).st_size
    if size > limits.max_bytes:
        raise AdapterRejected(f"the weights have {size} bytes; {limits.max_bytes} are allowed")
    prefix = _read_exactly(descriptor, 8)
    length = int.from_bytes(prefix, "little")
    if not 2 <= length <= min(MAX_HEADER_BYTES, size - 8):
        raise AdapterRejected(f"the safetensors header says it has {length} bytes; {MAX_HEADER_BYTES} are allowed")
    header = _read_exactly(descriptor, length)
    tensors = parse_header(header, size - 8 - length)
    take(prefix + header)
    for tensor in tensors:
        for chunk in _chunks(descriptor, tensor.stop - tensor.start):
            _check_finite(chunk, tensor)
            take(chunk)
    if os.read(descriptor, 1):
        raise AdapterRejected("the weights grew while they were read")
    return Scan(digest.hexdigest(), size, tensors)


def parse_header(header: bytes, data_bytes: int) -> tuple[TensorInfo, ...]:
    """The tensors of a safetensors header, in offset order; together they cover `data_bytes` without hole or overlap.

    Raises:
        AdapterRejected: the first thing that is wrong.
    """
    if not header.startswith(b"{"):
        raise AdapterRejected("the safetensors header does not begin with '{'")
    entries = parse_object(header, "the safetensors header")
    _check_metadata(entries.pop("__metadata__", {}))
    if not 1 <= len(entries) <= MAX_TENSORS:
        raise AdapterRejected(f"the file has {len(entries)} tensors; 1 to {MAX_TENSORS} are allowed")
    tensors = sorted((_tensor(name, entry) for name, entry in entries.items()), key=lambda tensor: tensor.start)
    end = 0
    for tensor in tensors:
        if tensor.start != end:
            raise AdapterRejected(f"tensor {tensor.name!r} leaves a hole or overlaps another")
        end = tensor.stop
    if end != data_bytes:
        raise AdapterRejected(f"the tensors cover {end} of {data_bytes} bytes")
    return tuple(tensors)


def check_pairs(
    tensors: Sequence[TensorInfo],
    config: AdapterConfig,
    base_shapes: Mapping[str, tuple[int, int]] | None = None,
) -> dict[str, tuple[TensorInfo, TensorInfo]]:
    """The pairs (A, B) by module: A has shape (r, in), B has shape (out, r).

    Args:
        base_shapes: (out, in) of the base model's linear modules by dotted path; None leaves them unchecked.

    Raises:
        AdapterRejected: a tensor is not half of a LoRA pair, or a pair does not fit the config or the base model.
    """
    sides: dict[str, dict[str, TensorInfo]] = {}
    for tensor in tensors:
        match = _LORA.fullmatch(tensor.name)
        if match is None:
            raise AdapterRejected(f"tensor {tensor.name!r} is not a lora_A or lora_B weight")
        sides.setdefault(match["module"], {})[match["side"]] = tensor
    if sum(len(pair) for pair in sides.values()) != len(tensors):
        raise AdapterRejected("two tensors are the same half of one pair")
    pairs: dict[str, tuple[TensorInfo, TensorInfo]] = {}
    for module, pair in sides.items():
        if len(pair) != 2:
            raise AdapterRejected(f"module {module!r} has only one of lora_A and lora_B")
        pairs[module] = (pair["A"], pair["B"])
        _check_pair(module, pair["A"].shape, pair["B"].shape, config)
        if base_shapes is not None:
            _check_fit(pair["A"], pair["B"], base_shapes.get(module))
    return pairs


def load_tensors(path: Path, limits: AdapterLimits, sha256: str | None = None) -> dict[str, NDArray[Any]]:
    """Every tensor of a file: F32 and F16 as they are, BF16 widened to float32.

    Args:
        sha256: the digest that the bytes must have; they are hashed as they are read.

    Raises:
        AdapterRejected: the file is not acceptable, or not the one that the digest names.
    """
    descriptor = open_regular(path)
    try:
        content = bytearray()
        found = scan(descriptor, limits, content.extend)
    finally:
        os.close(descriptor)
    if sha256 is not None and found.sha256 != sha256:
        raise AdapterRejected(f"{path.name} does not have the digest that was published")
    begin = len(content) - found.tensors[-1].stop
    return {tensor.name: _array(memoryview(content)[begin:], tensor) for tensor in found.tensors}


def read_tensor(descriptor: int, found: Scan, tensor: TensorInfo) -> NDArray[Any]:
    """One tensor of a file that was scanned, as `load_tensors` gives it, for files too large to hold.

    Raises:
        AdapterRejected: the file was changed after the scan, so that the tensor is cut short or not finite.
    """
    length, begin = tensor.stop - tensor.start, found.size_bytes - found.tensors[-1].stop
    raw = bytearray(length)
    if os.preadv(descriptor, [raw], begin + tensor.start) != length:
        raise AdapterRejected("the weights end too early")
    _check_finite(bytes(raw), tensor)
    return _array(memoryview(raw), replace(tensor, start=0, stop=length))


def _array(data: memoryview, tensor: TensorInfo) -> NDArray[Any]:
    raw = data[tensor.start : tensor.stop]
    match tensor.dtype:
        case "BF16":
            words = np.frombuffer(raw, dtype="<u2").astype("<u4") << 16
            return words.view("<f4").reshape(tensor.shape)
        case "F16":
            return np.frombuffer(raw, dtype="<f2").reshape(tensor.shape).copy()
        case _:
            return np.frombuffer(raw, dtype="<f4").reshape(tensor.shape).copy()


def _check_metadata(value: object) -> None:
    if not isinstance(value, dict):
        raise AdapterRejected("__metadata__ is not an object")
    pairs = cast("dict[str, object]", value)
    if not all(isinstance(text, str) for text in pairs.values()):
        raise AdapterRejected("__metadata__ may only hold text")
    if sum(len(key) + len(str(text)) for key, text in pairs.items()) > MAX_METADATA_BYTES:
        raise AdapterRejected(f"__metadata__ is longer than {MAX_METADATA_BYTES} bytes")


def _tensor(name: str, entry: object) -> TensorInfo:
    if _NAME.fullmatch(name) is None:
        raise AdapterRejected(f"tensor name {name[:100]!r} is not of letters, digits, '_' and '.', at most 200")
    if not isinstance(entry, dict) or set(cast("dict[str, object]", entry)) != {"dtype", "shape", "data_offsets"}:
        raise AdapterRejected(f"tensor {name!r} must have dtype, shape and data_offsets, and nothing else")
    fields = cast("dict[str, object]", entry)
    dtype = fields["dtype"]
    if not isinstance(dtype, str) or dtype not in _WORD_TYPES:
        raise AdapterRejected(f"tensor {name!r} is not F32, F16 or BF16")
    rows, columns = _two_integers(fields["shape"], f"the shape of {name!r}", 1, MAX_DIMENSION)
    start, stop = _two_integers(fields["data_offsets"], f"the offsets of {name!r}", 0, 1 << 62)
    if stop - start != rows * columns * np.dtype(_WORD_TYPES[dtype]).itemsize:
        raise AdapterRejected(f"tensor {name!r} has a shape that does not fit its offsets")
    return TensorInfo(name, dtype, (rows, columns), start, stop)


def _two_integers(value: object, what: str, low: int, high: int) -> tuple[int, int]:
    numbers = cast("list[int]", value) if isinstance(value, list) else []
    if len(numbers) != 2 or not all(is_integer(number) and low <= number <= high for number in numbers):
        raise AdapterRejected(f"{what} must be two whole numbers from {low} to {high}")
    return numbers[0], numbers[1]


def _check_pair(module: str, a: tuple[int, int], b: tuple[int, int], config: AdapterConfig) -> None:
    if a[0] != config.rank or b[1] != config.rank:
        raise AdapterRejected(f"module {module!r} has shapes {a} and {b}, which do not fit rank {config.rank}")
    if not any(module == target or module.endswith(f".{target}") for target in config.target_modules):
        raise AdapterRejected(f"module {module!r} is not among the config's target_modules")


def _check_fit(a: TensorInfo, b: TensorInfo, base: tuple[int, int] | None) -> None:
    """`base`: (out, in) of the module in the base model; None where it has no such linear module."""
    if base is None:
        raise AdapterRejected(f"tensor {a.name!r} does not fit the base model, which has no such linear module")
    for tensor, needed in ((a, (a.shape[0], base[1])), (b, (base[0], b.shape[1]))):
        if tensor.shape != needed:
            raise AdapterRejected(
                f"tensor {tensor.name!r} has shape {tensor.shape} and does not fit the base model, which needs {needed}"
            )


def _check_finite(chunk: bytes, tensor: TensorInfo) -> None:
    exponent = _EXPONENTS[tensor.dtype]
    words = np.frombuffer(chunk, dtype=_WORD_TYPES[tensor.dtype])
    if bool(((words & exponent) == exponent).any()):
        raise AdapterRejected(f"tensor {tensor.name!r} has a value that is infinite or not a number")


def _chunks(descriptor: int, length: int) -> Iterator[bytes]:
    while length:
        chunk = _read_exactly(descriptor, min(length, CHUNK_BYTES))
        length -= len(chunk)
        yield chunk


def _read_exactly(descriptor: int, length: int) -> bytes:
    parts: list[bytes] = []
    while length:
        part = os.read(descriptor, length)
        if not part:
            raise AdapterRejected("the weights end too early")
        parts.append(part)
        length -= len(part)
    return b"".join(parts)
