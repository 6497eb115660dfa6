"""How often a candidate was looked at: an error budget is spent by looking, whatever one sees.

An e-value may be watched task by task for one draw of the hidden inputs. Another seed is another draw, and the best of
several draws is better than the adapter is; so with n earlier looks the e-value must reach n + 1 times the threshold.
"""

from __future__ import annotations

from dataclasses import dataclass

from engine.api_models import EventKind
from registry.clock import Clock, timestamp
from registry.db import Database, Transaction
from registry.journal import Recorder

_FIND = """
SELECT number FROM evidence_looks WHERE adapter_digest = ? AND task_type = ? AND suite = ? AND seed = ?
"""
_EARLIER = """
SELECT count(*) AS looks FROM evidence_looks
WHERE adapter_digest = ? AND task_type = ? AND suite = ? AND number < ?
"""
_ADD = "INSERT INTO evidence_looks (adapter_digest, task_type, suite, seed, looked_at) VALUES (?, ?, ?, ?, ?)"


@dataclass(frozen=True, slots=True)
class Look:
    """At one candidate, by one draw of a suite's hidden inputs."""

    adapter_digest: str
    """The candidate: the same weights under another id are the same candidate."""
    task_type: str
    suite: str
    seed: int


class Looks:
    """Every look of one home."""

    def __init__(self, db: Database, recorder: Recorder, clock: Clock) -> None:
        self._db = db
        self._recorder = recorder
        self._clock = clock

    async def take(self, look: Look) -> int:
        """Keep that it is looked, before anything is seen; gives how many looks with other seeds came earlier.

        The same look again is not kept twice, and gets the same answer however many came after it.
        """

        def write(tx: Transaction) -> int:
            of = (look.adapter_digest, look.task_type, look.suite)
            if tx.execute(_FIND, (*of, look.seed)).fetchone() is None:
                tx.execute(_ADD, (*of, look.seed, timestamp(self._clock.now())))
                payload = {"look_at": look.adapter_digest, "suite": look.suite, "seed": look.seed}
                self._recorder.record(
                    tx, kind=EventKind.CREATED, subject=f"evidence/{look.adapter_digest[:16]}", payload=payload
                )
            number = tx.execute(_FIND, (*of, look.seed)).fetchone()["number"]
            return int(tx.execute(_EARLIER, (*of, number)).fetchone()["looks"])

        return await self._db.write(write)


def budget_share(candidates: int, earlier_looks: int) -> int:
    """How many times the threshold of a single look at a single candidate an e-value must reach: K (n + 1)."""
    return candidates * (earlier_looks + 1)
