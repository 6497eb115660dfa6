"""Makes the suite of a private API: which compositions are for which split, and in which words.

The eight operations stand in a ring. What two of them are apart says what their compositions are for:

    1 or 2 ──► train        3 ──► gate        4 ──► selection (the first half of the ring), audit (the other half)

so no pair of operations that an adapter learned from decides about it. Compositions of three that are learned from
(`i, i+1, i+2` and `i, i+1, i+3`) never have two neighbours that are held out; all other threes decide. Which tasks
there are is fixed; the hidden inputs are drawn from the seed, and the visible ones are none of them.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from random import Random

from engine.api_learning import Split, SuiteTask
from engine.api_models import Case, CaseSuite
from engine.evaluation.suites.compositions import Inputs, Library, Steps, Value

HIDDEN_CASES = 6
"""Per task: as many as the trial judged by."""
VISIBLE_CASES = 2
"""Per task: a prompt that shows them must stay short, and two can mostly be chosen so that nothing else fits them."""
VISIBLE_POOL = 48
HIDDEN_POOL = 96
"""Inputs that the tasks of one seed draw from."""
LENGTHS = (7, 8, 9, 10, 11)
"""All longer than the largest number that a step is given."""
MAX_MISSES = 60
"""Draws of a composition in a row that give nothing new: its template has no more."""
SEEDS_KEPT = 4
"""Of generated suites in memory: a few megabytes each."""

DEEPER, IN, PARAPHRASE = "deeper", "in", "paraphrase"

Template = tuple[str, ...]
"""Names of operations, sorted."""


@dataclass(frozen=True)
class Part:
    """So many tasks of a split and group, drawn in turn from the templates."""

    split: Split
    group: str
    count: int
    templates: tuple[Template, ...]


@dataclass(frozen=True)
class Wanted:
    """A task before its inputs are drawn."""

    steps: Steps
    prompt: str


class PrivateSuite:
    """The tasks of one private API."""

    def __init__(self, library: Library) -> None:
        self.name = library.name
        self.title = library.title
        self._library = library
        self._made = lru_cache(SEEDS_KEPT)(self._make)

    def tasks(self, seed: int) -> tuple[SuiteTask, ...]:
        """All of them, with hidden inputs of the seed. Takes a second the first time; blocking."""
        return self._made(seed)

    @cached_property
    def _visible(self) -> Inputs:
        return Inputs(self._library, self._library.pool("visible", VISIBLE_POOL, LENGTHS))

    @cached_property
    def _wanted(self) -> tuple[tuple[Part, tuple[Wanted, ...]], ...]:
        return tuple((part, tuple(_wanted(self._library, part))) for part in parts(self._library))

    def _make(self, seed: int) -> tuple[SuiteTask, ...]:
        shown = {repr(value) for value in self._visible.pool}
        drawn = self._library.pool(f"hidden:{seed}", HIDDEN_POOL, LENGTHS)
        hidden = Inputs(self._library, [value for value in drawn if repr(value) not in shown])
        return tuple(
            self._task(part, number, wanted, hidden, Random(f"{self.name}:{seed}:{wanted.prompt}"))
            for part, all_wanted in self._wanted
            for number, wanted in enumerate(all_wanted)
        )

    def _task(self, part: Part, number: int, wanted: Wanted, hidden: Inputs, random: Random) -> SuiteTask:
        visible = self._visible.choose(wanted.steps, VISIBLE_CASES, Random(wanted.prompt))
        return SuiteTask(
            id=f"{self.name}-{part.split.value}-{part.group}-{number:03}",
            prompt=wanted.prompt,
            split=part.split,
            template="-".join(_template(wanted.steps)),
            entry_point="solve",
            cases=CaseSuite(function="solve", items=_cases(hidden.choose(wanted.steps, HIDDEN_CASES, random))),
            visible_tests="\n".join(f"assert solve({value!r}) == {answer!r}" for value, answer in visible),
            reference=self._library.source(wanted.steps),
            prelude=f"from {self.name} import *\n",
            files={f"{self.name}.py": module_text(self._library)},
            task_type=self.name,
            group=part.group,
        )


def _cases(pairs: Sequence[tuple[Value, Value]]) -> tuple[Case, ...]:
    return tuple(Case(args=(value,), expected=answer) for value, answer in pairs)


def module_text(library: Library) -> str:
    """The library's module as a solution gets it: documented, with type hints. Blocking."""
    path = library.module.__file__
    assert path is not None, "the libraries are files of this program"
    return Path(path).read_text(encoding="utf-8")


def parts(library: Library) -> tuple[Part, ...]:
    """How the templates are divided, and how many tasks are drawn from them. Singles of `train` come first, whole."""
    near, far = _pairs(library, 1) + _pairs(library, 2), _pairs(library, 4)
    learned = _threes(library, 2) + _threes(library, 3)
    names = [operation.name for operation in library.operations]
    threes = [tuple(sorted(three)) for three in itertools.combinations(names, 3)]
    held_out = [three for three in threes if three not in learned]
    Random(library.name).shuffle(held_out)
    gate, selection, audit = tuple(held_out[:20]), tuple(held_out[20:30]), tuple(held_out[30:])
    singles = tuple((name,) for name in names)
    return (
        Part(Split.TRAIN, IN, 250, (*singles, *near)),
        Part(Split.TRAIN, DEEPER, 96, learned),
        Part(Split.SELECTION, IN, 60, far[:2]),
        Part(Split.SELECTION, DEEPER, 20, selection),
        Part(Split.GATE, IN, 100, _pairs(library, 3)),
        Part(Split.GATE, DEEPER, 60, gate),
        Part(Split.GATE, PARAPHRASE, 60, _pairs(library, 3)),
        Part(Split.AUDIT, IN, 60, far[2:]),
        Part(Split.AUDIT, DEEPER, 30, audit),
        Part(Split.AUDIT, PARAPHRASE, 30, far[2:]),
    )


def _pairs(library: Library, distance: int) -> tuple[Template, ...]:
    names = [operation.name for operation in library.operations]
    found = (sorted((name, names[(place + distance) % len(names)])) for place, name in enumerate(names))
    return tuple(dict.fromkeys((one, other) for one, other in found))


def _threes(library: Library, last: int) -> tuple[Template, ...]:
    names = [operation.name for operation in library.operations]
    size = len(names)
    return tuple(
        tuple(sorted((name, names[(place + 1) % size], names[(place + last) % size])))
        for place, name in enumerate(names)
    )


def _template(steps: Steps) -> Template:
    return tuple(sorted({name for name, _ in steps}))


def _wanted(library: Library, part: Part) -> Iterator[Wanted]:
    """Drawn from the templates in turn, so that each has its share as long as it has anything new."""
    taken = list(itertools.islice(_singles(library, part), part.count))
    yield from taken
    drawing = [_draws(library, part, template) for template in part.templates if len(template) > 1]
    left = part.count - len(taken)
    while drawing and left:
        for draws in list(drawing):
            if (wanted := next(draws, None)) is None:
                drawing.remove(draws)
            elif left:
                yield wanted
                left -= 1
    assert not left, f"{library.name}: the templates of {part.split}/{part.group} have too few compositions"


def _singles(library: Library, part: Part) -> Iterator[Wanted]:
    for name, *others in part.templates:
        if not others:
            operation = library.by_name[name]
            for step, words in itertools.product(operation.steps(), operation.known):
                yield Wanted((step,), f"{library.name}: {words.format(n=step[1])}.")


def _draws(library: Library, part: Part, template: Template) -> Iterator[Wanted]:
    """Different compositions of the template, each with words of the part's group, until there are no new ones."""
    random = Random(f"{library.name}:{part.split}:{part.group}:{template}")
    orders = list(itertools.permutations(template))
    if part.split is Split.TRAIN:
        orders = [order for order in orders if _is_learned(library, order)]
    seen: set[str] = set()
    misses = 0
    while misses < MAX_MISSES:
        operations = [library.by_name[name] for name in random.choice(orders)]
        steps = tuple(random.choice(operation.steps()) for operation in operations)
        words = [random.choice(o.unseen if part.group == PARAPHRASE else o.known) for o in operations]
        joint = ", and then " if part.group == PARAPHRASE else ", then "
        prompt = joint.join(text.format(n=number) for text, (_, number) in zip(words, steps, strict=True))
        if prompt in seen or not library.behaviour.is_whole(steps):
            misses += 1
            continue
        misses = 0
        seen.add(prompt)
        yield Wanted(steps, f"{library.name}: {prompt}.")


def _is_learned(library: Library, order: Sequence[str]) -> bool:
    """No two steps that follow each other are a pair that is held out."""
    trained = {*_pairs(library, 1), *_pairs(library, 2)}
    return all(tuple(sorted(pair)) in trained for pair in itertools.pairwise(order))
