"""What the owner's mailbox holds (wishes and observations), and what it is told to do (effects). Plain data.

An observation carries the step of the state that asked for it: the scheduler drops one that comes too late.
"""

from __future__ import annotations

from dataclasses import dataclass

from engine.api_device import BackendName
from engine.device.contracts import TrainerEnd
from engine.device.states import FaultKind, Job

# --- wishes: they may come in any state -------------------------------------------------------------------------


@dataclass(frozen=True)
class ServeWanted:
    """A request waits for a model server."""


@dataclass(frozen=True)
class TrainWanted:
    """A job wants the device."""

    job: Job


@dataclass(frozen=True)
class TrainCancelled:
    """A job is not wanted any more; it writes a checkpoint if it runs."""

    job_id: str


@dataclass(frozen=True)
class SwitchWanted:
    """Another backend is to serve."""

    to: BackendName


@dataclass(frozen=True)
class RetryWanted:
    """Somebody has looked after the fault."""


@dataclass(frozen=True)
class OffWanted:
    """The engine stops."""


@dataclass(frozen=True)
class LookAround:
    """Compare what is wanted with what is, once more."""


Wish = LookAround | ServeWanted | TrainWanted | TrainCancelled | SwitchWanted | RetryWanted | OffWanted

# --- observations -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Expired:
    """The state's deadline, or its pause, is over."""

    step: int


@dataclass(frozen=True)
class Reconciled:
    """The lock is ours, no survivor is left, nobody else computes here."""

    step: int


@dataclass(frozen=True)
class Faulted:
    """The device cannot be used. From a reconciliation, a stop or a measurement."""

    step: int
    kind: FaultKind
    reason: str


@dataclass(frozen=True)
class ServerReady:
    """The server answers and holds the live adapters."""

    step: int
    recorded: bool
    """Its answers were recorded; otherwise they are to be compared with those of an earlier time."""


@dataclass(frozen=True)
class ServerFailed:
    """The server did not come up; nothing of it is left."""

    step: int
    reason: str
    permanent: bool = False
    """Trying again cannot help: something has to be installed or corrected."""


@dataclass(frozen=True)
class ServerDied:
    """The server's process is gone without having been told to. Names the epoch it was started in."""

    server_epoch: int
    reason: str
    served_s: float = 0.0


@dataclass(frozen=True)
class Drained:
    """No request is in flight."""

    step: int
    aborted: int = 0


@dataclass(frozen=True)
class Slept:
    """The server says that it sleeps, and lives."""

    step: int
    leaking: bool = False


@dataclass(frozen=True)
class SleepFailed:
    """It does not sleep, or it died."""

    step: int
    reason: str


@dataclass(frozen=True)
class Proven:
    """The trainer's memory was free, twice in a row."""

    step: int


@dataclass(frozen=True)
class NotProven:
    """It was not; the reason has the numbers."""

    step: int
    reason: str
    foreign: bool = False
    """Somebody else's process is in the way, so ending our server does not help."""


@dataclass(frozen=True)
class TrainerEnded:
    """The trainer's whole tree is gone."""

    job_id: str
    end: TrainerEnd


@dataclass(frozen=True)
class Reclaimed:
    """What the trainer made is published or discarded, and memory was looked at."""

    step: int
    memory_back: bool
    reason: str = ""
    """Why memory is not back, or what went wrong with publishing."""
    foreign: bool = False
    published: bool = True


@dataclass(frozen=True)
class Woke:
    """The server says that it is awake."""

    step: int


@dataclass(frozen=True)
class WakeFailed:
    """It is not, or half."""

    step: int
    reason: str


@dataclass(frozen=True)
class Verified:
    """It answers as it did before."""

    step: int


@dataclass(frozen=True)
class NotVerified:
    """It answers otherwise, or not at all."""

    step: int
    reason: str
    wrong: bool
    """It answered, and wrongly."""


@dataclass(frozen=True)
class Stopped:
    """No process of the server is left."""

    step: int


Observation = (
    Expired
    | Reconciled
    | Faulted
    | ServerReady
    | ServerFailed
    | ServerDied
    | Drained
    | Slept
    | SleepFailed
    | Proven
    | NotProven
    | TrainerEnded
    | Reclaimed
    | Woke
    | WakeFailed
    | Verified
    | NotVerified
    | Stopped
)
Message = Wish | Observation

# --- effects ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Reconcile:
    """Take the lock, end what is left of us, look who else is there."""


@dataclass(frozen=True)
class StartServer:
    """Prove its memory, start it, load the live adapters; record its answers if `record`."""

    backend: BackendName
    epoch: int
    record: bool


@dataclass(frozen=True)
class Drain:
    """Wait for requests in flight, then abort them."""

    limit_s: float


@dataclass(frozen=True)
class SleepServer:
    """Put it to sleep and see that it does and lives."""


@dataclass(frozen=True)
class ProveMemory:
    """Wait until the trainer's memory is free, twice in a row: the device's, and the machine's beside it."""

    need_mib: int
    job_id: str


@dataclass(frozen=True)
class RunTrainer:
    """Start the trainer and follow it."""

    job_id: str
    epoch: int


@dataclass(frozen=True)
class StopTrainer:
    """TERM, grace, KILL; its end is posted by `RunTrainer`."""

    job_id: str


@dataclass(frozen=True)
class Reclaim:
    """Look whether memory is back; publish or discard what the job made, unless it is tried again."""

    job_id: str
    settle: bool
    end: TrainerEnd


@dataclass(frozen=True)
class WakeServer:
    """See that its memory is free, then wake it."""

    settle_s: float


@dataclass(frozen=True)
class VerifyServer:
    """Compare its answers, load what is new, record that too."""


@dataclass(frozen=True)
class StopServer:
    """End its tree and see that nobody of it is left."""


@dataclass(frozen=True)
class Timer:
    """Post `Expired` of this step then, unless the state has been left."""

    seconds: float


@dataclass(frozen=True)
class AnswerJob:
    """Tell who waits for the job."""

    job_id: str
    end: TrainerEnd


@dataclass(frozen=True)
class AnswerSwitch:
    """Tell who waits for the switch."""

    backend: BackendName
    switched: bool
    reason: str


@dataclass(frozen=True)
class RefuseWaiting:
    """Requests that wait are told why they cannot be served."""


@dataclass(frozen=True)
class Look:
    """Post `LookAround`, behind what already waits in the mailbox."""


Effect = (
    Look
    | Reconcile
    | StartServer
    | Drain
    | SleepServer
    | ProveMemory
    | RunTrainer
    | StopTrainer
    | Reclaim
    | WakeServer
    | VerifyServer
    | StopServer
    | Timer
    | AnswerJob
    | AnswerSwitch
    | RefuseWaiting
)
