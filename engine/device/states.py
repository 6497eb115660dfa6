"""What the scheduler knows: one frozen `Snapshot`, and the limits that it decides by."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from types import MappingProxyType

from engine.api_device import BackendName, DeviceState
from engine.device.contracts import TrainerEnd


class Desired(StrEnum):
    """What somebody wants the device for."""

    SERVE = "serve"
    TRAIN = "train"
    OFF = "off"
    """Nobody asked for a model server yet, or the engine stops."""


class ServerCondition(StrEnum):
    """Where the model server's process tree is."""

    GONE = "gone"
    AWAKE = "awake"
    ASLEEP = "asleep"
    DEAD = "dead"
    """It died, or nobody knows how it is: its tree must be ended before another one starts."""


class FaultKind(StrEnum):
    """Why the device cannot be used."""

    FOREIGN = "foreign"
    """A process that is not ours computes on it."""
    HELD = "held"
    """Another engine owns it."""
    LOST = "lost"
    """The driver does not answer for it."""
    STARTS = "starts"
    """The model server does not come up."""
    STUCK = "stuck"
    """Something of ours could not be ended or looked at in time."""


@dataclass(frozen=True)
class Job:
    """A training job that waits for the device, or has it."""

    id: str
    need_mib: int
    smaller: bool = False
    """It ran out of memory at its start and is tried once more with less."""
    cancelled: bool = False


@dataclass(frozen=True)
class Switch:
    """A change of the backend under way."""

    to: BackendName
    back: BackendName
    resume: bool
    """Whether the old one served: then it is started again if the new one fails."""
    failure: str = ""
    """Why the new one did not serve; from then on we are on the way back."""


@dataclass(frozen=True)
class Done:
    """A job whose end is known, to be told when the device is at rest again."""

    job_id: str
    end: TrainerEnd


@dataclass(frozen=True)
class Snapshot:
    """Everything that decisions depend on."""

    state: DeviceState
    reason: str
    backend: BackendName
    step: int = 0
    """Grows with each entry to a state: a deadline or an answer that names an older step is stale."""
    epoch: int = 0
    """Grows each time that the device changes hands; passed to children, so that a stale one is known."""
    server: ServerCondition = ServerCondition.GONE
    server_epoch: int = 0
    """The epoch that the present server was started in."""
    wanted: bool = False
    """Somebody asked for a model server; an engine that only lists sessions never starts one."""
    off: bool = False
    jobs: tuple[Job, ...] = ()
    """In their order; the first one has the device in PREFLIGHT, TRAINING and RECLAIMING."""
    end: TrainerEnd | None = None
    """How the first job ended, while its memory is reclaimed."""
    done: tuple[Done, ...] = ()
    switch: Switch | None = None
    fault: FaultKind | None = None
    proved_epoch: int = 0
    """The epoch in which free memory was last proven for a trainer."""
    verified_epoch: int = 0
    """The epoch in which the server's answers were last recorded or verified."""
    failed_starts: int = 0
    resting: bool = False
    """The pause after a failed start is not over."""
    wake_retried: bool = False
    leaking: bool = False
    """The sleeping server holds more than it did at first: it is restarted instead of woken."""
    distrusted: frozenset[BackendName] = frozenset()
    """Backends that answered wrongly after a wake: they are stopped instead of put to sleep."""
    known: frozenset[BackendName] = frozenset()
    """Backends whose answers were recorded."""

    @property
    def desired(self) -> Desired:
        """What is wanted now. A job goes before serving: requests can wait, and are given an ETA."""
        if self.off:
            return Desired.OFF
        if self.jobs:
            return Desired.TRAIN
        return Desired.SERVE if self.wanted or self.switch else Desired.OFF

    @property
    def job(self) -> Job | None:
        """The job that has, or is about to have, the device."""
        return self.jobs[0] if self.jobs else None

    @property
    def may_sleep(self) -> bool:
        """Whether the present server's sleep is trusted."""
        return self.backend not in self.distrusted


TRAIN_LIMIT_S = 7 * 86400.0
"""A trainer that hangs is ended by its heartbeat; this bounds one whose heart beats for ever."""


@dataclass(frozen=True)
class Policy:
    """How long each state may last, and what the backends can do. Seconds."""

    sleepers: frozenset[BackendName]
    """Backends whose server gives memory back without ending."""
    drain_s: float
    sleep_s: float
    settle_s: float
    trainer_grace_s: float
    start_tries: int
    start_s: Mapping[BackendName, float] = field(default_factory=lambda: MappingProxyType({}))
    """How long each backend's own start may take; what is missing has `START_S`."""
    reconcile_s: float = 60.0
    """15 s for a dying guardian to let go of the lock, as much again for each tree to be ended."""
    stop_s: float = 60.0
    """A server's own grace period is a fraction of it; what lives on after KILL is stuck in the kernel."""
    verify_s: float = 120.0
    """Some greedy tokens of the base and of each live adapter, on a slow CPU."""
    publish_s: float = 900.0
    """Checking, converting and copying an adapter of `registry.max_adapter_mb` on a slow disk."""
    train_s: float = TRAIN_LIMIT_S
    fault_s: float = 60.0
    """Between two looks at a device that cannot be used."""
    wake_expected_s: float = 3.0
    """Learned from earlier wakes; this is the guess before the first."""
    settle_wake_s: float = 10.0
    """How long memory that a trainer held may take to come back before a wake is given up."""


START_S = 600.0
"""Of a model server, where the policy names nothing else."""
MARGIN_S = 5.0
"""What an effect's own deadline is exceeded by before the scheduler takes over."""
STABLE_S = 60.0
"""A server that served this long before it died does not count as one that fails to start."""
BACKOFF_LIMIT_S = 60.0


def backoff_s(failures: int) -> float:
    """Pause before the next start after that many failed ones: 1, 2, 4 ... 60 s."""
    assert failures >= 1
    return min(BACKOFF_LIMIT_S, 2.0 ** min(failures - 1, 10))
