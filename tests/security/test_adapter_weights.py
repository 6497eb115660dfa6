"""Hostile weights: A1, mutated headers (A6), files rewritten while they are read (A7)."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load as library_load

from registry.adapter_config import AdapterConfig
from registry.errors import AdapterRejected
from registry.safeload import AdapterLimits, check_pairs, load_tensors, open_regular, parse_header, scan
from registry.samples import safetensors_bytes, sample_tensors, write_sample

ROOT = Path(__file__).parents[2]
LIMITS = AdapterLimits(max_bytes=1 << 20, max_rank=64)
CONFIG = AdapterConfig(4, 8.0, ("q_proj", "v_proj"), "samples/tiny")
STEM = "base_model.model.model.layers.0.self_attn.q_proj"
A, B = f"{STEM}.lora_A.weight", f"{STEM}.lora_B.weight"


def raw(header: str | bytes, data: bytes = b"", *, length: int | None = None) -> bytes:
    text = header.encode() if isinstance(header, str) else header
    return (len(text) if length is None else length).to_bytes(8, "little") + text + data


def entry(shape: object = (4, 16), start: object = 0, stop: object = 256, dtype: object = "F32") -> dict[str, object]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, stop]}


def pair(**changes: object) -> bytes:
    """A valid pair of one module, with some entries replaced."""
    entries: dict[str, object] = {A: entry(), B: entry((16, 4), 256, 512)}
    entries.update(changes)
    return raw(json.dumps({key: value for key, value in entries.items() if value is not None}), bytes(512))


def words(value: int, dtype: str) -> bytes:
    """A pair whose last number has these bits."""
    size = 4 if dtype == "F32" else 2
    half = 64 * size
    header = json.dumps({A: entry((4, 16), 0, half, dtype), B: entry((16, 4), half, 2 * half, dtype)})
    return raw(header, bytes(2 * half - size) + value.to_bytes(size, "little"))


def floats(change: Callable[[dict[str, Any]], object]) -> bytes:
    tensors: dict[str, Any] = dict(sample_tensors())
    change(tensors)
    return safetensors_bytes(tensors)


def poison(value: float) -> Callable[[dict[str, Any]], object]:
    return lambda tensors: tensors[A].__setitem__((1, 1), value)


def empties(count: int) -> str:
    return json.dumps({f"t{number}.lora_A.weight": entry((0, 4), 0, 0) for number in range(count)})


def rename(name: str) -> bytes:
    return raw(json.dumps({name: entry(), B: entry((16, 4), 256, 512)}), bytes(512))


HOSTILE: dict[str, bytes] = {
    "empty file": b"",
    "seven bytes": bytes(7),
    "header length 0": raw("", bytes(64)),
    "header length 2**64-1": b"\xff" * 8 + b"{}",
    "header length beyond the file": raw("{}", length=1000),
    "header of 3 MiB of padding": raw("{}" + " " * (3 << 20)),
    "no tensors": raw("{}"),
    "header is a list": raw("[]"),
    "header is not JSON": raw("{nope}"),
    "header is not UTF-8": raw(b'{"\xff": 1}'),
    "header nested 100,000 deep": raw('{"a":' * 100_000),
    "zero-size flood of 6,000": raw(empties(6000)),
    "one zero-size tensor": raw(empties(1)),
    "a tensor given twice": raw(f'{{"{A}":{json.dumps(entry())},"{A}":{json.dumps(entry())}}}', bytes(256)),
    "dtype given twice": pair().replace(b'"dtype": "F32", "shape": [4, 16]', b'"dtype": "F16", "dtype": "F32"', 1),
    "metadata of 64 kB": pair(__metadata__={"x": "y" * 65536}),
    "metadata that is not text": pair(__metadata__={"x": 1}),
    "metadata that is a list": pair(__metadata__=[]),
    "dtype F64": words(0, "F32").replace(b"F32", b"F64"),
    "dtype I8": words(0, "F32").replace(b'"F32"', b'"I8" '),
    "dtype a list": pair(**{A: entry(dtype=["F32"])}),
    "extra key in an entry": pair(**{A: {**entry(), "code": "x"}}),
    "rank 0": pair(**{A: entry((0, 16), 0, 0), B: entry((16, 0), 0, 0)}),
    "rank 10**9": pair(**{A: entry((10**9, 16))}),
    "shape larger than the offsets": pair(**{A: entry((8, 16))}),
    "shape of a negative number": pair(**{A: entry((-4, -16))}),
    "shape of true": pair(**{A: entry((True, 64))}),
    "shape of three": pair(**{A: entry((2, 2, 16))}),
    "offsets overlap": pair(**{B: entry((16, 4), 128, 384)}),
    "offsets leave a hole": raw(json.dumps({A: entry(), B: entry((16, 4), 260, 516)}), bytes(516)),
    "trailing bytes": pair() + b"PK\x03\x04",
    "truncated data": pair()[:-1],
    "NaN": floats(poison(float("nan"))),
    "infinity": floats(poison(float("-inf"))),
    "NaN in BF16": words(0x7FC1, "BF16"),
    "infinity in F16": words(0x7C00, "F16"),
    "name with ../": rename("../../../etc/passwd.lora_A.weight"),
    "name with ESC": rename("\x1b[2J.lora_A.weight"),
    "name with NUL": rename("a\x00b.lora_A.weight"),
    "name of 10 kB": rename("a" * 10_000 + ".lora_A.weight"),
    "half a pair": pair(**{B: None}) [:-256],
    "a whole matrix instead of LoRA": rename(f"{STEM}.weight"),
    "an embedding": rename("base_model.model.model.embed_tokens.lora_embedding_A"),
    "module outside target_modules": pair().replace(b"q_proj", b"k_proj"),
    "rank that is not the config's": floats(lambda tensors: tensors.__setitem__(A, np.zeros((8, 16), np.float32))),
    "the same half twice": raw(
        json.dumps({A: entry(), A.removeprefix("base_model.model."): entry((4, 16), 256, 512)}), bytes(512)
    ),
}  # fmt: skip


def check(path: Path) -> None:
    descriptor = open_regular(path, foreign=True)
    try:
        check_pairs(scan(descriptor, LIMITS).tensors, CONFIG)
    finally:
        os.close(descriptor)


def test_a1_there_are_at_least_forty() -> None:
    assert len(HOSTILE) + 2 >= 40


@pytest.mark.parametrize("name", HOSTILE)
def test_a1_hostile_weights_are_refused_quickly(tmp_path: Path, name: str) -> None:
    path = tmp_path / "adapter_model.safetensors"
    path.write_bytes(HOSTILE[name])
    begin = time.process_time()
    with pytest.raises(AdapterRejected):
        check(path)
    assert time.process_time() - begin < 1


def test_a1_a_sparse_giant_is_refused_by_its_size(tmp_path: Path) -> None:
    path = tmp_path / "adapter_model.safetensors"
    with path.open("wb") as stream:
        stream.write(pair())
        stream.truncate(1 << 40)
    with pytest.raises(AdapterRejected, match="bytes"):
        check(path)


def test_a1_shapes_are_held_against_the_base_model() -> None:
    tensors = parse_header(pair()[8:-512], 512)
    module = STEM.removeprefix("base_model.model.")
    assert list(check_pairs(tensors, CONFIG, {module: (16, 16)})) == [module]
    for shapes in ({module: (16, 32)}, {}):
        with pytest.raises(AdapterRejected, match="base model"):
            check_pairs(tensors, CONFIG, shapes)


def test_a1_memory_stays_bounded(tmp_path: Path) -> None:
    """All of them in one process, under 200 MB of address space above what the imports need."""
    for number, content in enumerate(HOSTILE.values()):
        (tmp_path / f"{number:02}").write_bytes(content)
    program = f"""
import sys; sys.path[:0] = [{str(ROOT)!r}, {str(ROOT / "tests")!r}]
import resource; from pathlib import Path
from registry.errors import AdapterRejected
from registry.safeload import AdapterLimits, open_regular, scan, check_pairs
from registry.adapter_config import AdapterConfig
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
refused = 0
for path in sorted(Path({str(tmp_path)!r}).iterdir()):
    try:
        check_pairs(scan(open_regular(path), AdapterLimits(1 << 20, 64)).tensors,
                    AdapterConfig(4, 8.0, ("q_proj", "v_proj"), None))
    except AdapterRejected:
        refused += 1
print(refused, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=150, check=True)
    refused, grown_mb = map(int, done.stdout.split())
    assert refused == len(HOSTILE)
    assert grown_mb < 200


def test_a1_negative_control_the_library_accepts_what_we_refuse(tmp_path: Path) -> None:
    """Without our own parser these would be loaded: safetensors' own reader takes them."""
    for name in ("NaN", "infinity", "name with ../", "name with ESC", "a whole matrix instead of LoRA"):
        assert library_load(HOSTILE[name])


def test_a1_honest_weights_are_read_as_the_library_reads_them(tmp_path: Path) -> None:
    path = write_sample(tmp_path / "good", 7) / "adapter_model.safetensors"
    check(path)
    ours, theirs = load_tensors(path, LIMITS), library_load(path.read_bytes())
    assert set(ours) == set(theirs)
    assert all(np.array_equal(ours[name], theirs[name]) for name in ours)


def test_bf16_is_widened_exactly(tmp_path: Path) -> None:
    path = tmp_path / "adapter_model.safetensors"
    path.write_bytes(words(0xC049, "BF16"))
    loaded = load_tensors(path, LIMITS)[B]
    assert loaded.dtype == np.float32
    assert loaded[-1, -1] == np.float32(-3.140625)


def test_a6_ten_thousand_mutated_headers_never_crash_or_hang() -> None:
    """A6: each ends in a refusal or in tensors that cover the data; nothing else is raised."""
    good = safetensors_bytes(sample_tensors(layers=1))
    length = int.from_bytes(good[:8], "little")
    header, size = good[8 : 8 + length], len(good) - 8 - length
    dice, refused, slowest = random.Random(6), 0, 0.0
    for _ in range(10_000):
        mutated = bytearray(header)
        for _ in range(dice.randrange(1, 6)):
            place = dice.randrange(len(mutated))
            match dice.randrange(3):
                case 0:
                    mutated[place] = dice.randrange(256)
                case 1:
                    del mutated[place : place + dice.randrange(1, 20)]
                case _:
                    mutated[place:place] = dice.choice([b"9" * 30, b"{", b'"', b"-1", b"\x00", b"[[[", b"1e999"])
        begin = time.process_time()
        try:
            tensors = parse_header(bytes(mutated), size)
        except AdapterRejected:
            refused += 1
        else:
            assert tensors[-1].stop == size
        slowest = max(slowest, time.process_time() - begin)
    assert slowest < 1
    assert 5_000 < refused < 10_000


def test_a7_a_file_rewritten_while_it_is_read_is_never_used_unverified(tmp_path: Path) -> None:
    """A7: hash and bytes come from one pass; 200 races give the bytes of the digest or a refusal."""
    first, second = (safetensors_bytes(sample_tensors(seed)) for seed in (1, 2))
    path = tmp_path / "adapter_model.safetensors"
    path.write_bytes(first)
    wanted = scan_digest(path)
    expected = load_tensors(path, LIMITS)
    stop = threading.Event()

    def swap() -> None:
        while not stop.is_set():
            for content in (second, first):
                with path.open("r+b") as stream:
                    stream.write(content)

    thread = threading.Thread(target=swap)
    thread.start()
    used = 0
    try:
        for _ in range(200):
            try:
                tensors = load_tensors(path, LIMITS, wanted)
            except AdapterRejected:
                continue
            used += 1
            assert all(np.array_equal(tensors[name], expected[name]) for name in expected)
    finally:
        stop.set()
        thread.join()
    path.write_bytes(second)
    with pytest.raises(AdapterRejected, match="digest"):
        load_tensors(path, LIMITS, wanted)


def scan_digest(path: Path) -> str:
    descriptor = open_regular(path)
    try:
        return scan(descriptor, LIMITS).sha256
    finally:
        os.close(descriptor)
