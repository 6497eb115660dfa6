"""One job from its spec to its PEFT directory. Imports torch: `__main__` imports this when its heart beats."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from engine.training.protocol import Loading, Metrics
from engine.training.qlora.data import Encoder, read_dataset
from engine.training.qlora.loop import Loop, StopRequestedError, Surroundings
from engine.training.qlora.memory import peak_mib
from engine.training.qlora.model import Learner, adapter_config, load_learner, load_tokenizer
from engine.training.qlora.output import write_output
from engine.training.spec import TrainSpec, recipe_digest


@dataclass(frozen=True)
class Job:
    """A job whose model is loaded."""

    spec: TrainSpec
    learner: Learner
    loop: Loop


def run_job(spec: TrainSpec, around: Surroundings, threads: int, started: float) -> Metrics:
    """Load, train, write the output.

    Args:
        threads: of torch's arithmetic; the same number gives the same sums.
        started: when the process began, on the clock of `around`.

    Raises:
        StopRequestedError, OutOfMemoryError, TrainingError, OSError
    """
    torch.set_num_threads(threads)
    job = load_job(spec, around)
    loaded = around.clock.monotonic() - started
    job.loop.run()
    write_output(spec.output, job.loop.best_weights, adapter_config(spec, job.learner))
    return _metrics(job, loaded)


def load_job(spec: TrainSpec, around: Surroundings) -> Job:
    """Tokenize the data, then load the model: data that is not valid is refused before anything large is read."""

    def stage(note: str) -> None:
        if around.stop.is_set():
            raise StopRequestedError
        around.voice.advance()
        around.voice.say(Loading(note=note))

    torch.manual_seed(spec.seed)
    stage("reading the data")
    tokenizer = load_tokenizer(spec)
    encoder = Encoder(tokenizer)
    data = read_dataset(spec.data, encoder, spec.recipe.max_tokens)
    stage(f"{len(data.train)} examples, {len(data.held_out)} held out, {data.too_long} too long; loading the model")
    learner = load_learner(spec)
    stage(f"{len(learner.parameters)} weight matrices to train in {learner.compute}")
    loop = Loop(spec, learner, data, encoder, around)
    stage(f"continuing after step {loop.state.step}" if loop.state.resumed else "starting")
    return Job(spec, learner, loop)


def _metrics(job: Job, start_seconds: float) -> Metrics:
    spec, state, data = job.spec, job.loop.state, job.loop.data
    chosen = state.best.loss is not None
    return Metrics(
        steps=state.step,
        planned_steps=job.loop.plan.steps,
        best_step=state.best.step if chosen else state.step,
        final_loss=state.loss,
        best_loss=state.loss if state.best.loss is None else state.best.loss,
        held_out_start=state.held_out_start,
        held_out_loss=state.best.loss,
        stopped_early=state.step < job.loop.plan.steps,
        examples=len(data.train),
        held_out=len(data.held_out),
        too_long=data.too_long,
        tokens=state.tokens,
        answer_tokens=state.answer_tokens,
        seconds=state.seconds,
        tokens_per_second=state.tokens / max(state.step_seconds, 1e-9),
        start_seconds=start_seconds,
        peak_mib=peak_mib(job.learner.device),
        micro_batch=state.micro_batch,
        parameters=sum(parameter.numel() for parameter in job.learner.parameters.values()),
        compute=job.learner.compute,
        method=spec.recipe.method,
        resumed=state.resumed,
        data_digest=data.digest,
        recipe_digest=recipe_digest(spec.recipe),
        base_digest=spec.base_digest,
        seed=spec.seed,
    )
