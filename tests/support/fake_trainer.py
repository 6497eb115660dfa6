"""A trainer child that plays a script: `python fake_trainer.py PLAY.json SPEC.json`. It learns nothing.

PLAY.json is a list of acts: ["say", WORD], ["raw", TEXT], ["steps", N, SECONDS EACH], ["adapter", SEED], ["end"],
["look", STEP, [TEXT, ...]] (answers, and does as it is ruled), ["wait"] (until TERM), ["deaf"] (no TERM is heard
from here), ["kill"] (itself), ["exit", STATUS].
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

from engine.training.protocol import Answer, Checkpoint, End, Failure, Metrics, Progress, encode, parse_ruling
from engine.training.spec import TrainSpec, read_spec


def metrics(spec: TrainSpec) -> Metrics:
    return Metrics(
        steps=3, planned_steps=3, best_step=3, final_loss=0.5, best_loss=0.5, held_out_start=None, held_out_loss=None,
        stopped_early=False, examples=9, held_out=1, too_long=0, tokens=300, answer_tokens=100, seconds=1.5,
        tokens_per_second=200.0, start_seconds=0.1, peak_mib=100, micro_batch=spec.recipe.micro_batch, parameters=10,
        compute="cpu/float32", method=spec.recipe.method, resumed=0, data_digest=spec.data.stem, recipe_digest="r",
        base_digest=spec.base_digest, seed=spec.seed,
    )  # fmt: skip


def progress(step: int, steps: int) -> Progress:
    return Progress(
        step=step, steps=steps, loss=1.0 / step, learning_rate=1e-4, grad_norm=1.0, tokens_per_second=200.0,
        memory_mib=100, eta_seconds=float(steps - step),
    )  # fmt: skip


def stopping(spec: TrainSpec) -> None:
    """As the real one: a checkpoint, and the status of one that was stopped."""

    def stop(_number: int, _frame: object) -> None:
        (spec.checkpoints / "step").write_text("1")
        say(encode(Checkpoint(step=1)))
        os._exit(75)

    signal.signal(signal.SIGTERM, stop)


def say(line: bytes) -> None:
    os.write(1, line)


def look(spec: TrainSpec, step: int, texts: list[str]) -> None:
    assert spec.look is not None
    if spec.look.looked is not None and step <= spec.look.looked:
        return
    for number, text in enumerate(texts):
        say(encode(Answer(step=step, number=number, text=text, cut=False)))
    with spec.look.rulings.open("rb", buffering=0) as pipe:
        ruling = parse_ruling(pipe.readline())
    assert ruling.step == step
    if ruling.halt:
        say(encode(Failure(reason=ruling.halt)))
        os._exit(70)


def act(spec: TrainSpec, name: str, *values: Any) -> None:
    match name:
        case "say":
            say(json.dumps(values[0]).encode() + b"\n")
        case "raw":
            say(str(values[0]).encode())
        case "steps":
            for step in range(1, values[0] + 1):
                say(encode(progress(step, values[0])))
                time.sleep(values[1])
        case "look":
            look(spec, values[0], values[1])
        case "adapter":
            from registry.samples import write_sample  # numpy: half a second, where it is needed

            write_sample(spec.output, values[0])
        case "end":
            say(encode(End(metrics=metrics(spec))))
        case "wait":
            while True:
                signal.pause()
        case "deaf":
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
        case "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        case "exit":
            sys.exit(values[0])
        case _:
            raise AssertionError(name)


def main() -> None:
    spec = read_spec(Path(sys.argv[2]))
    stopping(spec)
    for one in json.loads(Path(sys.argv[1]).read_text()):
        act(spec, *one)


if __name__ == "__main__":
    main()
