"""The training loop.

                     ┌───────────────────────────────────────────────────────────┐
                     ▼                                                           │
    evaluation due? ─► take it ─► progress ─► look due? ─► checkpoint due? ─► finished? ─no─► step
                                                  │halted                         │yes
                                                  ▼                               ▼
                                            TrainingError               checkpoint, the best weights

A look is the kill switch's (`looks`). State changes between steps only. A stop, or memory that runs out, inside a step,
an evaluation or a look throws away what that one had done; the checkpoint of a stopped run is that of its last whole
step, with the random state of then.
"""

from __future__ import annotations

import math
import threading
from collections import deque
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TypeVar

import torch
from torch import Tensor

from engine.errors import TrainingError
from engine.training.protocol import Checkpoint, Progress, Shrunk
from engine.training.qlora.checkpoint import Snapshot, Tensors, read_checkpoint, write_checkpoint
from engine.training.qlora.data import Dataset, Encoder, Example
from engine.training.qlora.ear import Ear
from engine.training.qlora.faults import Fault
from engine.training.qlora.greedy import Greedy, Written
from engine.training.qlora.looks import Looks
from engine.training.qlora.loss import AnswerLoss
from engine.training.qlora.memory import is_out_of_memory, release, used_mib
from engine.training.qlora.model import Learner
from engine.training.qlora.optimizer import Optimizer
from engine.training.qlora.plan import Plan, cut
from engine.training.qlora.state import State
from engine.training.qlora.voice import Voice
from engine.training.qlora.watch import Best, LossWatch
from engine.training.spec import TrainSpec
from registry.clock import Clock

WINDOW = 20
"""Steps that the rate and the remaining time are averaged over: they follow a machine that gets busy."""

T = TypeVar("T")


class StopRequestedError(Exception):
    """Somebody asked for a stop, and the step under way was thrown away."""


class OutOfMemoryError(Exception):
    """Not even one sequence at a time fits; the message says where."""


@dataclass(frozen=True)
class Surroundings:
    """What the loop has from outside."""

    voice: Voice
    clock: Clock
    stop: threading.Event
    fault: Fault


@dataclass(frozen=True)
class StepReport:
    """What one optimizer step did."""

    loss: float
    grad_norm: float
    learning_rate: float
    tokens: int
    answer_tokens: int
    seconds: float


class Loop:
    """One run of one job, from wherever its checkpoint is to its end.

    Raises:
        TrainingError: the checkpoint is of another job, or the questions of the kill switch cannot be asked.
    """

    def __init__(
        self, spec: TrainSpec, learner: Learner, data: Dataset, encoder: Encoder, around: Surroundings
    ) -> None:
        self._spec = spec
        self._recipe = spec.recipe
        self._learner = learner
        self.data = data
        self._around = around
        self._loss = AnswerLoss(
            learner.model.get_base_model(), learner.device, encoder.end_of_turn, learner.model.disable_adapter
        )
        self._optimizer = Optimizer(learner, spec.recipe)
        self._fingerprint = spec.fingerprint(data.digest)
        self._saved_step = -1
        self._best: Tensors | None = None
        self._recent: deque[StepReport] = deque(maxlen=WINDOW)
        self._laps: deque[float] = deque(maxlen=WINDOW)
        self.plan = Plan([len(example.tokens) for example in data.train], spec.recipe, spec.seed)
        self.state = self._begin()
        self._looks = self._make_looks(encoder)

    @property
    def best_weights(self) -> Tensors:
        """What is to be published: of the best evaluation, or the present ones where none was taken."""
        return self._best if self._best is not None else self._learner.tensors()

    def run(self) -> None:
        """Train to the end.

        Raises:
            StopRequestedError: `stop` was set; there is a checkpoint.
            OutOfMemoryError
            TrainingError: it diverged, or the kill switch halted it.
        """
        try:
            self._run()
        except StopRequestedError:
            self._save()
            raise
        self._save()

    def _run(self) -> None:
        report: StepReport | None = None
        while True:
            began = self._around.clock.monotonic()
            if self._evaluation_due():
                self._evaluate()
            if report is not None:
                self._tell(report)
            looking = self._look()
            if self.state.step and self.state.step % self._recipe.checkpoint_every == 0:
                self._save()
            if self.state.step >= self.plan.steps or self.state.best.exhausted:
                return
            report = self._step()
            self._around.voice.loaded(report.seconds)
            self._laps.append(self._around.clock.monotonic() - began - looking)

    # --- the beginning and checkpoints -----------------------------------------------------------------------

    def _begin(self) -> State:
        """A fresh state, or that of the checkpoint, with tensors and random state put where they belong."""
        micro_batch = min(self._recipe.micro_batch, self._recipe.batch_size)
        snapshot = read_checkpoint(self._spec.checkpoints, self._fingerprint)
        if snapshot is None:
            return State(LossWatch(self._recipe.explode), Best(self._recipe.patience), micro_batch)
        state = snapshot.state
        self._learner.load(snapshot.tensors["adapter"])
        self._optimizer.load(snapshot.tensors["optimizer"], state.step)
        self._best = snapshot.tensors.get("best")
        set_random_state(snapshot.tensors["random"], self._learner.device)
        self._saved_step = state.step
        return replace(state, resumed=state.resumed + 1, micro_batch=min(micro_batch, state.micro_batch))

    def _save(self) -> None:
        if self.state.step == self._saved_step:
            return
        tensors: dict[str, Tensors] = {
            "adapter": self._learner.parameters,
            "optimizer": self._optimizer.tensors(),
            "random": random_state(self._learner.device),
        }
        if self._best is not None:
            tensors["best"] = self._best
        write_checkpoint(self._spec.checkpoints, Snapshot(self.state, tensors), self._fingerprint)
        self._saved_step = self.state.step
        self._around.voice.advance()
        self._around.voice.say(Checkpoint(step=self.state.step))

    # --- steps -----------------------------------------------------------------------------------------------

    def _step(self) -> StepReport:
        step = self.state.step + 1
        batch = self.plan.batch(step)
        examples = [self.data.train[index] for index in batch]
        answer_tokens = sum(example.answer for example in examples)
        began = self._around.clock.monotonic()
        with self._unchanged_if_stopped():
            loss, learned = self._until_it_fits(lambda size: self._gradients(examples, size, answer_tokens))
        grad_norm = self._optimizer.clip()
        if problem := self.state.watch.check(step, learned, grad_norm):
            raise TrainingError(problem)
        rate = self.plan.learning_rate(step)
        self._optimizer.step(rate)
        report = StepReport(
            loss=loss,
            grad_norm=grad_norm,
            learning_rate=rate,
            tokens=sum(len(example.tokens) for example in examples),
            answer_tokens=answer_tokens,
            seconds=self._around.clock.monotonic() - began,
        )
        self._count(report)
        return report

    def _count(self, report: StepReport) -> None:
        state = self.state
        state.step += 1
        state.loss = report.loss
        state.tokens += report.tokens
        state.answer_tokens += report.answer_tokens
        state.seconds += report.seconds
        state.step_seconds += report.seconds
        self._recent.append(report)

    def _gradients(self, examples: Sequence[Example], size: int, answer_tokens: int) -> tuple[float, float | None]:
        """Add up the gradients of a batch, `size` sequences at a time.

        Returns:
            Its loss per answer token; that of what is learned alone, per token of it: None where all of it is kept.
        """
        self._optimizer.clear()
        total, of_learned = (torch.zeros((), device=self._learner.device) for _ in range(2))
        for indexes in cut(range(len(examples)), size):
            self._go_on()
            self._fail_on_demand(len(indexes))
            with self._precision():
                kept, learned = self._loss.parts([examples[index] for index in indexes])
                loss = (kept + learned) / answer_tokens
            loss.backward()
            total += loss.detach()
            of_learned += learned.detach()
            self._around.voice.advance()
        if self._around.fault.strikes_loss(self.state.step + 1):
            return math.nan, math.nan
        tokens = sum(example.answer for example in examples if not example.keep)
        return float(total), float(of_learned) / tokens if tokens else None

    # --- evaluations -----------------------------------------------------------------------------------------

    def _evaluation_due(self) -> bool:
        step = self.state.step
        if not self.data.held_out or self.state.evaluated >= step:
            return False
        return step % self._recipe.evaluate_every == 0 or step == self.plan.steps

    def _evaluate(self) -> None:
        """The loss of the held-out examples, with dropout off; what is best is kept."""
        began = self._around.clock.monotonic()
        examples = sorted(self.data.held_out, key=lambda example: -len(example.tokens))
        self._learner.train(False)
        try:
            loss = self._until_it_fits(lambda size: self._held_out_loss(examples, size))
        finally:
            self._learner.train(True)
        state = self.state
        state.seconds += self._around.clock.monotonic() - began
        state.evaluated = state.step
        if state.step == 0:
            state.held_out_start = loss
            return
        state.held_out_loss = loss
        if state.best.take(state.step, loss):
            self._best = self._learner.tensors()

    def _held_out_loss(self, examples: Sequence[Example], size: int) -> float:
        total = torch.zeros((), device=self._learner.device)
        for indexes in cut(range(len(examples)), size):
            self._go_on()
            with torch.no_grad(), self._precision():
                total += self._loss([examples[index] for index in indexes])
            self._around.voice.advance()
        return float(total) / sum(example.answer for example in examples)

    # --- the kill switch -------------------------------------------------------------------------------------

    def _make_looks(self, encoder: Encoder) -> Looks | None:
        spec, around, learner = self._spec.look, self._around, self._learner
        if spec is None:
            return None
        greedy = Greedy(learner.model.get_base_model(), learner.device, encoder.ends, self._between_tokens)
        ear = Ear(spec.rulings, around.stop.set, self._go_on)
        return Looks(spec, encoder, greedy, ear, around.voice, around.clock)

    def _look(self) -> float:
        """Have the model being trained answer, where that is due; the seconds that it took."""
        looks, step = self._looks, self.state.step
        if looks is None or not looks.is_due(step):
            return 0.0
        began = self._around.clock.monotonic()
        self._learner.train(False)
        try:
            looks.look(step, lambda: self._until_it_fits(lambda size: self._answers(looks, size)))
        finally:
            self._learner.train(True)
        seconds = self._around.clock.monotonic() - began
        self.state.seconds += seconds
        return seconds

    def _answers(self, looks: Looks, size: int) -> list[Written]:
        with self._precision():
            return looks.answers(size)

    def _between_tokens(self) -> None:
        self._go_on()
        self._around.voice.advance()

    # --- stops and memory ------------------------------------------------------------------------------------

    def _until_it_fits(self, work: Callable[[int], T]) -> T:
        """Do `work` with the present micro-batch, halved for good each time that memory runs out."""
        while True:
            try:
                return work(self.state.micro_batch)
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                problem = str(error)
            # Outside the handler, where the traceback does not hold the tensors any more.
            self._optimizer.clear()
            release(self._learner.device)
            self._shrink(problem)

    def _shrink(self, problem: str) -> None:
        size = self.state.micro_batch // 2
        if size == 0:
            raise OutOfMemoryError(f"One sequence at a time does not fit into memory: {problem.splitlines()[0][:500]}")
        self.state.micro_batch = size
        self._around.voice.say(Shrunk(micro_batch=size, accumulation=-(-self._recipe.batch_size // size)))

    def _go_on(self) -> None:
        if self._around.stop.is_set():
            raise StopRequestedError

    @contextmanager
    def _unchanged_if_stopped(self) -> Generator[None]:
        """Dropout has drawn random numbers by the time a step is thrown away: take them back."""
        before = random_state(self._learner.device)
        try:
            yield
        except StopRequestedError:
            set_random_state(before, self._learner.device)
            raise

    def _fail_on_demand(self, sequences: int) -> None:
        if self._around.fault.strikes_memory(self.state.step + 1, sequences):
            raise torch.OutOfMemoryError(f"injected: {sequences} sequences do not fit")

    def _precision(self) -> torch.autocast:
        mixed = self._learner.dtype != torch.float32
        return torch.autocast(self._learner.device.type, dtype=torch.bfloat16, enabled=mixed)

    # --- words -----------------------------------------------------------------------------------------------

    def _tell(self, report: StepReport) -> None:
        state = self.state
        evaluated = state.evaluated == state.step
        seconds = sum(recent.seconds for recent in self._recent)
        looking = self._looks.seconds_left(state.step, self.plan.steps) if self._looks else 0.0
        self._around.voice.say(
            Progress(
                step=state.step,
                steps=self.plan.steps,
                loss=report.loss,
                held_out_loss=state.held_out_loss if evaluated else None,
                learning_rate=report.learning_rate,
                grad_norm=report.grad_norm,
                tokens_per_second=sum(recent.tokens for recent in self._recent) / max(seconds, 1e-9),
                memory_mib=used_mib(self._learner.device),
                eta_seconds=(self.plan.steps - state.step) * sum(self._laps) / len(self._laps) + looking,
            )
        )


def random_state(device: torch.device) -> dict[str, Tensor]:
    """Of the generators that dropout draws from."""
    state = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state(device)
    return state


def set_random_state(state: Tensors, device: torch.device) -> None:
    """The inverse of `random_state`."""
    torch.set_rng_state(state["cpu"])
    if device.type == "cuda" and "cuda" in state:
        torch.cuda.set_rng_state(state["cuda"], device)
