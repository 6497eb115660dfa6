"""The directory of one training job: RUNE_HOME/training/jobs/<id>/. Everything here blocks.

spec.json      what the trainer child is asked; written anew for each attempt
checkpoints/   the child's; an attempt goes on from what the one before left
output/        the finished PEFT directory, whole or absent
result.json    its metrics; written last, so where it is, training is over and only publishing is left
adapter.gguf   the same weights converted, for as long as it takes to publish them
kill-switch/   what the kill switch asks, and how the model did (`kill_switch`)
trainer.log    what the child and its libraries said
"""

from __future__ import annotations

import os
import shutil
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from engine.training.protocol import Metrics
from engine.training.spec import TrainSpec
from registry.files import sync_directory

WEIGHTS = "adapter_model.safetensors"


@dataclass(frozen=True)
class Workplace:
    """Where one job is worked on."""

    root: Path

    @classmethod
    def of_job(cls, home: Path, job_id: str) -> Workplace:
        """The place of that job in that home; not made yet."""
        return cls(cls.all(home) / job_id)

    @staticmethod
    def all(home: Path) -> Path:
        """Where the places of all jobs are."""
        return home / "training" / "jobs"

    @property
    def spec(self) -> Path:
        """What the child is asked."""
        return self.root / "spec.json"

    @property
    def output(self) -> Path:
        """The finished adapter."""
        return self.root / "output"

    @property
    def checkpoints(self) -> Path:
        """What an interrupted attempt goes on from."""
        return self.root / "checkpoints"

    @property
    def kill_switch(self) -> Path:
        """The files of the kill switch."""
        return self.root / "kill-switch"

    @property
    def gguf(self) -> Path:
        """The adapter as llama.cpp reads it."""
        return self.root / "adapter.gguf"

    @property
    def log(self) -> Path:
        """The child's standard error."""
        return self.root / "trainer.log"

    @property
    def _result(self) -> Path:
        return self.root / "result.json"

    def prepare(self, *, from_scratch: bool) -> None:
        """Make the directories; with `from_scratch`, without what an earlier attempt left."""
        if from_scratch:
            self.remove()
        self.checkpoints.mkdir(mode=0o700, parents=True, exist_ok=True)

    def begin(self, spec: TrainSpec) -> None:
        """Write what the child is to read. An output without a result is one that was not finished."""
        with suppress(FileNotFoundError):
            shutil.rmtree(self.output)
        spec.write(self.spec)

    def finish(self, metrics: Metrics) -> None:
        """Note, durably, that the output is whole and what its metrics are."""
        temporary = self._result.with_suffix(".tmp")
        with temporary.open("w", encoding="utf-8") as file:
            file.write(metrics.model_dump_json())
            file.flush()
            os.fsync(file.fileno())
        os.rename(temporary, self._result)
        sync_directory(self.root)

    def result(self) -> Metrics | None:
        """The metrics of an attempt that finished but was not published; None where none did."""
        try:
            metrics = Metrics.model_validate_json(self._result.read_bytes())
        except (OSError, ValidationError):
            return None
        return metrics if (self.output / WEIGHTS).is_file() else None

    def remove(self) -> None:
        """Give the disk back: it was published, or is to be made anew."""
        with suppress(FileNotFoundError):
            shutil.rmtree(self.root)
