"""The tasks that ship: each can be solved, and its checks tell a wrong solution from a right one (A81)."""

from __future__ import annotations

from pathlib import Path

import pytest

from engine.api_models import Outcome, TaskMode, TaskSpec
from engine.config import load_config
from engine.evaluation.judge import Checks, Judge
from engine.evaluation.programs import Solution
from engine.sandbox.probe import probe
from engine.sandbox.run import Sandbox
from rune_tui.batch_input import read_batch
from rune_tui.commands.batch import shipped_tasks

TASKS = {task.id: task for task in read_batch(shipped_tasks()).tasks}

CACHE = """
class TtlCache:
    def __init__(self, capacity, ttl, now):
        self.capacity, self.ttl, self.now, self.entries = capacity, ttl, now, {}

    def _expire(self):
        now = self.now()
        self.entries = {key: entry for key, entry in self.entries.items() if now - entry[1] < self.ttl}

    def put(self, key, value):
        self._expire()
        self.entries.pop(key, None)
        if len(self.entries) >= self.capacity:
            del self.entries[next(iter(self.entries))]
        self.entries[key] = (value, self.now())

    def get(self, key):
        self._expire()
        if key not in self.entries:
            return None
        self.entries[key] = entry = self.entries.pop(key)
        return entry[0]

    def __len__(self):
        self._expire()
        return len(self.entries)
"""

CALCULATOR = """
import re

def calculate(text):
    tokens = re.findall(r"\\d+|[-+*/()]|\\S", text) + [""]
    def fail():
        raise ValueError(text)
    def factor():
        token = tokens.pop(0)
        if token == "-":
            return -factor()
        if token == "(":
            value = total()
            return value if tokens.pop(0) == ")" else fail()
        return float(token) if token.isdigit() else fail()
    def product():
        value = factor()
        while tokens[0] and tokens[0] in "*/":
            value = value * factor() if tokens.pop(0) == "*" else value / factor()
        return value
    def total():
        value = product()
        while tokens[0] and tokens[0] in "+-":
            value = value + product() if tokens.pop(0) == "+" else value - product()
        return value
    value = total()
    return value if tokens == [""] else fail()
"""

WORDS = """
def word_report(text):
    words = text.lower().split()
    return {"total": len(words), "distinct": len(set(words)), "longest": max(words, key=len, default="")}
"""

TEMPERATURE = """
def celsius_to_fahrenheit(celsius):
    return celsius * 9 / 5 + 32

def fahrenheit_to_celsius(fahrenheit):
    return (fahrenheit - 32) * 5 / 9
"""

STOCK = """
def parse_stock(text):
    rows = [line.split(",") for line in text.splitlines() if line]
    return [{"name": name, "quantity": int(quantity), "price": int(price)} for name, quantity, price in rows]

def total_value(items):
    return sum(item["quantity"] * item["price"] for item in items)

def to_reorder(items, minimum):
    return sorted(item["name"] for item in items if item["quantity"] < minimum)
"""

DICE = """
import random

def dice_total(count):
    return sum(random.randint(1, 6) for _ in range(count))
"""

PRIME = """
def is_prime(number):
    return number > 1 and all(number % divisor for divisor in range(2, int(number ** 0.5) + 1))
"""

REFERENCE: dict[str, tuple[str, tuple[str, str]]] = {
    "add-two": ("def add(x, y):\n    return x + y", ("x + y", "x - y")),
    "string-length": ("def text_length(text):\n    return len(text)", ("len(text)", "len(text.strip())")),
    "keep-positive": ("def keep_positive(numbers):\n    return [n for n in numbers if n > 0]", ("> 0", ">= 0")),
    "increment-all": ("def increment_all(numbers):\n    return [n + 1 for n in numbers]", ("+ 1", "+ 2")),
    "below-limit": ("def all_below(numbers, limit):\n    return all(n < limit for n in numbers)", ("<", "<=")),
    "glue-strings": ('def glue(parts):\n    return "".join(parts)', ('""', '" "')),
    "starts-with": (
        "def with_prefix(words, prefix):\n    return [w for w in words if w.startswith(prefix)]",
        ("w.startswith(prefix)", "prefix in w"),
    ),
    "prime-check": (PRIME, ("number > 1", "number > 0")),
    "dice-total": (DICE, ("randint(1, 6)", "randint(0, 6)")),
    "temperature-project": (TEMPERATURE, ("+ 32", "+ 30")),
    "word-report-project": (WORDS, ("text.lower()", "text")),
    "ttl-cache": (CACHE, ("self.entries[key] = entry = self.entries.pop(key)", "entry = self.entries[key]")),
    "calculator": (CALCULATOR, ("return -factor()", "return factor()")),
    "stock-project": (STOCK, ("< minimum", "<= minimum + 100")),
}


@pytest.fixture(scope="module")
def judge() -> Judge:
    settings = load_config(Path("/nonexistent/config.toml")).sandbox
    return Judge(Sandbox(settings, probe(settings)))


def test_there_are_enough_in_both_modes_and_each_has_a_reference() -> None:
    assert set(REFERENCE) == set(TASKS) and len(TASKS) >= 10
    modes = [task.mode for task in TASKS.values()]
    assert modes.count(TaskMode.PROJECT) >= 2 and modes.count(TaskMode.ATTEMPT) >= 2
    assert any(task.in_process for task in TASKS.values()) and any(task.files for task in TASKS.values())
    assert all(task.tests or task.cases for task in TASKS.values())


async def passes(judge: Judge, task: TaskSpec, code: str) -> tuple[bool, str]:
    checks = Checks(task.tests, task.cases, task.in_process)
    verdict = await judge.check(Solution(code, task.files, task.entry_point), checks)
    assert not verdict.infrastructure, verdict
    return verdict.passed, verdict.strength


@pytest.mark.parametrize("name", TASKS)
async def test_the_reference_passes_and_its_mutant_does_not(name: str, judge: Judge) -> None:
    code, (right, wrong) = REFERENCE[name]
    expected = Outcome.VERIFIED_IN_PROCESS if TASKS[name].in_process else Outcome.VERIFIED
    assert await passes(judge, TASKS[name], code) == (True, expected)
    assert right in code
    passed, _ = await passes(judge, TASKS[name], code.replace(right, wrong))
    assert not passed, "a mutant must not pass"
