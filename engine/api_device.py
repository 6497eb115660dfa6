"""Plain data about the device (the GPU, or the machine's CPUs and memory): who owns it, since when, what comes next."""

from __future__ import annotations

from enum import StrEnum

from pydantic import Field

from engine.api_models import Frozen, Identifier


class BackendName(StrEnum):
    """Every kind of model server there is."""

    LLAMACPP = "llamacpp"
    VLLM = "vllm"
    TRANSFORMERS = "transformers"
    OLLAMA = "ollama"
    SCRIPTED = "scripted"


class DeviceState(StrEnum):
    """Who may use the device; `engine.device` has the transitions."""

    RECONCILE = "reconcile"
    """Nobody new: what a dead engine left behind is looked for and ended."""
    COLD = "cold"
    """Nobody uses it."""
    STARTING = "starting"
    """The model server starts, warms up, loads its adapters; its oracle is recorded."""
    SERVING = "serving"
    """The model server answers; requests are admitted."""
    DRAINING = "draining"
    """Requests in flight finish; new ones wait."""
    SLEEPING = "sleeping"
    """The model server is asked to give its memory back, and that is checked."""
    PREFLIGHT = "preflight"
    """Free memory is proven before a trainer is started."""
    TRAINING = "training"
    """The trainer has the device; the model server is asleep or gone."""
    RECLAIMING = "reclaiming"
    """The trainer's tree is ended and its memory is proven free; what it made is published or discarded."""
    WAKING = "waking"
    """The model server takes its memory back."""
    VERIFYING = "verifying"
    """The model server's answers are compared with those recorded before it slept."""
    STOPPING = "stopping"
    """The model server's tree is ended and its memory is proven free."""
    FAULT = "fault"
    """It cannot be used; the reason says why and what to do. Looked at again every minute and on request."""


class DeviceStatus(Frozen):
    """Answer of GET /device, and the payload of the event `device/<id>`."""

    id: Identifier
    """`gpu-<UUID>`, or `cpu`."""
    state: DeviceState
    reason: str
    """One sentence: why it is in this state."""
    since: str
    """ISO timestamp of the entry to the state."""
    eta_seconds: float | None = None
    """Until requests are admitted, learned from earlier transitions; None: now, or unknown."""
    epoch: int = 0
    backend: BackendName
    """That serves, or will."""
    job_id: str | None = None
    """The training job that has, or is about to have, the device."""
    waiting: int = 0
    """Requests that wait for admission."""
    in_flight: int = 0
    adapters: tuple[str, ...] = ()
    """Digests of the live adapters."""
    sleep_trusted: bool = True
    """False after a wake that answered wrongly: this server is then stopped and started instead of put to sleep."""
    free_mib: int | None = None
    total_mib: int | None = None


class BackendInfo(Frozen):
    """One line of GET /device/backends."""

    name: BackendName
    available: bool
    reason: str
    """Why it is not available and how to get it; else one line about it."""
    adapters: bool
    sleep: bool


class BackendSwitch(Frozen):
    """Body of POST /device/backend."""

    backend: BackendName


class BackendSwitched(Frozen):
    """Its answer: what serves now. `backend` differs from what was asked for when the switch failed."""

    backend: BackendName
    switched: bool
    reason: str
    seconds: float = Field(ge=0)
