"""The embedded model becomes a Hugging Face directory once, whole or not at all, whoever asks and whoever dies."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from benchmarks.gguf import random_model, write_gguf
from engine.config import Config, load_config
from engine.errors import EnvironmentUnfitError, ModelNotFoundError
from engine.inference import dequantize
from engine.inference.base_weights import BaseWeights, base_weights_if_ready, ensure_base_weights

BYTES = [chr(code) for code in (*range(33, 127), *range(161, 173), *range(174, 256), *range(256, 324))]
"""The byte-level alphabet: 256 characters that stand for bytes."""
VOCABULARY = [*BYTES, "he", *(f"word{number}" for number in range(61)), "<|im_start|>", "<|im_end|>"]


def _config(model: Path) -> Config:
    return load_config(model.parent / "none.toml", [f"model.path={model}"], {})


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    return write_gguf(random_model(folder / "source"), folder / "tiny.gguf", VOCABULARY)


@pytest.mark.timeout(300)
def test_a_half_made_directory_is_never_taken_and_concurrent_callers_make_one(model: Path, tmp_path: Path) -> None:
    config, home = _config(model), tmp_path / "home"
    assert base_weights_if_ready(config, home) is None

    # Killed one instant before the rename: every byte is there, and it is not taken.
    target = home / "models" / "killed"
    killed = _convert_and_die(model, target)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    (left,) = (home / "models").glob(".partial-*")
    assert (left / "model.safetensors").stat().st_size > 100_000 and (left / "config.json").exists()
    assert not target.exists() and base_weights_if_ready(config, home) is None

    steps: list[str] = []

    async def three() -> list[BaseWeights]:
        return await asyncio.gather(*(ensure_base_weights(config, home, steps.append) for _ in range(3)))

    made = asyncio.run(three())
    assert steps.count("unpacking the weights") == 1, "it was made more than once"
    assert made[0] == made[1] == made[2] == base_weights_if_ready(config, home)
    assert not left.exists(), "what the dead one left takes up the disk"
    names = {path.name for path in made[0].directory.iterdir()}
    assert {"config.json", "model.safetensors", "tokenizer.json", "chat_template.jinja"} <= names
    assert "quantization_config" not in (made[0].directory / "config.json").read_text()


def _convert_and_die(model: Path, target: Path) -> subprocess.CompletedProcess[bytes]:
    environment = os.environ | {"RUNE_CRASH_AT": "weights.before_rename", "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-m", "engine.inference.dequantize", str(model), str(target)]
    with subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, stderr=subprocess.PIPE) as child:
        assert child.stderr is not None
        errors = child.stderr.read()
    return subprocess.CompletedProcess(command, child.returncode, b"", errors)


def test_a_cancelled_call_ends_its_child_and_leaves_no_directory(model: Path, tmp_path: Path) -> None:
    config, home = _config(model), tmp_path / "home"

    async def cancel() -> psutil.Process:
        begun = asyncio.Event()
        call = asyncio.ensure_future(ensure_base_weights(config, home, lambda _step: begun.set()))
        await begun.wait()
        children = await asyncio.to_thread(psutil.Process().children)
        (child,) = [child for child in children if "engine.inference.dequantize" in child.cmdline()]
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        return child

    assert not asyncio.run(cancel()).is_running()
    assert [path.name for path in (home / "models").iterdir() if not path.name.startswith(".")] == []


def test_what_is_no_model_is_refused_with_its_reason(tmp_path: Path) -> None:
    (tmp_path / "bad.gguf").write_bytes(b"not a model at all")
    with pytest.raises(EnvironmentUnfitError, match="not a GGUF file"):
        asyncio.run(ensure_base_weights(_config(tmp_path / "bad.gguf"), tmp_path / "home", lambda _step: None))
    with pytest.raises(ModelNotFoundError):
        asyncio.run(ensure_base_weights(_config(tmp_path / "none.gguf"), tmp_path / "home", lambda _step: None))


def test_a_disk_that_is_too_full_is_noticed(tmp_path: Path) -> None:
    dequantize.require_space(tmp_path, 1)
    with pytest.raises(dequantize.CannotConvertError, match="MiB of disk are needed"):
        dequantize.require_space(tmp_path, 1 << 60)


def test_a_directory_is_used_as_it_is_and_known_by_its_bytes(tmp_path: Path) -> None:
    directory = random_model(tmp_path / "one")
    first = base_weights_if_ready(_config(directory), tmp_path / "home")
    assert first is not None and first.directory == directory and len(first.digest) == 64
    same = base_weights_if_ready(_config(random_model(tmp_path / "two")), tmp_path / "home")
    other = base_weights_if_ready(_config(random_model(tmp_path / "three", seed=2)), tmp_path / "home")
    assert same is not None and other is not None
    assert first.digest == same.digest != other.digest
    (directory / "model.safetensors").unlink()
    with pytest.raises(ModelNotFoundError, match="safetensors"):
        base_weights_if_ready(_config(directory), tmp_path / "home")
