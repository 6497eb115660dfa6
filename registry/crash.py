"""Named crash points: where a durability test kills the process.

`RUNE_CRASH_AT=publish.after_rename:3` kills this process with SIGKILL the third time it passes that point.
Every durable step has its point in `POINTS`; a test drives each of them and counts them.
"""

from __future__ import annotations

import os
import signal
from collections import Counter

POINTS: frozenset[str] = frozenset(
    {
        "publish.before_write",
        "publish.after_write",
        "publish.after_fsync",
        "publish.after_rename",
        "publish.after_dir_fsync",
        "publish.in_transaction",
        "publish.after_commit",
        "promotion.in_transaction",
        "promotion.after_commit",
        "transaction.before_commit",
        "transaction.after_commit",
        "job.after_claim",
        "job.before_finish",
        "job.after_finish",
        "session.after_create",
        "session.before_phase",
        "session.after_phase",
        "attempt.before_generate",
        "attempt.after_generate",
        "attempt.before_record",
        "attempt.after_record",
        "weights.before_rename",
        "checkpoint.before_rename",
        "checkpoint.after_rename",
        "output.before_rename",
        "training.after_enqueue",
        "training.after_claim",
        "training.after_spawn",
        "training.after_look",
        "training.after_end",
        "training.before_publish",
        "operation.after_create",
        "operation.after_claim",
        "evaluation.after_sample",
        "evaluation.after_report",
        "summary.before_rename",
        "summary.after_rename",
        "device.after_intent_draining",
        "device.admission_closed",
        "device.sleep_sent",
        "device.asleep_unrecorded",
        "device.proof_done",
        "device.trainer_spawned",
        "device.artefact_renamed",
        "device.trainer_finished",
        "device.wake_sent",
        "device.awake_no_adapter",
        "device.alias_flipped",
    }
)
"""Every point there is. A durable step that is added adds its point here."""

_passed: Counter[str] = Counter()


def crash_point(name: str) -> None:
    """Die here if the environment says so; otherwise do nothing.

    Raises:
        AssertionError: `name` is not in `POINTS`.
    """
    assert name in POINTS, f"crash point {name!r} is not listed in registry.crash.POINTS"
    wanted = os.environ.get("RUNE_CRASH_AT")
    if wanted is None:
        return
    point, _, hit = wanted.partition(":")
    if point != name:
        return
    _passed[name] += 1
    if _passed[name] == int(hit or "1"):
        os.kill(os.getpid(), signal.SIGKILL)
