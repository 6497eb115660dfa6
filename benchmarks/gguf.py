"""Our LoRA -> GGUF conversion, proven by logits: llama.cpp with the converted adapter against transformers + PEFT.

    python -m benchmarks.gguf [--json]

For a random llama of a few kilobytes and for SmolLM2, in float32 on both sides with the same numbers: an adapter on
each of q, k, v, o, gate, up and down alone, and on all seven. The table has the largest difference of a logit, beside
the largest change that the adapter makes, without which a difference means nothing. Exit 1 above TOLERANCE of it.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save_file

from engine.config import load_config
from engine.inference.base_weights import ensure_base_weights
from engine.inference.sidecar.llama_native import Context, Lora, Model
from engine.inference.sidecar.lora_gguf import convert, halves_to_pairs, read_base
from engine.inference.sidecar.runtime import Entry
from registry.safeload import AdapterLimits

Array = NDArray[np.float32]
Weights = dict[str, Array]
TOLERANCE = 1e-4
"""Largest difference over largest change: float32 sums in another order give 1e-5; a wrong row gives 1."""
RANK, ALPHA = 4, 6.0
LIMITS = AdapterLimits(64 << 20, 16)
ALL = "all"
TINY_CONFIG: Mapping[str, Any] = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 64, "intermediate_size": 96,
    "num_attention_heads": 4, "num_key_value_heads": 2, "num_hidden_layers": 2, "vocab_size": 320, "head_dim": 16,
    "max_position_embeddings": 128, "rms_norm_eps": 1e-5, "tie_word_embeddings": False, "hidden_act": "silu",
    "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
}  # fmt: skip


@dataclass(frozen=True)
class Row:
    """One adapter on one model: the largest absolute differences over all logits of the prompt."""

    model: str
    targets: str
    difference: float
    """Between llama.cpp and transformers + PEFT, both with the adapter."""
    change: float
    """Between transformers with and without the adapter."""


def modules(config: Mapping[str, Any]) -> dict[str, tuple[str, int, int]]:
    """The seven linear modules: path in a layer, rows, columns."""
    hidden, feed = config["hidden_size"], config["intermediate_size"]
    keys = hidden // config["num_attention_heads"] * config["num_key_value_heads"]
    shapes = {"q": (hidden, hidden), "k": (keys, hidden), "v": (keys, hidden), "o": (hidden, hidden)}
    named = {f"{name}_proj": (f"self_attn.{name}_proj", *shape) for name, shape in shapes.items()}
    named |= {f"{name}_proj": (f"mlp.{name}_proj", feed, hidden) for name in ("gate", "up")}
    return named | {"down_proj": ("mlp.down_proj", hidden, feed)}


def random_model(folder: Path, seed: int = 1) -> Path:
    """A random llama as a Hugging Face directory, without a tokenizer."""
    random, config = np.random.default_rng(seed), TINY_CONFIG
    table = (config["vocab_size"], config["hidden_size"])
    shapes = {"model.embed_tokens.weight": table, "lm_head.weight": table}
    for layer in range(config["num_hidden_layers"]):
        for path, rows, columns in modules(config).values():
            shapes[f"model.layers.{layer}.{path}.weight"] = (rows, columns)
    tensors = {name: random.normal(0, 0.2, shape).astype(np.float32) for name, shape in shapes.items()}
    norms = [f"layers.{layer}.{name}_layernorm" for layer in range(2) for name in ("input", "post_attention")]
    tensors |= {
        f"model.{name}.weight": random.normal(1, 0.1, config["hidden_size"]).astype(np.float32)
        for name in ("norm", *norms)
    }
    folder.mkdir(parents=True)
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def random_adapter(
    folder: Path, config: Mapping[str, Any], targets: Sequence[str], scale: float, seed: int = 2
) -> Path:
    """A PEFT directory with random weights on these modules of every layer."""
    random, tensors = np.random.default_rng(seed), Weights()
    for layer in range(config["num_hidden_layers"]):
        for path, rows, columns in (modules(config)[target] for target in targets):
            name = f"base_model.model.model.layers.{layer}.{path}"
            tensors[f"{name}.lora_A.weight"] = random.normal(0, scale, (RANK, columns)).astype(np.float32)
            tensors[f"{name}.lora_B.weight"] = random.normal(0, scale, (rows, RANK)).astype(np.float32)
    folder.mkdir(parents=True)
    save_file(tensors, folder / "adapter_model.safetensors", {"format": "pt"})
    values = {"peft_type": "LORA", "r": RANK, "lora_alpha": ALPHA, "target_modules": list(targets), "bias": "none"}
    (folder / "adapter_config.json").write_text(json.dumps(values))
    return folder


def write_gguf(directory: Path, path: Path, vocabulary: Sequence[str] = ()) -> Path:
    """A llama's Hugging Face directory as F32 GGUF: the same numbers.

    Args:
        vocabulary: tokens of a byte-level tokenizer, the last two of which begin and end a turn; empty: none.
    """
    config = json.loads((directory / "config.json").read_text(encoding="utf-8"))
    heads, kv_heads = config["num_attention_heads"], config["num_key_value_heads"]
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(heads)
    writer.add_head_count_kv(kv_heads)
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_rope_freq_base(config["rope_parameters"]["rope_theta"])
    writer.add_rope_dimension_count(config["hidden_size"] // heads)
    writer.add_vocab_size(config["vocab_size"])
    _add_vocabulary(writer, vocabulary)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config["num_hidden_layers"])
    for name, array in float32_weights(directory / "model.safetensors").items():
        if name.endswith(("q_proj.weight", "k_proj.weight")):
            array = halves_to_pairs(array, heads if name.endswith("q_proj.weight") else kv_heads)
        writer.add_tensor(f"{names.get_name(name.removesuffix('.weight'))}.weight", array)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _add_vocabulary(writer: gguf.GGUFWriter, tokens: Sequence[str]) -> None:
    if not tokens:
        writer.add_tokenizer_model("none")
        return
    begin, end = len(tokens) - 2, len(tokens) - 1
    kinds = [gguf.TokenType.NORMAL] * begin + [gguf.TokenType.CONTROL] * 2
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(list(tokens))
    writer.add_token_types(kinds)
    writer.add_token_merges(["h e"])
    writer.add_bos_token_id(begin)
    writer.add_eos_token_id(end)
    writer.add_chat_template(
        "{% for message in messages %}" + tokens[begin] + "{{ message['content'] }}" + tokens[end] + "{% endfor %}"
    )


def float32_weights(path: Path) -> Weights:
    """A safetensors file of F32 or BF16; numpy has no bf16, which is the upper half of an F32."""
    data = path.read_bytes()
    size = int.from_bytes(data[:8], "little")
    weights = Weights()
    for name, entry in json.loads(data[8 : 8 + size]).items():
        if name == "__metadata__":
            continue
        begin, end = (8 + size + offset for offset in entry["data_offsets"])
        raw = np.frombuffer(data[begin:end], "<f4" if entry["dtype"] == "F32" else "<u2")
        if entry["dtype"] == "BF16":
            raw = (raw.astype(np.uint32) << 16).view(np.float32)
        weights[name] = raw.reshape(entry["shape"])
    return weights


def llama_logits(model_file: Path, adapters: Mapping[str, Path | None], ids: Sequence[int]) -> dict[str, Array]:
    """Logits of every token by llama.cpp, for each adapter file (None: the base)."""
    model = Model(model_file)
    context = Context(model, 256, 1, 256, os.cpu_count() or 1, float32_cache=True)
    found: dict[str, Array] = {}
    for name, file in adapters.items():
        lora = Lora(model, file) if file is not None else None
        context.use_adapter(lora)
        context.keep(0, 0)
        context.decode([Entry(token, at, 0, True) for at, token in enumerate(ids)])
        found[name] = np.stack([context.logits(at).copy() for at in range(len(ids))])
        context.use_adapter(None)
        if lora is not None:
            lora.close()
    context.close()
    model.close()
    return found


def torch_side(jobs: Sequence[Mapping[str, Any]], folder: Path) -> Mapping[str, NDArray[Any]]:
    """Run `benchmarks.peft_logits` on the jobs; one start of torch for all of them."""
    asked, answered = folder / "jobs.json", folder / "answers.npz"
    asked.write_text(json.dumps(list(jobs)))
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error", "TQDM_DISABLE": "1"}
    command = [sys.executable, "-m", "benchmarks.peft_logits", str(asked), str(answered)]
    subprocess.run(command, check=True, env=environment, stdin=subprocess.DEVNULL)
    with np.load(answered) as file:
        return dict(file)


@dataclass(frozen=True)
class Subject:
    """A model on both sides, with its adapters on both sides."""

    name: str
    directory: Path
    model_file: Path
    ids: tuple[int, ...]
    adapters: Mapping[str, Path]
    """Targets -> PEFT directory."""

    @classmethod
    def make(cls, name: str, directory: Path, folder: Path, singly: bool = True, scale: float = 0.1) -> Subject:
        """Adapters for the model in `directory`: one per module if `singly`, and one for all."""
        config = json.loads((directory / "config.json").read_text(encoding="utf-8"))
        names = list(modules(config))
        chosen = ({module: [module] for module in names} if singly else {}) | {ALL: names}
        adapters = {key: random_adapter(folder / key, config, targets, scale) for key, targets in chosen.items()}
        ids = np.random.default_rng(3).integers(3, config["vocab_size"], 24)
        file = write_gguf(directory, folder / "base.gguf")
        return cls(name, directory, file, tuple(int(token) for token in ids), adapters)

    def jobs(self) -> list[dict[str, Any]]:
        """What `torch_side` is to compute."""
        job = {"model": str(self.directory), "ids": self.ids}
        base = job | {"key": self.name, "adapter": None}
        return [base, *(job | {"key": f"{self.name}/{key}", "adapter": str(at)} for key, at in self.adapters.items())]

    def rows(self, answers: Mapping[str, NDArray[Any]]) -> list[Row]:
        """Compare; first the base itself."""
        files: dict[str, Path | None] = {"": None}
        for key, adapter in self.adapters.items():
            files[key] = adapter / "adapter.gguf"
            convert(adapter, read_base(self.model_file), LIMITS, adapter / "adapter.gguf")
        base = answers[self.name]
        rows: list[Row] = []
        for key, ours in llama_logits(self.model_file, files, self.ids).items():
            theirs = answers[f"{self.name}/{key}"] if key else base
            change = float(np.abs(theirs - base).max()) if key else float(np.ptp(base))
            rows.append(Row(self.name, key or "(base)", float(np.abs(ours - theirs).max()), change))
        return rows


def measure(folder: Path) -> list[Row]:
    """Both models."""
    home = folder / "home"
    weights = asyncio.run(ensure_base_weights(load_config(folder / "none.toml"), home, lambda _step: None))
    subjects = [
        Subject.make("random llama", random_model(folder / "tiny"), folder / "tiny-adapters"),
        Subject.make("SmolLM2-135M", weights.directory, folder / "adapters"),
    ]
    answers = torch_side([job for subject in subjects for job in subject.jobs()], folder)
    return [row for subject in subjects for row in subject.rows(answers)]


def main(argv: Sequence[str] | None = None) -> int:
    """Print the table; 1 if a difference is too large."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", action="store_true", help="one JSON object instead of the table")
    arguments = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as folder:
        rows = measure(Path(folder))
    if arguments.json:
        print(json.dumps([asdict(row) for row in rows]))
    else:
        print(f"{'model':14} {'adapter on':12} {'max difference':>15} {'max change':>11}")
        for row in rows:
            print(f"{row.model:14} {row.targets:12} {row.difference:15.2e} {row.change:11.2f}")
    return int(any(row.difference > TOLERANCE * row.change for row in rows))


if __name__ == "__main__":
    raise SystemExit(main())
