"""What a measurement is kept under: the content of what answered, whatever it is called."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from engine.config import Config, load_config
from engine.errors import ModelNotFoundError
from engine.inference.base_identity import base_identity
from engine.inference.base_weights import base_digest
from engine.inference.model_files import EMBEDDED_SHA256, embedded_model


def _config(*overrides: str) -> Config:
    return load_config(Path("no such file"), overrides, {})


def _model(path: Path, content: bytes = b"weights") -> str:
    path.write_bytes(content)
    return f"model.path={path}"


def test_the_embedded_model_is_the_same_wherever_it_lies_and_as_it_was_in_older_keys(tmp_path: Path) -> None:
    """Keys from before had the path as it was configured: "" for the embedded model."""
    assert base_digest(_config()) == EMBEDDED_SHA256
    assert base_identity(_config(), "llamacpp") == ""
    copy = shutil.copy(embedded_model(), tmp_path / "moved.gguf")
    assert base_identity(_config(f"model.path={copy}"), "llamacpp") == ""


def test_a_changed_file_is_another_model_and_a_moved_one_is_not(tmp_path: Path) -> None:
    config = _config(_model(tmp_path / "a.gguf"))
    first = base_identity(config, "llamacpp")
    assert len(first) == 64 == len(base_identity(config, "vllm"))
    (tmp_path / "a.gguf").rename(tmp_path / "b.gguf")
    assert base_identity(_config(f"model.path={tmp_path / 'b.gguf'}"), "llamacpp") == first
    _model(tmp_path / "a.gguf", b"wEights")
    assert base_identity(config, "llamacpp") != first


def test_a_directory_is_its_configuration_and_weights(tmp_path: Path) -> None:
    for name in ("config.json", "model.safetensors", "README.md"):
        (tmp_path / name).write_text(name)
    config = _config(f"model.path={tmp_path}")
    first = base_identity(config, "transformers")
    (tmp_path / "README.md").write_text("other words")
    assert base_identity(config, "transformers") == first
    (tmp_path / "config.json").write_text("{}")
    assert base_identity(config, "transformers") != first


def test_four_bits_are_another_model(tmp_path: Path) -> None:
    path = _model(tmp_path / "a.gguf")
    whole, quarter = _config(path), _config(path, "transformers.four_bit=true")
    assert base_identity(whole, "transformers") != base_identity(quarter, "transformers")
    assert base_identity(whole, "llamacpp") == base_identity(quarter, "llamacpp")


def test_where_no_file_of_ours_answers_it_is_named_as_it_is_known(tmp_path: Path) -> None:
    """Ollama's models are its own; a script is what answers. Neither asks for a model file."""
    absent = f"model.path={tmp_path / 'none.gguf'}"
    tags = [base_identity(_config(absent, f"ollama.model={tag}"), "ollama") for tag in ("a", "b")]
    assert tags == ["ollama a", "ollama b"]
    script = tmp_path / "script.json"
    script.write_text("one")
    config = _config(absent, f"inference.script={script}")
    first = base_identity(config, "scripted")
    script.write_text("two")
    assert base_identity(config, "scripted") != first
    assert base_identity(_config(absent, "inference.script="), "scripted") == ""
    with pytest.raises(ModelNotFoundError):
        base_identity(_config(absent), "llamacpp")
    script.unlink()
    with pytest.raises(ModelNotFoundError, match="cannot be read"):
        base_identity(config, "scripted")
