"""The GGUF form that was published with an adapter is loaded in place of a new conversion, and only that very form.

Directory of one adapter, form of another: whose bytes are attached says which of them was believed.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import tiny_llama as tiny

from engine.inference.sidecar.lora_gguf import BaseFacts, convert, read_base
from engine.inference.sidecar.published_gguf import take_over
from registry.blobs import GGUF, file_digest
from registry.safeload import AdapterLimits

LIMITS = AdapterLimits(1 << 20, 16)
LARGE = 1 << 20


def _lay_out(folder: Path) -> tuple[Path, str, BaseFacts]:
    """An adapter directory with the form of another adapter in it; its digest; the base."""
    base = read_base(tiny.write_model(folder / "base.gguf", tiny.random_weights(1)))
    one = tiny.write_adapter(folder / "one", tiny.random_adapter(1, 4), 4, 4.0)
    two = tiny.write_adapter(folder / "two", tiny.random_adapter(2, 4), 4, 4.0)
    convert(two, base, LIMITS, one / GGUF)
    return one, file_digest(one / GGUF), base


def test_the_form_of_that_digest_is_taken_over_byte_for_byte(tmp_path: Path) -> None:
    directory, digest, base = _lay_out(tmp_path)
    target = tmp_path / "taken.gguf"
    assert take_over(directory, digest, base, LARGE, target) == ""
    assert file_digest(target) == digest
    assert target.stat().st_mode & 0o777 == 0o600, "nobody else can change what was checked"


@pytest.mark.parametrize("place", [0, 100, -1])
def test_one_changed_byte_is_seen(tmp_path: Path, place: int) -> None:
    directory, digest, base = _lay_out(tmp_path)
    content = bytearray((directory / GGUF).read_bytes())
    content[place] ^= 1
    (directory / GGUF).write_bytes(content)
    target = tmp_path / "taken.gguf"
    assert "not those that were published" in take_over(directory, digest, base, LARGE, target)
    assert not target.exists()


def test_a_form_that_is_gone_or_a_link_or_too_large_is_not_taken(tmp_path: Path) -> None:
    directory, digest, base = _lay_out(tmp_path)
    target = tmp_path / "taken.gguf"
    assert "more than 100 bytes" in take_over(directory, digest, base, 100, target)
    shutil.move(directory / GGUF, tmp_path / "elsewhere")
    assert "cannot be opened" in take_over(directory, digest, base, LARGE, target)
    (directory / GGUF).symlink_to(tmp_path / "elsewhere")
    assert "cannot be opened" in take_over(directory, digest, base, LARGE, target)
    assert not target.exists()


@pytest.mark.parametrize("other", [("qwen2", 4, 2), ("llama", 8, 2), ("llama", 4, 4)])
def test_a_form_for_a_base_with_other_heads_is_not_taken(tmp_path: Path, other: tuple[str, int, int]) -> None:
    """Its shapes would fit, and its rows would stand in another order: wrong answers, and no error."""
    directory, digest, base = _lay_out(tmp_path)
    architecture, heads, kv_heads = other
    changed = BaseFacts(architecture, base.layers, heads, kv_heads, base.shapes)
    assert "another base model" in take_over(directory, digest, changed, LARGE, tmp_path / "taken.gguf")


def test_a_form_without_a_word_of_its_base_is_not_taken(tmp_path: Path) -> None:
    """Of an earlier version of the converter."""
    directory, _, base = _lay_out(tmp_path)
    plain = tiny.write_model(tmp_path / "plain.gguf", tiny.random_weights(1))
    shutil.copy(plain, directory / GGUF)
    reason = take_over(directory, file_digest(plain), base, LARGE, tmp_path / "taken.gguf")
    assert "another base model" in reason


@pytest.mark.model
def test_the_backend_attaches_the_published_form_and_else_converts(tmp_path: Path) -> None:
    from engine.inference.sidecar.llamacpp import LlamaRuntime, LlamaSettings

    directory, digest, base = _lay_out(tmp_path)
    settings = LlamaSettings(tmp_path / "base.gguf", 64, 1, 1, LIMITS, tmp_path)
    runtime, target = LlamaRuntime(settings), tmp_path / "prepared.gguf"
    own = tmp_path / "own.gguf"
    convert(directory, base, LIMITS, own)
    for wanted, expected in ((digest, digest), ("0" * 64, file_digest(own)), (None, file_digest(own))):
        runtime.prepare(directory, target, wanted)
        assert file_digest(target) == expected
