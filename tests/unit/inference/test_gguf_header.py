"""The quick header reader says what the library's own reader says, and refuses what is damaged."""

from __future__ import annotations

import struct
from pathlib import Path

import gguf
import numpy as np
import pytest

from engine.inference.sidecar.gguf_header import read_header


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "model.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_uint32("llama.block_count", 2)
    writer.add_float32("f", 0.5)
    writer.add_bool("yes", True)
    writer.add_array("tokenizer.ggml.tokens", ["a", "é", ""])
    writer.add_array("numbers", [1, 2, 3])
    writer.add_string("last", "after the lists")
    writer.add_tensor("blk.0.attn_q.weight", np.zeros((4, 6), np.float32))
    writer.add_tensor("output_norm.weight", np.zeros(5, np.float16))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_settings_and_shapes_are_those_of_the_library(file: Path) -> None:
    header, reader = read_header(file), gguf.GGUFReader(file)
    assert header.shapes == {tensor.name: tuple(int(size) for size in tensor.shape) for tensor in reader.tensors}
    scalars = {
        name: field.contents()
        for name, field in reader.fields.items()
        if not name.startswith("GGUF.") and field.types[0] is not gguf.GGUFValueType.ARRAY
    }
    assert dict(header.settings) == scalars
    assert header.settings["last"] == "after the lists"


@pytest.mark.parametrize("keep", [0, 3, 10, 24, 60, 150])
def test_a_file_that_ends_too_early_is_refused(file: Path, keep: int) -> None:
    whole = file.read_bytes()
    assert keep < len(whole)
    file.write_bytes(whole[:keep])
    with pytest.raises(ValueError):
        read_header(file)


@pytest.mark.parametrize(
    ("at", "code", "value"),
    [(0, "4s", b"GGML"), (4, "I", 1), (8, "Q", 1 << 40), (16, "Q", 1 << 63), (24, "Q", 1 << 50)],
)
def test_a_header_that_lies_is_refused(file: Path, at: int, code: str, value: object) -> None:
    whole = bytearray(file.read_bytes())
    struct.pack_into(f"<{code}", whole, at, value)
    file.write_bytes(whole)
    with pytest.raises(ValueError, match="GGUF"):
        read_header(file)
