"""Decides who has the device: snapshot + message -> snapshot and effects. No time, no process, no waiting in here.

    RECONCILE ─► COLD ─────────────► STARTING ──────────────► SERVING ◄──────── VERIFYING ◄── WAKING
        │ ▲        │ ▲  a job waits     │ ▲ again, 1 s 2 s 4 s    │ a job waits         │          ▲  │ twice
        │ │        │ └──────────────────┘ └─ (rests in COLD)      ▼                     │ wrong    │  │
        │ │        ▼                                          DRAINING                  ▼          │  ▼
        │ │    PREFLIGHT ◄──────────────── SLEEPING ◄────────── │  │ cannot sleep     STOPPING ◄───┼──┘
        │ │        │ │  too little is free    │ fails           │  └────────────────────►│         │
        │ │        ▼ └──────────────────────► STOPPING ◄────────┘                        ▼         │
        │ │    TRAINING ─────► RECLAIMING ────────────────────────────────────────────► COLD       │
        │ │  ends, is cancelled,   │ server asleep ───────────────────────────────────────────────►┘
        ▼ │  hangs                 │ out of memory at its start, once: PREFLIGHT with less
       FAULT ◄─────────────────────┘ somebody else's process, GPU lost, a tree that cannot be ended

    state       who may use it   leaves when
    RECONCILE   nobody new       nothing of us is left, nobody else there -> COLD; else FAULT(held | foreign | lost)
    COLD        nobody           serving wanted -> STARTING; a job -> PREFLIGHT
    STARTING    server           answers, oracle recorded -> SERVING; to be compared (switch back) -> VERIFYING;
                                 fails -> COLD, after `start_tries` FAULT(starts); of a switch: back to the old one
    SERVING     server           a job or a switch -> DRAINING; the server dies -> RECONCILE
    DRAINING    server           nothing in flight -> SLEEPING; cannot sleep, not trusted, a switch -> STOPPING;
                                 nobody wants the device any more -> SERVING
    SLEEPING    server           sleeps -> PREFLIGHT (job gone: WAKING); fails, dies, late -> STOPPING
    PREFLIGHT   nobody           memory proven -> TRAINING; not, with a server asleep -> STOPPING, else -> RECLAIMING
    TRAINING    trainer          ends, cancelled, too long -> RECLAIMING; a server that dies is only noted
    RECLAIMING  nobody           settled -> WAKING | COLD | STOPPING (memory not back, server dead or leaking)
                                 | PREFLIGHT (smaller, once); somebody else's process, a tree that stays -> FAULT
    WAKING      server           awake -> VERIFYING; fails -> WAKING once more; fails, dies, late -> STOPPING
    VERIFYING   server           the same answers -> SERVING; other ones -> STOPPING, and its sleep is not trusted again
    STOPPING    server           its tree is gone -> COLD; is not in time -> FAULT(stuck)
    FAULT       nobody           after a minute, or asked to -> RECONCILE

Every state but COLD and SERVING has a deadline (`Timer`), so a training job ends in SERVING, COLD or FAULT whatever
hangs. The state machine is level-triggered: COLD and SERVING compare what is wanted with what is, so a crash needs no
recovery of its own; the next engine begins in RECONCILE. COLD is passed in the same decision when something is wanted.

The edges are in `edges`, what each state begins with in `transitions`, what somebody may ask for in `wishes`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from engine.api_device import DeviceState as State
from engine.device import edges
from engine.device.messages import (
    Faulted,
    LookAround,
    Message,
    Observation,
    OffWanted,
    RetryWanted,
    ServerDied,
    ServeWanted,
    SwitchWanted,
    TrainCancelled,
    TrainerEnded,
    TrainWanted,
)
from engine.device.states import Policy, ServerCondition, Snapshot
from engine.device.transitions import Decision, fault
from engine.device.wishes import on_wish

Edge = Callable[[Snapshot, Observation, Policy], Decision]

EDGES: Mapping[State, Edge] = {
    State.RECONCILE: edges.from_reconcile,
    State.COLD: edges.from_cold,
    State.STARTING: edges.from_starting,
    State.SERVING: edges.from_serving,
    State.DRAINING: edges.from_draining,
    State.SLEEPING: edges.from_sleeping,
    State.PREFLIGHT: edges.from_preflight,
    State.TRAINING: edges.from_training,
    State.RECLAIMING: edges.from_reclaiming,
    State.WAKING: edges.from_waking,
    State.VERIFYING: edges.from_verifying,
    State.STOPPING: edges.from_stopping,
    State.FAULT: edges.from_fault,
}

WISHES = (LookAround, ServeWanted, TrainWanted, TrainCancelled, SwitchWanted, RetryWanted, OffWanted)


def decide(snapshot: Snapshot, message: Message, policy: Policy) -> Decision:
    """The next snapshot and what is to be done for it. A message that came too late changes nothing."""
    if isinstance(message, WISHES):
        return on_wish(snapshot, message, policy)
    if _stale(snapshot, message):
        return Decision(snapshot)
    if isinstance(message, Faulted):
        return fault(snapshot, policy, message.kind, message.reason)
    return EDGES[snapshot.state](snapshot, message, policy)


def _stale(snapshot: Snapshot, message: Observation) -> bool:
    match message:
        case ServerDied(epoch):
            return epoch != snapshot.server_epoch or snapshot.server is ServerCondition.GONE
        case TrainerEnded(job_id):
            return snapshot.job is None or snapshot.job.id != job_id
        case _:
            return message.step != snapshot.step
