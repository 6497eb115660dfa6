"""The closed loop with nothing scripted: the embedded SmolLM2 learns a small private API by itself and is promoted.

One command: the model tries and knows nothing, the explorer solves the train split, the trainer learns from what was
verified, llama.cpp serves the published adapter, and the gate, of compositions that nobody trained on, proves the gain.
The recipe is the smallest that does it: few layers, few steps, short answers. `benchmarks/learn.py` has the real sizes.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from batch_process import rune
from support.kit import KIT, write_lines

from engine.api_evolution import ImproveReport

pytestmark = [pytest.mark.model, pytest.mark.slow, pytest.mark.timeout(1800)]

SETTINGS = """
[inference]
threads = {threads}
parallel = 8
[generation]
max_tokens = {tokens}
[pipeline]
sessions_at_once = 4
[evaluation]
at_once = 8
max_tokens = {tokens}
bootstrap = 400
batch_tasks = 8
max_loss = 0.4                  # forty answers are a coarse anchor: one lost leaves a loss of 25 points possible
max_perplexity_rise = 0         # not measured: likewise
[presets.tiny]
method = "lora"
first_layer = 22
rank = 8
alpha = 16
epochs = 20
max_steps = {steps}
batch_size = 8
micro_batch = 8
max_tokens = 128
learning_rate = 3e-3
warmup_ratio = 0.1
held_out = 0.0
threads = {threads}
"""
TOKENS, STEPS = 32, 40
NEXT = {"id": "next", "prompt": "kit: dax, then zorb.", "task_type": "kit", "mode": "attempt", "max_attempts": 1}


@pytest.fixture
def place(home: Path, tmp_path: Path) -> Iterator[Path]:
    """A home with the suite in it; its engine ends with the test."""
    home.mkdir(parents=True)
    threads = len(os.sched_getaffinity(0))
    (home / "config.toml").write_text(SETTINGS.format(threads=threads, tokens=TOKENS, steps=STEPS))
    suite = write_lines(tmp_path / "kit.jsonl", replace(KIT, deeper=KIT.deeper[:2]).tasks(by_name=True))
    assert rune(home, "engine", "start").returncode == 0
    added = rune(home, "suite", "add", str(suite), "--name", "kit")
    assert added.returncode == 0, added.stderr
    yield home
    rune(home, "engine", "stop")


def test_a_round_on_the_real_model_ends_in_a_promotion_and_the_next_task_uses_it(place: Path, tmp_path: Path) -> None:
    asked = ("--suite", "kit", "--preset", "tiny", "--rehearse", "general")
    done = rune(place, "improve", *asked, "--json", timeout=1500)
    assert done.returncode == 0, done.stderr
    report = ImproveReport.model_validate(json.loads(done.stdout)["result"])
    (first,) = report.rounds
    evidence = first.evidence
    assert evidence is not None, first.reason
    assert first.promoted and report.adapter_id == first.adapter_id, (first.reason, evidence.reasons, done.stderr)
    assert (evidence.incumbent, evidence.e_value >= evidence.threshold) == ("base", True)
    assert evidence.adapter_rate.passed - evidence.incumbent_rate.passed >= 5
    assert (evidence.contamination.checked, evidence.contamination.exact, evidence.contamination.near) == (True, 0, 0)
    assert first.solved_by_explorer >= 20, "the model knows nothing of this API"

    following = tmp_path / "next.jsonl"
    following.write_text(json.dumps(NEXT) + "\n")
    rune(place, "--batch", str(following), "--output", str(tmp_path / "out"), timeout=300)
    (session,) = json.loads(rune(place, "sessions", "list", "--limit", "1", "--json").stdout)
    assert session["adapter"] == first.adapter_id, session["adapter_reason"]
