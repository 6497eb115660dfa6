"""What a device is made with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from engine.api_device import BackendName
from engine.config import DeviceSection
from engine.device.contracts import Server
from engine.device.states import START_S, Policy


@dataclass(frozen=True)
class Setting:
    """What a device is made with.

    Args:
        servers: every backend's; none is started by being here.
        starts_s: how long each of them may take to start.
        model: name of the base model.
        max_adapters: live at once.
    """

    device: DeviceSection
    servers: Mapping[BackendName, Server]
    backend: BackendName
    model: str
    max_adapters: int
    starts_s: Mapping[BackendName, float]


def policy(setting: Setting) -> Policy:
    """The limits that the scheduler decides by."""
    device = setting.device
    return Policy(
        sleepers=frozenset(name for name, server in setting.servers.items() if server.can_sleep),
        drain_s=device.drain_s,
        sleep_s=device.sleep_s,
        settle_s=device.settle_s,
        trainer_grace_s=device.trainer_grace_s,
        start_tries=device.start_tries,
        start_s={name: setting.starts_s.get(name, START_S) for name in setting.servers},
    )
