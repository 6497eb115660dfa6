"""Compositions of a private API's steps: what they do, what they are called in English, and which cannot be told apart.

A composition asks for something only when no shorter one does the same (ordering right after reversing is just
ordering), and a set of inputs checks it only when every other short composition fails on them, unless that does the
same on all inputs. Both are found out by running them.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from random import Random
from types import ModuleType
from typing import Any

CONSTANTS = (2, 3, 4, 5, 6)
"""The numbers that a step may be given."""

PROBES = 40
"""Inputs on which two compositions that give the same are taken to be the same."""
PROBE_LENGTHS = range(7, 12)
"""As long as any input of a task: all longer than the largest number that a step is given."""
TELLING = 0.6
"""Share of the probes that must give different answers; what leaves next to nothing can hardly be checked."""

RIVAL_DEPTH = 2
"""Every composition up to here is a rival of each; of longer ones, those that differ in one place."""

MAX_PICKS = 20
"""Of inputs from a pool, of which the one that confuses least is taken."""
MAX_DRAWS = 20_000
"""Of an input that tells two compositions apart; one of the probes did."""

OFFERED = 12
"""Inputs of which the one that tells most apart is taken."""

LOOKED_AT = 3
"""Of those, the ones on which the many near rivals are run too."""

Step = tuple[str, int | None]
"""Name of an operation, and its number if it takes one."""
Steps = tuple[Step, ...]
"""In the order in which they are done."""
Value = Any
"""What the library works on: a list of numbers, or a text."""


@dataclass(frozen=True)
class Operation:
    """One function of a private API, and how a task asks for it."""

    name: str
    takes_number: bool
    known: tuple[str, ...]
    """Wordings of every group but `paraphrase`; `{n}` is the number."""
    unseen: tuple[str, ...]
    """Wordings of the group `paraphrase` alone."""

    def steps(self) -> tuple[Step, ...]:
        """It, with each number that it may be given."""
        return tuple((self.name, n) for n in CONSTANTS) if self.takes_number else ((self.name, None),)


@dataclass(frozen=True, eq=False)
class Library:
    """A private API: eight operations in a ring, whose distances decide which split a pair of them is for."""

    name: str
    title: str
    module: ModuleType
    parameter: str
    operations: tuple[Operation, ...]
    draw: Callable[[Random, int], Value]
    """An input of about that many elements."""

    @cached_property
    def by_name(self) -> dict[str, Operation]:
        """The operations by their names."""
        return {operation.name: operation for operation in self.operations}

    @cached_property
    def behaviour(self) -> Behaviour:
        """What its compositions do; costs a moment, once."""
        return Behaviour(self)

    def run(self, steps: Steps, value: Value) -> Value:
        """Do the steps."""
        for name, number in steps:
            function = getattr(self.module, name)
            value = function(value) if number is None else function(number, value)
        return value

    def source(self, steps: Steps) -> str:
        """The reference solution: a step a line, in the order in which the task asks for them.

        One call inside the other would turn the order round, and a small model that learned two steps so wrote a pair
        that it had seen instead of one that it had not.
        """
        x = self.parameter
        calls = [f"    {x} = {name}({x})" if n is None else f"    {x} = {name}({n}, {x})" for name, n in steps]
        return "\n".join((f"def solve({x}):", *calls, f"    return {x}"))

    def pool(self, seed: str, size: int, lengths: Sequence[int]) -> tuple[Value, ...]:
        """Different inputs, drawn from the seed."""
        random = Random(f"{self.name}:{seed}")
        found: dict[str, Value] = {}
        while len(found) < size:
            value = self.draw(random, random.choice(lengths))
            found[repr(value)] = value
        return tuple(found.values())


class Behaviour:
    """What the compositions of one library do, as far as its probes tell. Keeps what it has found out."""

    def __init__(self, library: Library) -> None:
        self._library = library
        self._probes = library.pool("probes", PROBES, PROBE_LENGTHS)
        self._signatures: dict[Steps, tuple[str, ...]] = {}

    def signature(self, steps: Steps) -> tuple[str, ...]:
        """Its answers on the probes: the same for compositions that do the same."""
        known = self._signatures.get(steps)
        if known is None:
            known = tuple(repr(self._library.run(steps, probe)) for probe in self._probes)
            self._signatures[steps] = known
        return known

    def is_whole(self, steps: Steps) -> bool:
        """Each of its steps matters, and its answer tells inputs apart: it is not mostly empty."""
        signature = self.signature(steps)
        shorter = (part for size in range(len(steps)) for part in itertools.combinations(steps, size))
        return len(set(signature)) >= TELLING * PROBES and all(self.signature(part) != signature for part in shorter)

    def equal(self, steps: Steps) -> set[Steps]:
        """The short compositions that do the same."""
        return self._equal.get(self.signature(steps), set())

    @cached_property
    def _equal(self) -> dict[tuple[str, ...], set[Steps]]:
        """Whole from the moment that another thread can see it."""
        found: dict[tuple[str, ...], set[Steps]] = {}
        for other in short_compositions(self._library):
            found.setdefault(self.signature(other), set()).add(other)
        return found


class Inputs:
    """A pool of inputs, with the answers of every rival, from which those that tell a composition apart are drawn."""

    def __init__(self, library: Library, pool: Sequence[Value]) -> None:
        self.pool = pool
        self._library = library
        self._giving: list[dict[str, set[Steps]]] = [{} for _ in pool]
        for steps in short_compositions(library):
            for index, value in enumerate(pool):
                self._giving[index].setdefault(repr(library.run(steps, value)), set()).add(steps)

    def choose(self, steps: Steps, count: int, random: Random) -> tuple[tuple[Value, Value], ...]:
        """`count` inputs with their answers: whatever does something else than `steps` fails on one of them.

        Where the pool has no such few, some more are drawn, one for each composition that is still confused with it.

        Raises:
            ValueError: none were found in `MAX_DRAWS` draws.
        """
        answers = [repr(self._library.run(steps, value)) for value in self.pool]
        picks = (self._pick(steps, answers, count, random) for _ in range(MAX_PICKS))
        chosen, confused = min(_until_clean(picks), key=lambda pick: len(pick[1]))
        values = [self.pool[index] for index in chosen]
        while confused:
            values.append(self._telling(steps, confused[0], random))
            confused = [rival for rival in confused if self._alike(steps, rival, values[-1])]
        return tuple((value, self._library.run(steps, value)) for value in values)

    def _pick(self, steps: Steps, answers: Sequence[str], count: int, random: Random) -> tuple[list[int], list[Steps]]:
        """Inputs, each the best of a few, and the rivals that pass on all of them though they do something else."""
        near = list(neighbours(self._library, steps)) if len(steps) > RIVAL_DEPTH else []
        short: set[Steps] | None = None
        chosen: list[int] = []
        for _ in range(count):
            offered = [index for index in random.sample(range(len(self.pool)), OFFERED) if index not in chosen]
            shorts = {index: self._short(index, answers[index], short) for index in offered}
            few = sorted(offered, key=lambda index: len(shorts[index]))[:LOOKED_AT]
            nears = {index: self._passing(near, index, answers[index]) for index in few}
            best = min(few, key=lambda index: len(shorts[index]) + len(nears[index]))
            chosen.append(best)
            short, near = shorts[best], nears[best]
        behaviour = self._library.behaviour
        signature = behaviour.signature(steps)
        wrong = sorted((short or set()) - behaviour.equal(steps), key=repr)
        return chosen, wrong + [rival for rival in near if behaviour.signature(rival) != signature]

    def _short(self, index: int, answer: str, among: set[Steps] | None) -> set[Steps]:
        giving = self._giving[index].get(answer, set())
        return giving if among is None else giving & among

    def _passing(self, rivals: Sequence[Steps], index: int, answer: str) -> list[Steps]:
        return [rival for rival in rivals if repr(self._library.run(rival, self.pool[index])) == answer]

    def _alike(self, steps: Steps, rival: Steps, value: Value) -> bool:
        return bool(self._library.run(rival, value) == self._library.run(steps, value))

    def _telling(self, steps: Steps, rival: Steps, random: Random) -> Value:
        for _ in range(MAX_DRAWS):
            value = self._library.draw(random, random.choice(PROBE_LENGTHS))
            if not self._alike(steps, rival, value):
                return value
        raise ValueError(f"{self._library.name}: no inputs tell {steps} from {rival}")


def _until_clean(picks: Iterator[tuple[list[int], list[Steps]]]) -> Iterator[tuple[list[int], list[Steps]]]:
    """The picks up to the first that confuses nothing."""
    for pick in picks:
        yield pick
        if not pick[1]:
            return


def short_compositions(library: Library) -> Iterator[Steps]:
    """Every composition of at most `RIVAL_DEPTH` steps, the empty one included."""
    single = [step for operation in library.operations for step in operation.steps()]
    for depth in range(RIVAL_DEPTH + 1):
        yield from itertools.product(single, repeat=depth)


def neighbours(library: Library, steps: Steps) -> Iterator[Steps]:
    """What one wrong step or two steps in the wrong order make of it."""
    single = [step for operation in library.operations for step in operation.steps()]
    for index, right in enumerate(steps):
        yield from ((*steps[:index], wrong, *steps[index + 1 :]) for wrong in single if wrong != right)
    yield from (order for order in itertools.permutations(steps) if order != steps)
