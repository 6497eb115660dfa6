"""What the owner of the device asks of those it starts: the model server, the trainer, whoever measures memory.

The owner knows no backend and no training library; `engine.inference` and `engine.training` implement these. Every
call may be cancelled at any moment and must then leave nothing behind that `stop` would not end. Deadlines are the
owner's.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

from engine.api_device import BackendName


@dataclass(frozen=True)
class ProcessId:
    """A process for certain: its number may be given again, with its start time it never is."""

    pid: int
    start_time: int
    """Clock ticks since boot: field 22 of /proc/<pid>/stat."""


@dataclass(frozen=True)
class LiveAdapter:
    """An adapter that the model server holds, or is to hold."""

    name: str
    """Its digest: the name that requests select it by."""
    directory: str
    """Its immutable directory in the registry."""
    gguf_sha256: str | None = None
    """Of the converted form that was published beside it; None where there is none, or nobody knows."""


@dataclass(frozen=True)
class Utterance:
    """Greedy tokens of one model with their log-probabilities."""

    tokens: tuple[str, ...]
    logprobs: tuple[float, ...]


@dataclass(frozen=True)
class Oracle:
    """What the server said while it was known to be right. A server that woke must say the same."""

    by_model: tuple[tuple[str, Utterance], ...]
    """The base model's name or an adapter's -> what it said; the base comes first."""


class OracleMismatchError(Exception):
    """The server answers otherwise than before it slept; the message says which model and how."""


class Server(Protocol):
    """One backend's model server under its guardian."""

    @property
    def backend(self) -> BackendName: ...

    @property
    def can_sleep(self) -> bool:
        """Whether `sleep` gives memory back without ending the process."""
        ...

    @property
    def can_load_adapters(self) -> bool: ...

    @property
    def need_mib(self) -> int:
        """Estimate of what it takes when it serves; proven free before `start`."""
        ...

    @property
    def process(self) -> ProcessId | None:
        """Its guardian's, while it lives."""
        ...

    async def start(self, epoch: int) -> None:
        """Start it and return when it answers.

        Raises:
            ProviderError: it did not come up; the message has the end of its log. Nothing of it is left.
        """
        ...

    async def stop(self) -> None:
        """End its whole tree; returns when every process of it is gone. Also when it never ran."""
        ...

    async def sleep(self) -> None:
        """Ask it to give its memory back; returns when it says that it sleeps.

        Raises:
            ProviderError: it did not; its memory is in an unknown state.
        """
        ...

    async def wake(self) -> None:
        """Ask it to take its memory back; returns when it says that it is awake.

        Raises:
            ProviderError: it did not; it must be stopped.
        """
        ...

    async def load_adapter(self, adapter: LiveAdapter) -> None:
        """Make an adapter selectable; one that is already held is left alone.

        Raises:
            ProviderError, AdapterUnsupportedError
        """
        ...

    async def unload_adapter(self, name: str) -> None: ...

    async def record(self, adapters: tuple[LiveAdapter, ...], *, base: bool = True) -> Oracle:
        """Greedy tokens of the base, unless it is left out, and of each adapter, as they are now."""
        ...

    async def verify(self, oracle: Oracle) -> None:
        """Compare with what was recorded.

        Raises:
            OracleMismatchError
            ProviderError: it did not answer.
        """
        ...

    async def died(self) -> str:
        """Return, with the reason, once the started process is gone without `stop` having been called."""
        ...


class Trainer(Protocol):
    """One training job's process tree under its guardian."""

    @property
    def job_id(self) -> str: ...

    @property
    def need_mib(self) -> int:
        """Estimate of its peak; proven free before `run`."""
        ...

    @property
    def host_mib(self) -> int:
        """Estimate of what it takes of the machine's memory beside a GPU's; 0 where the device is the machine."""
        ...

    @property
    def process(self) -> ProcessId | None: ...

    async def run(self, epoch: int) -> TrainerEnd:
        """Start it, follow it to its end, and return when its whole tree is gone.

        Cancelling asks it to write a checkpoint, waits for `device.trainer_grace_s`, and ends the tree.
        A trainer that is silent for three heartbeats is ended too. Never raises for what the trainer did.
        """
        ...

    async def publish(self) -> LiveAdapter | None:
        """Put what `run` made into the registry and end the job, in one transaction; None where there is nothing.

        Called in RECLAIMING, after the tree is gone, whatever the end was: it settles the job's row in each case.
        """
        ...


@dataclass(frozen=True)
class TrainerEnd:
    """How a trainer ended."""

    succeeded: bool
    reason: str
    """One sentence; empty when it succeeded."""
    retry_smaller: bool = False
    """It ran out of memory before its first step, and would need less with a smaller micro-batch."""


@dataclass(frozen=True)
class MemorySample:
    """The device's memory at one moment."""

    free_mib: int
    total_mib: int
    holders: tuple[MemoryHolder, ...] = field(default=())
    """Processes that compute on it, as far as the driver names them; always empty on a CPU."""


@dataclass(frozen=True)
class MemoryHolder:
    """A process that holds memory of the device."""

    pid: int
    command: str
    mib: int | None
    """None where the driver does not say."""


class Memory(Protocol):
    """Measures the device. Blocking work is done in a thread."""

    @property
    def device_id(self) -> str:
        """`gpu-<UUID>` or `cpu`."""
        ...

    async def sample(self) -> MemorySample:
        """Raises `DeviceLostError` when the driver does not answer for it any more."""
        ...
