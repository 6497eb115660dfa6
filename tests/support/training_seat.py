"""A device with nobody else on it: hands itself to each trainer at once. The real owner is in the end-to-end test."""

from __future__ import annotations

import asyncio

from engine.device.contracts import Trainer, TrainerEnd
from engine.device.wishes import STOPS


class EmptySeat:
    """Implements `engine.training.worker.Seat` as `engine.device.owner.Device` does, without a model server."""

    def __init__(self) -> None:
        self.order: list[str] = []
        self.refuse = ""
        """Why memory is not proven: then nothing is started."""
        self.stops = False
        """The engine stops."""
        self._run: asyncio.Task[TrainerEnd] | None = None
        self._id = ""
        self.taken = asyncio.Event()

    async def train(self, trainer: Trainer) -> TrainerEnd:
        self.order.append(trainer.job_id)
        self.taken.set()
        if self.refuse or self.stops:
            await trainer.publish()
            return TrainerEnd(False, STOPS if self.stops else self.refuse)
        self._id = trainer.job_id
        async with asyncio.TaskGroup() as group:
            self._run = group.create_task(trainer.run(1))
            await asyncio.wait([self._run])
        end = TrainerEnd(False, "it was stopped") if self._run.cancelled() else self._run.result()
        self._run = None
        await trainer.publish()
        return end

    def cancel_training(self, job_id: str) -> None:
        if self._run is not None and self._id == job_id:
            self._run.cancel()
