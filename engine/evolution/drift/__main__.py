"""Entry point of the measuring child: `python -m engine.evolution.drift SPEC.json`. Speaks `spec`'s words on stdout."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable
from pathlib import Path

from engine.errors import RuneError
from engine.evolution.drift.spec import MAX_REASON, Failure, Figures, Progress, Word, read_spec
from registry.errors import RegistryError

NICENESS = 10
"""Evidence is never urgent: whoever serves a model on the same cores goes first."""
OPENMP_SPINS = "300"
"""How long torch's threads spin for each other before they sleep; by default a busy neighbour makes them crawl."""
USAGE = 2
REFUSED = 3


def main(arguments: list[str]) -> int:
    """Measure what the spec asks for; gives the exit status."""
    voice = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what a library prints goes to the log

    def say(word: Word) -> None:
        print(word.model_dump_json(), file=voice, flush=True)  # the protocol

    if len(arguments) != 1:
        print("usage: python -m engine.evolution.drift SPEC.json", file=sys.stderr)  # noqa: T201 # the log file
        return USAGE
    os.nice(NICENESS)
    os.environ.setdefault("GOMP_SPINCOUNT", OPENMP_SPINS)
    try:
        say(_measure(Path(arguments[0]), lambda done, total: say(Progress(done=done, total=total))))
    except (RuneError, RegistryError, ValueError, OSError) as error:
        say(Failure(reason=str(error)[:MAX_REASON]))
        return REFUSED
    except Exception as error:
        # The process ends here, and says why in both of its streams.
        traceback.print_exc()
        say(Failure(reason=f"Measuring failed: {type(error).__name__}: {error}"[:MAX_REASON]))
        return 1
    return 0


def _measure(path: Path, tell: Callable[[int, int], None]) -> Figures:
    spec = read_spec(path)
    from engine.evolution.drift.model import measure  # after the environment is set: torch reads it when it is loaded

    return measure(spec, tell)


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
