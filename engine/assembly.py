"""Makes the device of one home, and what trains on it, from the configuration. Owns nothing, starts nothing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from engine.api_device import BackendName, DeviceState
from engine.config import Config
from engine.device.ground import Machine
from engine.device.hardware import probe_gpus
from engine.device.memory import device_memory
from engine.device.owner import Device
from engine.device.setting import Setting
from engine.events import Journal
from engine.inference.servers.catalogue import ServingServer, make_servers
from engine.jobs import Jobs
from engine.sessions import Sessions
from engine.training.jobs import TrainingJobs
from engine.training.preview import Room
from engine.training.service import TrainingService, Trajectories
from engine.training.trainer import Parts
from engine.training.trajectories import TrajectoryStore
from registry.clock import Clock
from registry.db import Database
from registry.files import run_to_end
from registry.registry import Registry

HOLDING = frozenset({DeviceState.STARTING, DeviceState.SERVING, DeviceState.DRAINING, DeviceState.VERIFYING})
"""Where the model server has memory that it gives back for a training job."""


@dataclass(frozen=True)
class Stores:
    """The engine's rows, for whatever is built on them."""

    db: Database
    journal: Journal
    jobs: Jobs
    sessions: Sessions
    registry: Registry
    trajectories: TrajectoryStore


@dataclass(frozen=True)
class Hosting:
    """A device with the servers that may have it."""

    machine: Machine
    servers: Mapping[BackendName, ServingServer]
    device: Device


async def make_hosting(config: Config, home: Path, clock: Clock, stores: Stores) -> Hosting:
    """The device that `device.gpu` names, with every backend's server.

    Raises:
        EnvironmentUnfitError: there is no such GPU.
    """
    machine, servers = await run_to_end(lambda: _look(config, home, clock))
    inference = config.inference
    starts: dict[BackendName, float] = dict.fromkeys(servers, inference.start_timeout_s)
    starts[BackendName.VLLM] = config.vllm.start_timeout_s
    setting = Setting(config.device, servers, inference.backend, config.model.base_id, inference.max_adapters, starts)
    device = Device(setting, machine, stores.db, stores.journal.source("device"), clock)
    return Hosting(machine, servers, device)


def _look(config: Config, home: Path, clock: Clock) -> tuple[Machine, Mapping[BackendName, ServingServer]]:
    """Blocks: asks the driver for GPUs, and the disk for the model's size."""
    memory = device_memory(config.device.gpu, [gpu.uuid for gpu in probe_gpus()])
    machine = Machine(memory, home, clock)
    return machine, make_servers(config, home, lambda: machine.lock)


def make_training(config: Config, home: Path, clock: Clock, stores: Stores, hosting: Hosting) -> TrainingService:
    """Training on that device."""
    recorder = stores.journal.source("training")
    parts = Parts(
        config,
        home,
        TrainingJobs(stores.db, stores.jobs, recorder, clock),
        stores.registry,
        clock,
        lambda: hosting.machine.lock,
        hosting.device.expect_training,
    )

    async def room() -> Room:
        return await _room(config, hosting)

    trajectories = Trajectories(stores.sessions, stores.trajectories)
    return TrainingService(parts, stores.db, trajectories, room, hosting.device)


async def _room(config: Config, hosting: Hosting) -> Room:
    """What a trainer would find free, now and once the model server has given its memory back."""
    sample, status = await hosting.machine.sample(), hosting.device.status()
    held = status.state in HOLDING
    return Room(
        free_mib=sample.free_mib,
        given_back_mib=hosting.servers[status.backend].need_mib if held else 0,
        asleep=(status.backend,) if held else (),
        margin_mib=config.device.margin_mib,
        is_gpu=hosting.machine.exact,
    )
