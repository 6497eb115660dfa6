"""A base model that trains in a blink: a random Llama of 2 layers with a byte-level tokenizer, as a Hugging Face
directory. Made with numpy and `tokenizers`, so that a test that only starts a trainer never imports torch.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
CORPUS = ("def add(a, b):\n    return a + b\n", "Write a function that adds two numbers.", "system user assistant")
CONFIG: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 512,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "hidden_act": "silu",
    "tie_word_embeddings": True,
    "bos_token_id": 0,
    "eos_token_id": 2,
    "pad_token_id": 0,
    "attention_bias": False,
    "mlp_bias": False,
    "torch_dtype": "float32",
}


def make_tiny_base(directory: Path, seed: int = 0, template: str = TEMPLATE) -> Path:
    """Write config, weights and tokenizer; returns the directory."""
    directory.mkdir(parents=True, exist_ok=True)
    tokenizer = _tokenizer()
    config = {**CONFIG, "vocab_size": tokenizer.get_vocab_size()}
    (directory / "config.json").write_text(json.dumps(config))
    save_file(_weights(config, seed), directory / "model.safetensors", metadata={"format": "pt"})
    tokenizer.save(str(directory / "tokenizer.json"))
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": "<|endoftext|>",
        "eos_token": "<|endoftext|>",
        "pad_token": "<|endoftext|>",
        "additional_special_tokens": list(SPECIAL[1:]),
        "chat_template": template,
    }
    (directory / "tokenizer_config.json").write_text(json.dumps(settings))
    return directory


def _tokenizer() -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=list(SPECIAL),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    return tokenizer


def _weights(config: dict[str, Any], seed: int) -> dict[str, NDArray[np.float32]]:
    randomness = np.random.default_rng(seed)
    hidden, wide = config["hidden_size"], config["intermediate_size"]
    narrow = config["num_key_value_heads"] * config["head_dim"]

    def matrix(rows: int, columns: int) -> NDArray[np.float32]:
        return (randomness.standard_normal((rows, columns)) / np.sqrt(columns)).astype(np.float32)

    weights = {"model.embed_tokens.weight": matrix(config["vocab_size"], hidden)}
    weights["model.norm.weight"] = np.ones(hidden, np.float32)
    for layer in range(config["num_hidden_layers"]):
        prefix = f"model.layers.{layer}."
        shapes = {"q_proj": (hidden, hidden), "k_proj": (narrow, hidden), "v_proj": (narrow, hidden)}
        for name, shape in {**shapes, "o_proj": (hidden, hidden)}.items():
            weights[f"{prefix}self_attn.{name}.weight"] = matrix(*shape)
        for name, shape in {
            "gate_proj": (wide, hidden),
            "up_proj": (wide, hidden),
            "down_proj": (hidden, wide),
        }.items():
            weights[f"{prefix}mlp.{name}.weight"] = matrix(*shape)
        for name in ("input_layernorm", "post_attention_layernorm"):
            weights[f"{prefix}{name}.weight"] = np.ones(hidden, np.float32)
    return weights


def addition_rows(count: int, held_out: int = 0) -> list[dict[str, Any]]:
    """Rows of a small task, of different lengths, answers included; the last `held_out` are held out."""
    rows: list[dict[str, Any]] = []
    for number in range(count):
        name = f"add_{number}"
        question = f"Write a function {name} that adds {number} to a number." + " Be brief." * (number % 4)
        rows.append(
            {
                "messages": [{"role": "user", "content": question}],
                "completion": f"def {name}(a):\n    return a + {number}\n" + "# done\n" * (number % 3),
                "task": f"task-{number}",
                "held_out": number >= count - held_out,
            }
        )
    return rows


def write_rows(path: Path, rows: Sequence[dict[str, Any]]) -> Path:
    """As JSON Lines."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path
