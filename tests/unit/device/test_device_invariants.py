"""The invariants of device ownership under random wishes, failures, deaths, deadlines and crashes (gpu-engine.md 2.2).

Each broken scheduler below is a plausible mistake; the machine must find it.
"""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test
from support.device_world import Decide, DeviceWorld

from engine.api_device import DeviceState as S
from engine.device import messages as m
from engine.device import scheduler
from engine.device.states import Policy, ServerCondition, Snapshot
from engine.device.transitions import Decision, serving, start, train, wake

SETTINGS = settings(
    max_examples=300, stateful_step_count=40, suppress_health_check=list(HealthCheck), report_multiple_bugs=False
)
SEARCH = settings(SETTINGS, max_examples=500, phases=(Phase.generate,))
"""A mistake need only be found; making its example small would take a minute."""


def test_i1_to_i8_hold_whatever_happens() -> None:
    run_state_machine_as_test(DeviceWorld, settings=SETTINGS)


def wakes_beside_the_trainer(snapshot: Snapshot, message: m.Message, policy: Policy) -> Decision:
    """A request arrives while it trains, and a server is woken or started for it (I1)."""
    if isinstance(message, m.ServeWanted) and snapshot.state is S.TRAINING:
        return wake(snapshot, policy) if snapshot.server is ServerCondition.ASLEEP else start(snapshot, policy)
    return scheduler.decide(snapshot, message, policy)


def trains_unproven(snapshot: Snapshot, message: m.Message, policy: Policy) -> Decision:
    """Memory could not be measured in time, and it is hoped for the best (I2)."""
    if isinstance(message, m.Expired) and snapshot.state is S.PREFLIGHT and message.step == snapshot.step:
        return train(snapshot, policy)
    return scheduler.decide(snapshot, message, policy)


def believes_the_200(snapshot: Snapshot, message: m.Message, policy: Policy) -> Decision:
    """Awake is taken for right (I3)."""
    if isinstance(message, m.Woke) and snapshot.state is S.WAKING and message.step == snapshot.step:
        return serving(snapshot, "awake")
    return scheduler.decide(snapshot, message, policy)


def waits_for_the_trainer(snapshot: Snapshot, message: m.Message, policy: Policy) -> Decision:
    """A trainer that hangs keeps the device (I4)."""
    if isinstance(message, m.Expired) and snapshot.state is S.TRAINING:
        return Decision(snapshot)
    return scheduler.decide(snapshot, message, policy)


def forgets_who_waits(snapshot: Snapshot, message: m.Message, policy: Policy) -> Decision:
    """A fault that tells nobody (I6)."""
    decision = scheduler.decide(snapshot, message, policy)
    kept = tuple(effect for effect in decision.effects if not isinstance(effect, m.RefuseWaiting))
    return Decision(decision.snapshot, kept)


def starts_without_the_lock(snapshot: Snapshot, message: m.Message, policy: Policy) -> Decision:
    """Another engine has the device, and ours starts its server all the same (I8)."""
    if isinstance(message, m.Faulted) and snapshot.state is S.RECONCILE and message.step == snapshot.step:
        message = m.Reconciled(message.step)
    return scheduler.decide(snapshot, message, policy)


@pytest.mark.parametrize(
    ("broken", "caught"),
    [
        (wakes_beside_the_trainer, "I1"),
        (trains_unproven, "I2"),
        (believes_the_200, "I3"),
        (waits_for_the_trainer, "I4"),
        (forgets_who_waits, "I6"),
        (starts_without_the_lock, "I8"),
    ],
)
def test_a_broken_scheduler_is_caught(broken: Decide, caught: str) -> None:
    machine = type("Broken", (DeviceWorld,), {"decide": staticmethod(broken)})
    with pytest.raises(AssertionError, match=caught):
        run_state_machine_as_test(machine, settings=SEARCH)


def test_an_owner_that_lets_requests_be_is_caught() -> None:
    """The drain is over and requests are still in flight: they would sleep inside the server (I6)."""
    machine = type("Careless", (DeviceWorld,), {"abort": lambda world: None})
    with pytest.raises(AssertionError, match="I6"):
        run_state_machine_as_test(machine, settings=SEARCH)
