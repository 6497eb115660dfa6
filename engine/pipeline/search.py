"""The explorer's search: compositions of calls, smallest first, until one gives every example's result.

    inputs and constants ──► level 1: one call ──► level 2: two calls ──► ... ──► a level with a match, or the budget
                                    │
                                    └─ gives what a smaller program gives: dropped (observational equivalence)

A program is a call whose arguments are inputs, constants or smaller programs. Each is run on all examples at once, from
the values of its parts, so a program costs one call for each example however deep it is. Programs that agree on all
examples are interchangeable as parts, so only the first of them is built on.

This module runs inside the sandbox, beside the code that it calls, so it imports nothing but Python's own modules.
What it prints is one line of JSON; the engine believes none of it but checks the expression and has the judge run it.
"""

from __future__ import annotations

import ast
import copy
import importlib
import itertools
import json
import os
import random
import signal
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

ANY = "any"
"""A type that is not said: fits every other one."""
MAX_LEVEL = 8
"""Calls of one program: what the budget allows is less wherever there is anything to choose from."""
MAX_FOUND = 5
"""Programs that are given back, best first: more than one, since the judge may see more than the search."""
MAX_EQUAL = 3
"""Programs that agree on every example and are built on all the same: of several orders of the same calls, the one
that the text gives may be the last to be found, and a model is to learn the text's."""
MAX_VALUE_CHARS = 4096
"""Of a value as text; a larger one is no part of an answer to a small example."""
CALL_S = 0.5
"""One call may take so long: what loops forever must not end the search."""
MAX_HANGS = 3
"""A call that hung so often is not tried again."""


class TooSlow(BaseException):
    """A call took longer than CALL_S. Not an Exception: the code under the call must not be able to swallow it."""


@dataclass(frozen=True)
class Call:
    """One way to call a function: `takes` are the types of its positional arguments."""

    name: str
    takes: tuple[str, ...]
    gives: str
    places: tuple[int, ...] = ()
    """Where in the task's text the words of its docstring stand."""


@dataclass(frozen=True)
class Constant:
    """A value to call with."""

    kind: str
    value: Any
    place: int | None = None
    """Where in the task's text it stands; None: it does not."""


@dataclass(frozen=True)
class Problem:
    """What is searched, and how far."""

    calls: tuple[Call, ...]
    parameters: tuple[tuple[str, str], ...]
    constants: tuple[Constant, ...]
    arguments: tuple[tuple[Any, ...], ...]
    """Of each example."""
    expected: tuple[Any, ...]
    budget: int
    seed: int


@dataclass(frozen=True)
class Part:
    """A program and what it gives on each example."""

    expression: str
    kind: str
    values: tuple[Any, ...]
    moves: bool
    """Depends on the inputs."""
    places: tuple[int, ...] = ()
    """Where in the text its steps stand, innermost first; of a constant, where it stands itself."""
    named: frozenset[int] = frozenset()
    """Where the text's constants stand that it uses."""
    likeness: int = 0
    """Words that its calls share with the text."""


@dataclass(frozen=True)
class Outcome:
    """What the search came to."""

    found: tuple[str, ...]
    """Best first: of equal size, those that use more of the text's constants and words, and in the text's order."""
    programs: int
    """That were run."""
    level: int
    """Calls of the largest."""


def fits(given: str, wanted: str) -> bool:
    """Whether a value of one type may stand where the other is wanted; what is not said fits."""
    if ANY in (given, wanted) or given == wanted:
        return True
    bare, of = given.split("[", 1)[0], wanted.split("[", 1)[0]
    return bare == of and ("[" not in given or "[" not in wanted or ANY in given or ANY in wanted)


def search(problem: Problem, functions: Mapping[str, Callable[..., Any]]) -> Outcome:
    """Search until a level has a match, or the budget is spent.

    Args:
        functions: by name; they may raise, hang, change their arguments or end the process, and only the last hurts.
    """
    return _Search(problem, functions).run()


class _Search:
    """Owner of what is known: parts by level, the values that were seen, and the matches."""

    def __init__(self, problem: Problem, functions: Mapping[str, Callable[..., Any]]) -> None:
        self._problem = problem
        self._functions = functions
        draw = random.Random(problem.seed)
        # The seed decides among calls that the text likes equally: another seed may find another program.
        self._calls = sorted(draw.sample(problem.calls, len(problem.calls)), key=lambda call: -len(call.places))
        self._levels: list[list[Part]] = [self._terminals()]
        self._seen = Counter(_key(part.values) for part in self._levels[0])
        self._hangs: Counter[str] = Counter()
        self._found: list[Part] = []
        self._programs = 0

    def run(self) -> Outcome:
        for part in self._levels[0]:  # the answer may be an input as it is
            self._look(part)
        while not self._found and self._programs < self._problem.budget and len(self._levels) <= MAX_LEVEL:
            self._levels.append([])
            self._grow(len(self._levels) - 1)
            if not self._levels[-1] and not self._found and self._is_dry():
                break
        best = sorted(self._found, key=lambda part: (-len(part.named), -part.likeness, _disorder(part.places)))
        return Outcome(tuple(part.expression for part in best[:MAX_FOUND]), self._programs, len(self._levels) - 1)

    def _terminals(self) -> list[Part]:
        problem = self._problem
        inputs = [
            Part(name, kind, tuple(arguments[index] for arguments in problem.arguments), moves=True)
            for index, (name, kind) in enumerate(problem.parameters)
        ]
        constants: list[Part] = []
        for constant in problem.constants:
            places = () if constant.place is None else (constant.place,)
            values = (constant.value,) * len(problem.arguments)
            constants.append(Part(repr(constant.value), constant.kind, values, False, places, frozenset(places)))
        return inputs + constants

    def _grow(self, level: int) -> None:
        """Every program of so many calls, from parts that are known."""
        for call in self._calls:
            for parts in self._arguments(call, level - 1):
                if self._programs >= self._problem.budget:
                    return
                if self._hangs[call.name] >= MAX_HANGS:
                    break
                self._programs += 1
                self._try(call, parts, level)

    def _arguments(self, call: Call, calls: int) -> Iterator[tuple[Part, ...]]:
        """Arguments of the right types with so many calls in all, at least one of which depends on the inputs."""
        for split in _splits(calls, len(call.takes)):
            choices = [
                [part for part in self._levels[size] if fits(part.kind, kind)]
                for size, kind in zip(split, call.takes, strict=True)
            ]
            for parts in itertools.product(*choices):
                if any(part.moves for part in parts):
                    yield parts

    def _try(self, call: Call, parts: Sequence[Part], level: int) -> None:
        values = self._call(call.name, parts)
        if values is None:
            return
        arguments = ", ".join(part.expression for part in parts)
        made = Part(
            f"{call.name}({arguments})",
            call.gives,
            values,
            moves=True,
            places=(*itertools.chain(*(part.places for part in parts if part.moves)), *_place(call, parts)),
            named=frozenset[int]().union(*(part.named for part in parts)),
            likeness=len(call.places) + sum(part.likeness for part in parts),
        )
        self._look(made)
        key = _key(values)
        if self._seen[key] < MAX_EQUAL:
            self._seen[key] += 1
            self._levels[level].append(made)

    def _call(self, name: str, parts: Sequence[Part]) -> tuple[Any, ...] | None:
        """What the call gives on each example; None where it fails on one."""
        results: list[Any] = []
        for index in range(len(self._problem.arguments)):
            try:
                with _Limit():
                    arguments = copy.deepcopy([part.values[index] for part in parts])  # it may change them in place
                    results.append(self._functions[name](*arguments))
                    small = len(repr(results[-1])) <= MAX_VALUE_CHARS
            except TooSlow:
                self._hangs[name] += 1
                return None
            except (Exception, SystemExit):
                return None
            if not small:
                return None
        return tuple(results)

    def _look(self, part: Part) -> None:
        try:
            if all(map(_same, part.values, self._problem.expected)):
                self._found.append(part)
        except Exception:  # a value whose comparison raises is no match
            return

    def _is_dry(self) -> bool:
        """Nothing new for as long as the largest part could still be combined with others."""
        return not any(self._levels[len(self._levels) // 2 :])


class _Limit:
    """A block that must end within CALL_S."""

    def __enter__(self) -> None:
        signal.setitimer(signal.ITIMER_REAL, CALL_S)

    def __exit__(self, *_: object) -> None:
        signal.setitimer(signal.ITIMER_REAL, 0)


def _splits(total: int, places: int) -> Iterator[tuple[int, ...]]:
    """Every way to share `total` among so many places."""
    if places == 1:
        yield (total,)
        return
    for first in range(total + 1):
        for rest in _splits(total - first, places - 1):
            yield (first, *rest)


def _place(call: Call, parts: Sequence[Part]) -> tuple[int, ...]:
    """Where the text speaks of this step: at the constant that it is given, else at the first word of its docstring."""
    return next((part.places for part in parts if part.places and not part.moves), call.places[:1])


def _disorder(places: Sequence[int]) -> int:
    """Pairs that stand in the text the other way round than in the program."""
    return sum(earlier > later for earlier, later in itertools.combinations(places, 2))


def _key(values: tuple[Any, ...]) -> str:
    return repr(values)


def _same(value: Any, expected: Any) -> bool:
    """As `==`, but True is not 1, and a tuple may answer for a list: the examples may come from JSON."""
    if isinstance(value, tuple) and isinstance(expected, list):
        value = list(value)
    return bool(value == expected) and isinstance(value, bool) == isinstance(expected, bool)


def _raise_too_slow(number: int, frame: object) -> None:
    raise TooSlow


def _load(wanted: Mapping[str, str]) -> dict[str, Callable[..., Any]]:
    """Name of a function -> its module; what cannot be imported is left out."""
    functions: dict[str, Callable[..., Any]] = {}
    for name, module in wanted.items():
        try:
            functions[name] = getattr(importlib.import_module(module), name)
        except (Exception, SystemExit):
            continue
    return functions


def _main() -> None:
    """Read the problem from stdin, print the outcome as the last line; what the calls print goes nowhere."""
    data = json.load(sys.stdin)
    answer = os.fdopen(os.dup(1), "w")
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.dup2(nowhere, 2)
    sys.path.insert(0, os.getcwd())
    signal.signal(signal.SIGALRM, _raise_too_slow)
    functions = _load(data["modules"])
    calls = [Call(name, tuple(takes), gives, tuple(places)) for name, takes, gives, places in data["calls"]]
    outcome = search(
        Problem(
            calls=tuple(call for call in calls if call.name in functions),
            parameters=tuple((name, kind) for name, kind in data["parameters"]),
            # Python's notation: JSON has no sets and no tuples.
            constants=tuple(Constant(*constant) for constant in ast.literal_eval(data["constants"])),
            arguments=ast.literal_eval(data["arguments"]),
            expected=ast.literal_eval(data["expected"]),
            budget=data["budget"],
            seed=data["seed"],
        ),
        functions,
    )
    json.dump({"found": outcome.found, "programs": outcome.programs, "level": outcome.level}, answer)
    answer.flush()
    os._exit(0)  # threads and exit handlers of the calls have no say


if __name__ == "__main__":
    _main()
