"""Trains a parent on: the control "as much again of the same, without any merging".

The job is one of the training queue like any other: it takes its turn at the device, writes checkpoints, and is there
after a restart. Its data is the parent's, by digest: what was verified since is not in it.
"""

from __future__ import annotations

from engine.evolution.improve_steps import TrainingSteps
from engine.evolution.learned import Learned
from engine.operations import Progress

EPOCHS = 1
"""Over the parent's data: the budget of a control that is to show what a merge was worth."""


class TrainingSchool:
    """Implements `seams.Schooling` by the engine's training queue."""

    def __init__(self, training: TrainingSteps, learned: Learned) -> None:
        self._training = training
        self._learned = learned

    async def train_on(self, adapter_id: str, new_id: str, progress: Progress) -> str:
        """See `Schooling`.

        Raises:
            NotFoundError: it was not trained in this home.
        """
        source = await self._learned.job_of(adapter_id)
        job = await self._training.train_longer(source, new_id, EPOCHS, progress)
        return f"{EPOCHS} more epoch of its own data: {job.progress.step if job.progress else 0} steps"

    async def give_up(self, new_id: str) -> None:
        """See `Schooling`."""
        await self._training.give_up(new_id)
