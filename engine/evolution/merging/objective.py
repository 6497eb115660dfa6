"""How well a weighted sum of adapters answers some examples: what `cat-learned` minimizes. The only module with torch.

The adapters are not merged for each trial. Each adapted module gets a hook that adds B (w * (A x)), with the factors of
all adapters side by side and their scalars in w, so a trial is one forward pass with another w. After the learned
concatenation of LoRA Soups (arXiv 2410.13025), with one scalar for each adapter and no gradients.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from engine.errors import TrainingError
from engine.evolution.merging.factors import AdapterFactors
from engine.evolution.merging.job import Tell
from engine.evolution.merging.population import modules_of, read_all
from engine.evolution.merging.search import minimize
from engine.evolution.merging.spec import Example, Learning, Merge, MergeRefusedError
from engine.training.qlora.data import Encoder
from engine.training.qlora.data import Example as Tokens
from engine.training.qlora.loss import AnswerLoss
from engine.training.spec import DataRow, Turn

MAX_TOKENS = 2048
"""Of an example; longer ones are left out."""


class WeightedSum:
    """The adapters on the model, each with a scalar that can be changed."""

    def __init__(self, model: Any, adapters: Sequence[AdapterFactors]) -> None:
        """
        Raises:
            MergeRefusedError: an adapter has a module that the model has not.
        """
        self._adapters = len(adapters)
        self._scalars = torch.ones(self._adapters)
        for name in modules_of(adapters):
            self._adapt(model, name, adapters)

    def set(self, scalars: Sequence[float]) -> None:
        """From now on, adapter i counts `scalars[i]` times."""
        self._scalars = torch.tensor(scalars)

    def _adapt(self, model: Any, name: str, adapters: Sequence[AdapterFactors]) -> None:
        try:
            module = model.get_submodule(name)
        except AttributeError as error:
            raise MergeRefusedError(f"The base model has no module {name}.") from error
        found = {index: factors for index, one in enumerate(adapters) if (factors := one.factors(name)) is not None}
        a = torch.from_numpy(np.concatenate([factors.a for factors in found.values()]))
        b = torch.from_numpy(np.concatenate([factors.b for factors in found.values()], axis=1))
        owner = torch.tensor([index for index, factors in found.items() for _ in range(factors.rank)])
        if tuple(module.weight.shape) != (b.shape[0], a.shape[1]):
            raise MergeRefusedError(f"The adapters do not fit the base model at {name}.")
        module.register_forward_hook(partial(self._add, a, b, owner))

    def _add(
        self, a: Tensor, b: Tensor, owner: Tensor, _module: object, inputs: tuple[Tensor], output: Tensor
    ) -> Tensor:
        inner = inputs[0].to(a.dtype) @ a.T
        return output + ((inner * self._scalars[owner]) @ b.T).to(output.dtype)


class Objective:
    """Mean over groups of the mean -log p of an answer token, in nats, by the adapters' scalars."""

    def __init__(self, model: Any, sum_: WeightedSum, groups: Mapping[str, Sequence[Tokens]], padding: int) -> None:
        self._sum = sum_
        self._groups = groups
        self._loss = AnswerLoss(model, torch.device("cpu"), padding)

    def __call__(self, scalars: tuple[float, ...]) -> float:
        """One forward pass over each group."""
        self._sum.set(scalars)
        with torch.no_grad():
            return sum(map(self._mean, self._groups.values())) / len(self._groups)

    def _mean(self, examples: Sequence[Tokens]) -> float:
        # One at a time: they differ in length, and padding would cost more than batching saves.
        total = sum(float(self._loss([example])) for example in examples)
        return total / sum(example.answer for example in examples)


def learn_weights(spec: Merge, tell: Tell) -> tuple[float, ...]:
    """The scalars under which the adapters together answer the spec's examples best.

    Raises:
        MergeRefusedError: there is nothing to learn from, the base model cannot be loaded, or does not fit.
        AdapterRejected: an adapter cannot be read.
    """
    learning = spec.learning
    if learning is None:
        raise MergeRefusedError("There is nothing to learn the scalars from.")
    if learning.evaluations < len(spec.parents) + 2:
        raise MergeRefusedError(
            f"{learning.evaluations} evaluations are too few to weigh {len(spec.parents)} adapters: merge fewer."
        )
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    tell(0, learning.evaluations, "loading the base model")
    model, tokenizer = _load(learning)
    groups = tokenized(learning.examples, Encoder(tokenizer))
    adapters = read_all(spec.parents, spec.limits)
    objective = Objective(model, WeightedSum(model, adapters), groups, tokenizer.eos_token_id or 0)
    tried = 0

    def evaluate(scalars: tuple[float, ...]) -> float:
        nonlocal tried
        value = objective(scalars)
        tried += 1
        tell(tried, learning.evaluations, f"scalars tried; loss {value:.3f}")
        return value

    return minimize(evaluate, len(spec.parents), learning.evaluations).point


def _load(learning: Learning) -> tuple[Any, Any]:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    options: dict[str, Any] = {"local_files_only": True}
    try:
        tokenizer: Any = AutoTokenizer.from_pretrained(learning.base_directory, **options)
        model: Any = AutoModelForCausalLM.from_pretrained(
            learning.base_directory, dtype=torch.float32, use_safetensors=True, **options
        )
    except (OSError, ValueError) as error:
        raise MergeRefusedError(f"The base model cannot be loaded: {error}") from error
    return model.requires_grad_(False).eval(), tokenizer


def tokenized(examples: Sequence[Example], encoder: Encoder) -> dict[str, list[Tokens]]:
    """Examples by group, as the model is asked them; without those that are too long.

    Raises:
        MergeRefusedError: none is left, or the chat template does not take one.
    """
    groups: dict[str, list[Tokens]] = {}
    for example in examples:
        turns = tuple(Turn(role=role, content=content) for role, content in example.messages)
        try:
            tokens = encoder.encode(DataRow(messages=turns, completion=example.completion))
        except TrainingError as error:
            raise MergeRefusedError(str(error)) from error
        if len(tokens.tokens) <= MAX_TOKENS:
            groups.setdefault(example.group, []).append(tokens)
    if not groups:
        raise MergeRefusedError(f"Every example is longer than {MAX_TOKENS} tokens.")
    return groups
