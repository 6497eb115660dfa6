"""Many trainer children for the price of one import of torch.

This process imports what a trainer imports, then forks once per request: each fork is a real process that runs the
real entry point, speaks on a real pipe, and dies of real signals. Only the import is shared. Nothing is computed
before a fork, so no thread pool is inherited.

    requests, a JSON object a line on stdin:
        {"spec": PATH, "environment"?: {}, "breaks"?: [NAME], "noise"?: PATH,
         "signal_at"?: [SIGNAL, STEP or the beginning of a note], "silence_s"?: SECONDS,
        "right"?: [TEXT, ...]: the kill switch is the real one, and an answer is right that says just that, or
         "beats"?: NUMBER of heartbeats in a row, until it is killed}
        {"call": NAME of a function in trainer_calls, "arguments"?: {}, "noise"?: PATH}
    answers, a line each on stdout: {"status", "signal", "words"}, with `right` {"solved": {STEP: NUMBER}} besides, or
    what the call returned
"""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import threading
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

ROOT = Path(__file__).parents[2]
HANGS_BELOW = 4e-3
"""With `hang`: the learning rate of the first step that never ends."""


class Zygote:
    """The test's side."""

    def __init__(self) -> None:
        environment = {"PATH": os.environ["PATH"], "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}", "OMP_NUM_THREADS": "1"}
        self._process = subprocess.Popen(
            [sys.executable, "-m", "support.trainer_zygote"],
            cwd=ROOT,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )

    def ask(self, **request: Any) -> Any:
        """Run one request to its end."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(request).encode() + b"\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        assert line, "the zygote died"
        return json.loads(line)

    def close(self) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.stdout.close()
        self._process.wait(timeout=90)


# --- inside ----------------------------------------------------------------------------------------------------


def break_optimizer_resume() -> None:
    from engine.training.qlora.optimizer import Optimizer

    Optimizer.load = lambda _self, _tensors, _step: None  # type: ignore[method-assign]


def break_random_resume() -> None:
    from engine.training.qlora import loop

    loop.set_random_state = lambda _state, _device: None


def break_output_guard() -> None:
    from engine.training.qlora import __main__ as entry

    entry.take_stdout = lambda: os.dup(1)


def hang() -> None:
    """A step that never ends, as in a driver that does not answer."""
    from engine.training.qlora.optimizer import Optimizer

    step = Optimizer.step

    def stuck(self: Any, learning_rate: float) -> None:
        step(self, learning_rate)
        if learning_rate < HANGS_BELOW:
            threading.Event().wait()

    Optimizer.step = stuck  # type: ignore[method-assign]


def break_heartbeat() -> None:
    """A heart that beats as long as its thread lives."""
    from engine.training.qlora.voice import Voice

    Voice.gets_on = True  # type: ignore[method-assign, assignment]


def chatty_library() -> None:
    """Something that writes to standard output, by Python and by the descriptor, while the model is loaded."""
    from engine.training.qlora import job

    load = job.load_learner

    def loud(spec: Any) -> Any:
        print("Loading checkpoint shards: 100%", flush=True)  # noqa: T201 # the point of it
        os.write(1, b"native library says hello\n")
        return load(spec)

    job.load_learner = loud


def look_at_the_base() -> None:
    """A kill switch that asks the model that is trained on, and not the one that is trained."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    from engine.training.qlora.greedy import Greedy

    answer = Greedy.answer

    def without_adapter(self: Any, prompts: Any, max_tokens: int) -> Any:
        layers = [module for module in self._model.modules() if isinstance(module, BaseTunerLayer)]
        for layer in layers:
            layer.enable_adapters(False)
        try:
            return answer(self, prompts, max_tokens)
        finally:
            for layer in layers:
                layer.enable_adapters(True)

    Greedy.answer = without_adapter  # type: ignore[method-assign]


def look_with_dropout() -> None:
    """A look that leaves the model as it is trained: it draws random numbers that belong to the steps."""
    from engine.training.qlora.greedy import Greedy

    answer = Greedy.answer

    def dropping(self: Any, prompts: Any, max_tokens: int) -> Any:
        self._model.train(True)
        return answer(self, prompts, max_tokens)

    Greedy.answer = dropping  # type: ignore[method-assign]


def memory_for_four_answers() -> None:
    """More than four answers at once do not fit."""
    import torch

    from engine.training.qlora.greedy import Greedy

    answer = Greedy.answer

    def small(self: Any, prompts: Any, max_tokens: int) -> Any:
        if len(prompts) > 4:
            raise torch.OutOfMemoryError("injected")
        return answer(self, prompts, max_tokens)

    Greedy.answer = small  # type: ignore[method-assign]


BREAKS = {
    function.__name__: function
    for function in (
        break_optimizer_resume,
        break_random_resume,
        break_output_guard,
        break_heartbeat,
        chatty_library,
        hang,
        look_at_the_base,
        look_with_dropout,
        memory_for_four_answers,
    )
}


def train(request: dict[str, Any], noise: IO[bytes]) -> dict[str, Any]:
    """Fork a trainer, signal it when it has said the step, and collect what it said."""
    from engine.training.qlora import __main__ as entry

    judge = Judge(request["spec"], request["right"]) if "right" in request else None
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        status = 99
        try:
            os.dup2(writer, 1)
            os.dup2(noise.fileno(), 2)
            os.environ.update(request.get("environment", {}))
            for name in request.get("breaks", []):
                BREAKS[name]()
            status = entry.main([request["spec"]])
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)
    os.close(writer)
    signal_number, place = request.get("signal_at") or (0, None)
    words: list[Any] = []
    beating = 0
    for line in _lines(reader, pid, request.get("silence_s")):
        try:
            words.append(json.loads(line))
        except ValueError:
            words.append(line.decode(errors="replace"))
            continue
        if judge is not None and words[-1].get("type") == "answer":
            judge.take(words[-1])
        beating = beating + 1 if words[-1].get("type") == "heartbeat" else 0
        if beating == request.get("beats"):
            os.kill(pid, signal.SIGKILL)
        if place is not None and place in (words[-1].get("step"), words[-1].get("note", "")[: len(str(place))]):
            os.kill(pid, signal_number)
            place = None
    _, waited = os.waitpid(pid, 0)
    killed = os.WTERMSIG(waited) if os.WIFSIGNALED(waited) else 0
    ended = {"status": -1 if killed else os.WEXITSTATUS(waited), "signal": killed, "words": words}
    return ended | ({"solved": judge.close()} if judge else {})


class Judge:
    """Rules as the engine does, by the real rule; an answer is right that is the same text."""

    def __init__(self, spec: str, right: list[str]) -> None:
        from engine.training.spec import read_spec

        job = read_spec(Path(spec))
        assert job.look is not None
        self._recipe = job.recipe
        self._right = right
        self._said: list[str] = []
        self._solved: dict[int, int] = {0: len(right)} if job.look.looked is not None else {}
        job.look.rulings.unlink(missing_ok=True)
        os.mkfifo(job.look.rulings)
        self._pipe = os.open(job.look.rulings, os.O_RDWR | os.O_NONBLOCK)

    def take(self, answer: dict[str, Any]) -> None:
        from engine.evaluation.gates import KillSwitch, KillSwitchSettings
        from engine.evaluation.metrics import wilson
        from engine.training.protocol import Ruling, encode

        self._said.append(answer["text"])
        total = len(self._right)
        if len(self._said) < total:
            return
        solved = sum(said == right for said, right in zip(self._said, self._right, strict=True))
        self._said = []
        step = answer["step"]
        self._solved[step] = solved
        switch = KillSwitch(KillSwitchSettings("texts", total, self._recipe.kill_cadence))
        halts = switch.halts(wilson(self._solved[0], total), wilson(solved, total))
        halt = f"{self._solved[0]} before, {solved} now at step {step}" if halts else ""
        os.write(self._pipe, encode(Ruling(step=step, halt=halt)))

    def close(self) -> dict[int, int]:
        os.close(self._pipe)
        return self._solved


def _lines(reader: int, pid: int, silence_s: float | None) -> Iterator[bytes]:
    """Its lines; after so many seconds without a word it is killed."""
    with os.fdopen(reader, "rb", buffering=0) as pipe:
        rest = b""
        while True:
            if not select.select([pipe], [], [], silence_s)[0]:
                os.kill(pid, signal.SIGKILL)
            chunk = pipe.read(65536)
            if not chunk:
                return
            *lines, rest = (rest + chunk).split(b"\n")
            yield from lines


def call(request: dict[str, Any], noise: IO[bytes]) -> Any:
    """Run a function of `trainer_calls` in a fork; its result goes through JSON."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.dup2(noise.fileno(), 1)
            os.dup2(noise.fileno(), 2)
            from support import trainer_calls

            result = getattr(trainer_calls, request["call"])(**request.get("arguments", {}))
            os.write(writer, json.dumps(result).encode())
        except BaseException:
            os.write(writer, json.dumps({"raised": traceback.format_exc()}).encode())
        finally:
            os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        answer = pipe.read()
    os.waitpid(pid, 0)
    return json.loads(answer)


def main() -> None:
    from engine.training.qlora.__main__ import OPENMP_SPINS, QUIET

    os.environ.update({**QUIET, "GOMP_SPINCOUNT": OPENMP_SPINS})
    import bitsandbytes  # noqa: F401
    import peft  # noqa: F401
    from transformers import AutoTokenizer, BitsAndBytesConfig, LlamaForCausalLM  # noqa: F401

    from engine.training.qlora import job, loop  # noqa: F401

    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    for line in sys.stdin:
        request = json.loads(line)
        with open(os.devnull if not request.get("noise") else request["noise"], "wb") as noise:
            answer = call(request, noise) if "call" in request else train(request, noise)
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
