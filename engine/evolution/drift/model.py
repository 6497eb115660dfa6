"""The base model with and without an adapter on the same text. The only module here with torch.

The adapter is not merged into the weights: each adapted module gets a hook that adds B (A x), and that can be switched
off, so both passes over a window are of one model in one process and differ in nothing but the adapter.
"""

from __future__ import annotations

import os
import resource
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from engine.evolution.drift.figures import Sums, compare, windows
from engine.evolution.drift.spec import DriftSpec, Figures, UnmeasuredError
from engine.evolution.merging.factors import AdapterFactors
from registry.safeload import AdapterLimits

Tell = Callable[[int, int], None]
"""Told how many windows of how many are done."""


class Overlay:
    """An adapter on a model, to be switched on and off."""

    def __init__(self, model: Any, adapter: AdapterFactors) -> None:
        """
        Raises:
            UnmeasuredError: a module of the adapter is not there, or has another shape.
        """
        self.on = False
        for name in sorted(adapter.shapes):
            self._adapt(model, name, adapter)

    def _adapt(self, model: Any, name: str, adapter: AdapterFactors) -> None:
        factors = adapter.factors(name)
        assert factors is not None, "the module is one of the adapter's"
        try:
            module = model.get_submodule(name)
        except AttributeError as error:
            raise UnmeasuredError(f"The base model has no module {name}.") from error
        weight = getattr(module, "weight", None)
        if weight is None or tuple(weight.shape) != adapter.shapes[name]:
            raise UnmeasuredError(f"The adapter does not fit the base model at {name}.")
        a, b = (torch.from_numpy(np.ascontiguousarray(part)) for part in (factors.a, factors.b))
        module.register_forward_hook(partial(self._add, a, b))

    def _add(self, a: Tensor, b: Tensor, _module: object, inputs: tuple[Tensor], output: Tensor) -> Tensor | None:
        if not self.on:
            return None
        return output + (inputs[0].to(a.dtype) @ a.T @ b.T).to(output.dtype)


def measure(spec: DriftSpec, tell: Tell) -> Figures:
    """Perplexity of both, and the KL divergence.

    Raises:
        UnmeasuredError: the base model cannot be loaded, or gives no numbers itself; the adapter does not fit it.
        AdapterRejected: the adapter cannot be read.
    """
    started = time.monotonic()
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    limits = AdapterLimits(spec.limits.max_bytes, spec.limits.max_rank)
    adapter = AdapterFactors(spec.adapter, limits)  # before the model: what cannot be read is said at once
    model, tokenizer = _load(spec)
    overlay = Overlay(model, adapter)
    tokens = tokenizer(spec.text, add_special_tokens=False, verbose=False)["input_ids"]
    pieces = windows(tokens)
    if not pieces:
        raise UnmeasuredError("The text has fewer than two tokens.")
    total = Sums()
    for number, piece in enumerate(pieces, 1):
        total += _window(model, overlay, piece)
        tell(number, len(pieces))
    if not np.isfinite(total.base):
        raise UnmeasuredError("The base model itself gives no numbers on the general text.")
    return Figures(
        tokens=total.positions,
        base_perplexity=total.base_perplexity,
        adapter_perplexity=total.candidate_perplexity,
        kl=total.mean_kl,
        seconds=time.monotonic() - started,
        peak_mib=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
    )


def _window(model: Any, overlay: Overlay, piece: tuple[int, ...]) -> Sums:
    tokens = torch.tensor([piece])

    def logits(*, on: bool) -> Any:
        overlay.on = on
        with torch.no_grad():
            return model(input_ids=tokens, use_cache=False).logits[0, :-1].float().numpy()

    return compare(logits(on=False), logits(on=True), np.array(piece[1:], dtype=np.int64))


def _load(spec: DriftSpec) -> tuple[Any, Any]:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    options: dict[str, Any] = {"local_files_only": True}
    try:
        tokenizer: Any = AutoTokenizer.from_pretrained(spec.base_directory, **options)
        model: Any = AutoModelForCausalLM.from_pretrained(
            spec.base_directory, dtype=torch.float32, use_safetensors=True, **options
        )
    except (OSError, ValueError) as error:
        raise UnmeasuredError(f"The base model cannot be loaded: {error}") from error
    return model.requires_grad_(False).eval(), tokenizer
