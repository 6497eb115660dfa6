"""Entry point of the merging child: `python -m engine.evolution.merging SPEC.json`. Speaks `spec`'s words on stdout."""

from __future__ import annotations

import os
import sys
import time
import traceback
from pathlib import Path

from engine.errors import RuneError
from engine.evolution.merging.job import Tell, make_random, measure, merge
from engine.evolution.merging.spec import (
    MAX_REASON,
    Cosines,
    Failure,
    Measured,
    Merge,
    Merged,
    Progress,
    RandomAdapter,
    read_spec,
)
from registry.errors import RegistryError

NICENESS = 10
"""Merging is never urgent: whoever serves a model on the same cores goes first."""
TELL_S = 0.2
"""Between two words of progress."""
OPENMP_SPINS = "300"
"""How long torch's threads spin for each other before they sleep; by default a busy neighbour makes them crawl."""
USAGE = 2
REFUSED = 3


class _Voice:
    """Says words on a stream that nothing else writes to."""

    def __init__(self, descriptor: int) -> None:
        self._file = os.fdopen(descriptor, "w", encoding="utf-8")
        self._told_at = 0.0

    def say(self, word: Progress | Merged | Measured | Failure) -> None:
        """One line."""
        print(word.model_dump_json(), file=self._file, flush=True)  # the protocol

    def tell(self, done: int, total: int, note: str) -> None:
        """Progress, not more often than anyone can read."""
        if done == total or time.monotonic() - self._told_at >= TELL_S:
            self._told_at = time.monotonic()
            self.say(Progress(done=done, total=total, note=note))


def main(arguments: list[str]) -> int:
    """Do what the spec asks; gives the exit status."""
    voice = _Voice(os.dup(1))
    os.dup2(2, 1)  # what a library prints goes to the log
    if len(arguments) != 1:
        print("usage: python -m engine.evolution.merging SPEC.json", file=sys.stderr)  # noqa: T201 # the log file
        return USAGE
    os.nice(NICENESS)
    try:
        voice.say(_run(read_spec(Path(arguments[0])), voice))
    except (RuneError, RegistryError, ValueError, OSError) as error:
        voice.say(Failure(reason=str(error)[:MAX_REASON]))
        return REFUSED
    except Exception as error:
        # The process ends here, and says why in both of its streams.
        traceback.print_exc()
        voice.say(Failure(reason=f"Merging failed: {type(error).__name__}: {error}"[:MAX_REASON]))
        return 1
    return 0


def _run(spec: Merge | RandomAdapter | Cosines, voice: _Voice) -> Merged | Measured:
    match spec:
        case Merge():
            return merge(spec, voice.tell, _learn)
        case RandomAdapter():
            return make_random(spec, voice.tell)
        case Cosines():
            return measure(spec, voice.tell)


def _learn(spec: Merge, tell: Tell) -> tuple[float, ...]:
    os.environ.setdefault("GOMP_SPINCOUNT", OPENMP_SPINS)
    # Only this method runs the model, and torch takes seconds to import.
    from engine.evolution.merging.objective import learn_weights

    return learn_weights(spec, tell)


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
