"""What a training job will take, before anything runs: steps, memory, seconds. Pure arithmetic on a model's numbers.

The memory of a trainer is the sum of

    the process       libraries, allocator, on a GPU its context
    the base          NF4 with double quantization 0.52 bytes a weight, else the compute type's; embeddings always that
    the adapter       of each weight: value, gradient, two moments of AdamW, the best so far: 4 bytes each
    activations       what autograd keeps of one micro-batch, per layer and token
    the output layer  logits of the answer tokens, their softmax and its gradient
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from engine.config import TrainSection
from engine.errors import TrainingError

MIB = 1 << 20
PROCESS_MIB = 620
"""Resident besides the model: torch, transformers, peft, bitsandbytes, and what loading leaves behind."""
CUDA_MIB = 700
"""Of the GPU: its context, cuBLAS workspaces, kernels."""
CUDA_HOST_MIB = 2048
"""Of the machine: an allowance for CUDA's libraries and its context."""
HALF_BYTES = 2
"""A weight as it stands in the file of a base model: bfloat16 or float16."""
NF4_BYTES = 0.52
"""Half a byte, and an 8-bit scale for 64 weights."""
CHARACTERS_PER_TOKEN = 3.0
"""Of code and English; a tokenizer's mean is 3.2 to 4, and an estimate should not be too small."""
FRAGMENTS = 1.4
"""What is held beyond what the formulas count: temporaries of a layer, holes of the allocator. Measured on the CPU with
SmolLM2, NF4 and not, bfloat16 and float32: with it the estimate is 0 to 11 % above the peak."""
ADAPTER_BYTES = 20
"""Value, gradient, two moments, the best so far: float32 each."""


@dataclass(frozen=True)
class ModelShape:
    """The numbers of a decoder-only transformer that its memory follows from."""

    vocabulary: int
    hidden: int
    intermediate: int
    layers: int
    query: int
    """Width of all query heads together."""
    key: int
    """Width of all key heads together; that of the values."""
    tied: bool
    """The output layer is the embedding."""

    @property
    def linears(self) -> dict[str, tuple[int, int]]:
        """(in, out) of one layer's linear modules by name."""
        return {
            "q_proj": (self.hidden, self.query),
            "k_proj": (self.hidden, self.key),
            "v_proj": (self.hidden, self.key),
            "o_proj": (self.query, self.hidden),
            "gate_proj": (self.hidden, self.intermediate),
            "up_proj": (self.hidden, self.intermediate),
            "down_proj": (self.intermediate, self.hidden),
        }

    @property
    def linear_weights(self) -> int:
        """Of all layers."""
        return self.layers * sum(rows * columns for rows, columns in self.linears.values())

    @property
    def embedding_weights(self) -> int:
        """With those of the output layer, where it has its own."""
        return self.vocabulary * self.hidden * (1 if self.tied else 2)


def read_shape(directory: Path) -> ModelShape:
    """The shape of the model in a Hugging Face directory. Reads one small file.

    Raises:
        TrainingError: its config.json is not there, or does not have the numbers.
    """
    try:
        config = cast("object", json.loads((directory / "config.json").read_bytes()))
        if not isinstance(config, dict):
            raise TypeError("it is not an object")
        return _shape(cast("dict[str, Any]", config))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise TrainingError(f"The base model's config.json does not say its size: {error}") from error


def _shape(config: Mapping[str, Any]) -> ModelShape:
    hidden, heads = int(config["hidden_size"]), int(config["num_attention_heads"])
    head = int(config.get("head_dim") or hidden // heads)
    return ModelShape(
        vocabulary=int(config["vocab_size"]),
        hidden=hidden,
        intermediate=int(config["intermediate_size"]),
        layers=int(config["num_hidden_layers"]),
        query=heads * head,
        key=int(config.get("num_key_value_heads") or heads) * head,
        tied=bool(config.get("tie_word_embeddings", True)),
    )


def adapter_parameters(shape: ModelShape, recipe: TrainSection) -> int:
    """Weights that are trained. A target that is no linear module of the shape counts as the largest one."""
    linears, targets = shape.linears, recipe.targets
    largest = max(sum(sizes) for sizes in linears.values())
    chosen = list(linears) if targets.strip() == "all-linear" else [name.strip() for name in targets.split(",")]
    layers = max(1, shape.layers - recipe.first_layer)

    def weights(target: str) -> int:
        *place, name = target.split(".")
        one = sum(linears[name]) if name in linears else largest
        return one if any(part.isdigit() for part in place) else layers * one  # `layers.12.mlp.up_proj` is one module

    return recipe.rank * sum(map(weights, chosen))


def peak_mib(
    shape: ModelShape,
    recipe: TrainSection,
    *,
    bf16: bool,
    gpu: bool,
    longest: int | None = None,
    longest_answer: int | None = None,
) -> int:
    """The trainer's peak, of the GPU's memory or of the machine's.

    Args:
        bf16: whether it computes in bfloat16 (GPU, or a CPU with units for it) or in float32.
        longest: tokens of the longest example, where it is known to be under `recipe.max_tokens`.
        longest_answer: tokens of the longest answer; None means that an example may be all answer.
    """
    width = 2 if bf16 else 4
    sequences = min(recipe.micro_batch, recipe.batch_size)
    tokens = min(longest or recipe.max_tokens, recipe.max_tokens)
    answer = min(longest_answer or tokens, tokens)
    base = shape.linear_weights * (NF4_BYTES if recipe.method == "qlora" else width) + shape.embedding_weights * width
    adapter = adapter_parameters(shape, recipe) * ADAPTER_BYTES
    activations = tokens * max(1, shape.layers - recipe.first_layer) * _activation_bytes(shape, bf16=bf16)
    moving = sequences * (activations + answer * _logit_bytes(shape, width))
    process = CUDA_MIB if gpu else PROCESS_MIB
    return math.ceil(process + (base + adapter + FRAGMENTS * moving) / MIB)


def host_mib(shape: ModelShape) -> int:
    """What a trainer on a GPU takes of the machine's memory: its process, CUDA's share, the base on its way through.

    An estimate that nobody has measured: the weights are read in files, and at worst all of them are there at once.
    """
    weights = shape.linear_weights + shape.embedding_weights
    return PROCESS_MIB + CUDA_HOST_MIB + math.ceil(weights * HALF_BYTES / MIB)


def _activation_bytes(shape: ModelShape, *, bf16: bool) -> int:
    """What autograd keeps of one token in one layer, from the operations that need their input again.

    In bfloat16 each LoRA has a cast copy of its own input; in float32 neighbours share it.
    """
    if bf16:
        norms, inputs = 8 * shape.hidden, 10 * shape.hidden + 2 * shape.query + 2 * shape.intermediate
        return norms + inputs + 8 * shape.query + 6 * shape.intermediate
    norms, inputs = 8 * shape.hidden, 8 * shape.hidden + 4 * shape.query + 4 * shape.intermediate
    return norms + inputs + 16 * shape.query + 12 * shape.intermediate


def _logit_bytes(shape: ModelShape, width: int) -> int:
    """Of one answer token: logits, in float32, their log-softmax and its gradient, the gradient of the logits."""
    return shape.vocabulary * (2 * width + 12)


def steps_per_epoch(examples: int, recipe: TrainSection) -> int:
    """Optimizer steps of one pass over the data; the last may be smaller."""
    return max(1, math.ceil(examples / recipe.batch_size))


def planned_steps(examples: int, recipe: TrainSection) -> int:
    """Optimizer steps of the whole job: as many as the epochs take, at most `max_steps` where that is not 0."""
    steps = recipe.epochs * steps_per_epoch(examples, recipe)
    return min(steps, recipe.max_steps) if recipe.max_steps else steps


def estimated_tokens(characters: int) -> int:
    """Tokens of a text of that length, where no tokenizer is at hand."""
    return math.ceil(characters / CHARACTERS_PER_TOKEN)


def trained_tokens(tokens: int, examples: int, recipe: TrainSection) -> int:
    """Tokens that all steps see together, of a data set of `examples` with `tokens` in all."""
    if not examples:
        return 0
    sequences = planned_steps(examples, recipe) * min(recipe.batch_size, examples)
    return round(tokens * min(sequences / examples, recipe.epochs))


def seconds(trained: int, tokens_per_second: float, start_seconds: float) -> float:
    """How long a job takes, from what an earlier one on this machine showed."""
    return start_seconds + trained / tokens_per_second
