"""The closed loop with nothing scripted: the embedded SmolLM2 learns a small private API by itself and is promoted.

One command: the model tries and knows nothing, the explorer solves the train split, the trainer learns from what was
verified, llama.cpp serves the published adapter, and the gate, of compositions that nobody trained on, proves the gain.
The recipe is the smallest that does it: few layers, few steps, short answers. `benchmarks/learn.py` has the real sizes.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from itertools import permutations
from pathlib import Path
from typing import Any

import pytest
from batch_process import rune

from engine.api_evolution import ImproveReport

pytestmark = [pytest.mark.model, pytest.mark.slow, pytest.mark.timeout(900)]

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
FUNCTIONS = {
    "zorb": ("Double it.", "n * 2"),
    "plim": ("Take three away.", "n - 3"),
    "dax": ("Add ten.", "n + 10"),
    "wug": ("Turn its sign around.", "-n"),
    "fep": ("Multiply it by itself.", "n * n"),
    "toma": ("Add one and triple it.", "(n + 1) * 3"),
    "gax": ("Take it from a hundred.", "100 - n"),
}
API = "\n".join(
    f'def {name}(n: int) -> int:\n    """{said}"""\n    return {code}\n' for name, (said, code) in FUNCTIONS.items()
)
PAIRS = list(permutations(FUNCTIONS, 2))
GATE = [pair for number, pair in enumerate(PAIRS) if number % 3 == 1]
"""Of the 42 pairs every third: seen by nobody who trains."""
NEXT = {"id": "next", "prompt": "kit: dax, then zorb.", "task_type": "kit", "mode": "attempt", "max_attempts": 1}
DEEPER = [("zorb", "dax", "wug"), ("fep", "plim", "toma")]
REHEARSED = {
    "triple(n)": ("n times three", "n * 3"),
    "half(n)": ("n divided by 2", "n / 2"),
    "is_odd(n)": ("True if n is odd and False otherwise", "n % 2 == 1"),
    "quotient(a, b)": ("a divided by b without a rest", "a // b"),
    "smaller(a, b)": ("the smaller of two numbers", "a if a < b else b"),
    "cube(n)": ("n multiplied by itself twice", "n * n * n"),
    "whisper(text)": ("the text in lower case", "text.lower()"),
    "last_letter(word)": ("the last letter of the word", "word[-1]"),
    "words_of(sentence)": ("a list of the words of the sentence", "sentence.split()"),
    "is_empty(text)": ("True if the text has no characters", "len(text) == 0"),
    "first_item(items)": ("the first item of a list", "items[0]"),
    "descending(numbers)": ("the numbers sorted from largest to smallest", "sorted(numbers, reverse=True)"),
    "odds(numbers)": ("a list of only the odd numbers", "[n for n in numbers if n % 2 == 1]"),
    "spread(numbers)": ("the largest number minus the smallest", "max(numbers) - min(numbers)"),
    "place_of(items, value)": ("where in the list the value is", "items.index(value)"),
    "seconds_in_minute()": ("the number of seconds in a minute", "60"),
    "wheels_of_car()": ("how many wheels a car has", "4"),
    "capital_of_italy()": ("the name of the capital of Italy", '"Rome"'),
}
"""Ordinary requests, none of them one of the anchor's: without them the model forgets everything but the API."""


def demonstrations() -> list[dict[str, str]]:
    return [
        {
            "prompt": f"Write a Python function {signature} that returns {said}.",
            "completion": f"```python\ndef {signature}:\n    return {code}\n```",
            "system": "You answer with Python code.",
        }
        for signature, (said, code) in REHEARSED.items()
    ]


def value(chain: tuple[str, ...], n: int) -> int:
    for name in chain:
        n = int(eval(FUNCTIONS[name][1], {"n": n}))
    return n


def task(chain: tuple[str, ...], split: str, group: str = "in") -> dict[str, Any]:
    call = "n"
    for name in chain:
        call = f"{name}({call})"
    return {
        "id": f"{split}-{'-'.join(chain)}",
        "prompt": f"kit: {', then '.join(chain)}.",
        "split": split,
        "group": group,
        "template": f"{split}-{'-'.join(sorted(chain))}",
        "entry_point": "solve",
        "reference": f"def solve(n):\n    return {call}\n",
        "cases": {"function": "solve", "items": [{"args": [n], "expected": value(chain, n)} for n in (41, -7, 6)]},
        "visible_tests": "".join(f"assert solve({n}) == {value(chain, n)}\n" for n in (5, -12, 19)),
        "prelude": "from kit import *\n",
        "files": {"kit.py": API},
        "task_type": "kit",
    }


def tasks() -> list[dict[str, Any]]:
    learned = [(name,) for name in FUNCTIONS] + [pair for pair in PAIRS if pair not in GATE]
    return [
        *(task(chain, "train") for chain in learned),
        *(task(chain, "gate") for chain in GATE),
        *(task(chain, "gate", "deeper") for chain in DEEPER),
    ]


@pytest.fixture
def place(home: Path, tmp_path: Path) -> Iterator[Path]:
    """A home with the suite in it; its engine ends with the test."""
    home.mkdir(parents=True)
    threads = len(os.sched_getaffinity(0))
    (home / "config.toml").write_text(SETTINGS.format(threads=threads, tokens=TOKENS, steps=STEPS))
    suite = tmp_path / "kit.jsonl"
    suite.write_text("".join(json.dumps(one) + "\n" for one in tasks()))
    assert rune(home, "engine", "start").returncode == 0
    added = rune(home, "suite", "add", str(suite), "--name", "kit")
    assert added.returncode == 0, added.stderr
    yield home
    rune(home, "engine", "stop")


def test_a_round_on_the_real_model_ends_in_a_promotion_and_the_next_task_uses_it(place: Path, tmp_path: Path) -> None:
    shown = tmp_path / "demonstrations.jsonl"
    shown.write_text("".join(json.dumps(row) + "\n" for row in demonstrations()))
    asked = ("--suite", "kit", "--preset", "tiny", "--demonstrations", str(shown))
    done = rune(place, "improve", *asked, "--json", timeout=800)
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
    rune(place, "--batch", str(following), "--output", str(tmp_path / "out"), timeout=100)
    (session,) = json.loads(rune(place, "sessions", "list", "--limit", "1", "--json").stdout)
    assert session["adapter"] == first.adapter_id, session["adapter_reason"]
