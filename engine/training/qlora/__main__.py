"""Entry point of the trainer child: `python -m engine.training.qlora SPEC.json`.

Standard output speaks `engine.training.protocol`; standard error is the log. SIGTERM: checkpoint and exit.
Before torch is imported, which takes seconds, the stream is taken, the signal is handled and the heart beats.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import traceback
from pathlib import Path

from engine.errors import TrainingError
from engine.training.protocol import MAX_REASON, End, Failure, Loading, TrainerExit
from engine.training.qlora.faults import read_fault
from engine.training.qlora.voice import Voice, take_stdout
from engine.training.spec import TrainSpec, read_spec
from registry.clock import SystemClock

OPENMP_SPINS = "300"
"""How long torch's threads spin for each other before they sleep. By default they spin on, and one busy neighbour makes
a step 20 times as long: 12 steps of a tiny model took 37 s then, and take 1.6 s."""
CRASHED = 1
"""Exit status after an error that is a defect; the traceback is in the log."""
QUIET = {
    # Nothing is ever fetched: what is missing is an error here, not a download.
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "TRANSFORMERS_VERBOSITY": "error",
}


def main(argv: list[str] | None = None) -> int:
    """Run the job; returns the exit status of `TrainerExit`."""
    arguments = sys.argv[1:] if argv is None else argv
    clock = SystemClock()
    started = clock.monotonic()
    words = take_stdout()
    if len(arguments) != 1:
        print("usage: python -m engine.training.qlora SPEC.json", file=sys.stderr)  # noqa: T201 # the log file
        return TrainerExit.USAGE
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda _number, _frame: stop.set())
    try:
        spec = read_spec(Path(arguments[0]))
    except TrainingError as error:
        Voice(words, 1.0, clock, stop.set).say(Failure(reason=str(error)[:MAX_REASON]))
        return TrainerExit.REFUSED
    voice = Voice(words, spec.heartbeat_s, clock, stop.set)
    with voice.heartbeat():
        return _run(spec, voice, stop, clock, started)


def _run(spec: TrainSpec, voice: Voice, stop: threading.Event, clock: SystemClock, started: float) -> int:
    threads = spec.recipe.threads or len(os.sched_getaffinity(0))
    os.environ.update(QUIET)
    # bitsandbytes brings an OpenMP of its own, which reads this when it is loaded.
    os.environ["OMP_NUM_THREADS"] = str(threads)
    os.environ.setdefault("GOMP_SPINCOUNT", OPENMP_SPINS)
    voice.say(Loading(note="loading torch"))
    # Here, so that the stream, the signal and the heartbeat do not wait for it.
    from engine.training.qlora.job import run_job
    from engine.training.qlora.loop import OutOfMemoryError, StopRequestedError, Surroundings
    from engine.training.qlora.memory import is_out_of_memory

    try:
        around = Surroundings(voice, clock, stop, read_fault(os.environ))
        metrics = run_job(spec, around, threads, started)
    except StopRequestedError:
        return TrainerExit.STOPPED
    except TrainingError as error:
        return _fail(voice, str(error), TrainerExit.REFUSED)
    except OutOfMemoryError as error:
        return _fail(voice, str(error), TrainerExit.OUT_OF_MEMORY)
    except Exception as error:
        # The process ends here, and says why in both of its streams.
        traceback.print_exc()
        if is_out_of_memory(error):
            return _fail(voice, f"Memory ran out: {error}", TrainerExit.OUT_OF_MEMORY)
        return _fail(voice, f"The trainer failed: {type(error).__name__}: {error}", CRASHED)
    voice.say(End(metrics=metrics))
    return TrainerExit.DONE


def _fail(voice: Voice, reason: str, status: int) -> int:
    voice.say(Failure(reason=reason[:MAX_REASON]))
    return status


if __name__ == "__main__":
    raise SystemExit(main())
