"""AdamW over the adapter's weights, with a state that can be saved by name."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn.utils import clip_grad_norm_

from engine.config import TrainSection
from engine.training.qlora.model import Learner

MOMENTS = ("exp_avg", "exp_avg_sq")


class Optimizer:
    """One update per step. The only state beyond the weights is two moments of each, and the number of steps."""

    def __init__(self, learner: Learner, recipe: TrainSection) -> None:
        self._parameters = learner.parameters
        self._max_grad_norm = recipe.max_grad_norm
        self._adam = torch.optim.AdamW(
            list(learner.parameters.values()), lr=recipe.learning_rate, weight_decay=recipe.weight_decay, fused=True
        )

    def clear(self) -> None:
        """Forget the gradients."""
        self._adam.zero_grad(set_to_none=True)

    def clip(self) -> float:
        """Clip the gradients to the recipe's norm; returns their norm before, which may be infinite."""
        return float(clip_grad_norm_(self._parameters.values(), self._max_grad_norm))

    def step(self, learning_rate: float) -> None:
        """Update the weights and forget the gradients."""
        for group in self._adam.param_groups:
            group["lr"] = learning_rate
        self._adam.step()
        self.clear()

    def tensors(self) -> dict[str, Tensor]:
        """The moments, `<weight>.exp_avg` and `<weight>.exp_avg_sq`; empty before the first step."""
        return {
            f"{name}.{moment}": self._adam.state[parameter][moment]
            for name, parameter in self._parameters.items()
            if parameter in self._adam.state
            for moment in MOMENTS
        }

    def load(self, tensors: Mapping[str, Tensor], step: int) -> None:
        """Put saved moments back; `step` is how many updates made them."""
        state = {
            index: {"step": torch.tensor(float(step)), **{moment: tensors[f"{name}.{moment}"] for moment in MOMENTS}}
            for index, name in enumerate(self._parameters)
            if f"{name}.{MOMENTS[0]}" in tensors
        }
        self._adam.load_state_dict({"state": state, "param_groups": self._adam.state_dict()["param_groups"]})
