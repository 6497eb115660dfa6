"""Faults on demand, for tests: `RUNE_TRAIN_FAULT=oom:STEP:FIT` or `RUNE_TRAIN_FAULT=nan:STEP`.

`oom:4:2`  from step 4 on, more than 2 sequences at a time do not fit into memory (`oom:4:0`: not even one)
`nan:4`    the loss of step 4 is not a number
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from engine.errors import TrainingError
from engine.training.protocol import FAULT_VARIABLE


@dataclass(frozen=True)
class Fault:
    """What goes wrong and when; `kind` is empty where nothing does."""

    kind: str = ""
    step: int = 0
    fit: int = 0
    """With `oom`: how many sequences still fit."""

    def strikes_memory(self, step: int, sequences: int) -> bool:
        """Whether that many sequences of this 1-based step run out of memory."""
        return self.kind == "oom" and step >= self.step and sequences > self.fit

    def strikes_loss(self, step: int) -> bool:
        """Whether the loss of this 1-based step is not a number."""
        return self.kind == "nan" and step == self.step


def read_fault(environment: Mapping[str, str]) -> Fault:
    """The fault that the environment asks for.

    Raises:
        TrainingError: it asks for none that there is.
    """
    value = environment.get(FAULT_VARIABLE, "")
    match value.split(":"):
        case [""]:
            return Fault()
        case ["oom", step, fit] if step.isdecimal() and fit.isdecimal():
            return Fault("oom", int(step), int(fit))
        case ["nan", step] if step.isdecimal():
            return Fault("nan", int(step))
        case _:
            raise TrainingError(f"{FAULT_VARIABLE}={value!r}: write oom:STEP:FIT or nan:STEP.")
