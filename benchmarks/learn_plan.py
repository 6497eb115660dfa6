"""What the proof trains and asks: all of it in one value, so that a small one runs the same code in a test."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from benchmarks.learn_results import DEEPER, IN, OTHER, PARAPHRASE, Condition, Role
from engine.api_evolution import MergeMethod
from engine.api_learning import BASE

SHORT_ANSWER = 96
"""Tokens of an answer that is right have about 40; a base model that knows nothing would talk on to any limit."""
SHORT_ID = "short-1"
"""Adapter of the training that is stopped early."""
DRAWS = frozenset({MergeMethod.DARE, MergeMethod.DARE_TIES})
"""Methods that keep elements by chance: of one seed alone nobody knows what the method does."""


@dataclass(frozen=True)
class Probe:
    """A column of the table."""

    name: str
    suite: str
    groups: tuple[str, ...]
    limit: int
    max_tokens: int | None = None
    open_book: bool = False


@dataclass(frozen=True)
class Plan:
    """One proof."""

    main: str
    """Suite, and task type, of the adapters that are proven."""
    other: str
    """Of the adapter of another domain, which is also what the first is merged with."""
    probes: tuple[Probe, ...]
    book: Probe
    """The main suite with its API's documentation in the prompt."""
    preset: str
    seeds: int
    """Trainings of the main suite."""
    methods: tuple[MergeMethod, ...]
    draws: int
    """Seeds of a merge by a method that draws."""
    kept: int
    """Rows of the other domain beside an adapter's own: not learned, the base model is kept there."""
    rehearsed: str | None
    """Suite whose `train` prompts the base model answers, to be kept as well."""
    rounds: int
    """Of `improve`; 0: no loop."""
    drift: bool
    """Measure perplexity and KL on a general text."""
    short_steps: int = 0
    """Of one more training of the main suite, stopped before it has learned more than it was shown; 0: none."""
    anchors: tuple[str, ...] = ()
    """Suites that evidence looks for losses on; empty: those that the engine takes by itself."""

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the probes."""
        return tuple(probe.name for probe in self.probes)

    @property
    def first(self) -> str:
        """Id of the first adapter of the main suite: the one that everything else is held against."""
        return f"{self.main}-1"

    @property
    def parents(self) -> tuple[str, str]:
        """Of every merge."""
        return (self.first, f"{self.other}-1")


FULL = Plan(
    main="runekit",
    other="inkwell",
    probes=(
        Probe(IN, "runekit", (IN,), 100, SHORT_ANSWER),
        Probe(DEEPER, "runekit", (DEEPER,), 60, SHORT_ANSWER),
        Probe(PARAPHRASE, "runekit", (PARAPHRASE,), 60, SHORT_ANSWER),
        Probe(OTHER, "inkwell", (IN,), 60, SHORT_ANSWER),
        Probe("general", "general", (), 40),
        Probe("humaneval", "humaneval", (), 40),
    ),
    book=Probe(IN, "runekit", (IN,), 60, SHORT_ANSWER, open_book=True),
    preset="small",
    seeds=3,
    methods=tuple(MergeMethod),
    draws=3,
    kept=60,
    rehearsed="general",
    rounds=2,
    drift=True,
    short_steps=40,
)


def quick(plan: Plan) -> Plan:
    """Two merges, no improvement: about half the time."""
    return replace(plan, methods=(MergeMethod.CAT, MergeMethod.TIES), rounds=0)


@dataclass(frozen=True)
class Merge:
    """One merge of the plan."""

    adapter: str
    name: str
    method: MergeMethod
    seed: int


def merges(plan: Plan) -> Iterator[Merge]:
    """Every merge of the two parents."""
    for method in plan.methods:
        # Learned on the suites of both parents; an older program learned `merged-cat-learned` on the first one's only.
        adapter = f"merged-{method}{'-both' if method is MergeMethod.CAT_LEARNED else ''}"
        yield Merge(adapter, f"merged: {method}", method, 0)
        for number in range(2, (plan.draws if method in DRAWS else 1) + 1):
            yield Merge(f"{adapter}-s{number}", f"merged: {method}, seed {number}", method, number - 1)


def conditions(plan: Plan) -> Iterator[Condition]:
    """The rows of the table, but for the documentation in the prompt and the loop."""
    inside, both = (IN,), (IN, OTHER)
    anchors = tuple(name for name in plan.columns if name not in (IN, DEEPER, PARAPHRASE, OTHER))
    yield Condition("base", BASE, plan.columns, Role.BASE)
    yield Condition("zero adapter (B = 0)", "zero-1", (IN, *anchors[:1]), Role.ZERO)
    yield Condition("random of equal norm", "random-1", inside, Role.RANDOM)
    yield Condition("shuffled labels", "shuffled-1", inside, Role.SHUFFLED)
    yield Condition("other domain", plan.parents[1], (IN, OTHER, *anchors), Role.OTHER)
    for seed in range(1, plan.seeds + 1):
        chosen = plan.columns if seed == 1 else tuple(name for name in plan.columns if name in (IN, DEEPER, PARAPHRASE))
        yield Condition(f"adapter, seed {seed}", f"{plan.main}-{seed}", chosen, Role.ADAPTER, family="adapter")
    if plan.short_steps:
        yield Condition(f"adapter after {plan.short_steps} steps", SHORT_ID, (IN, DEEPER), Role.SHORT)
    for merge in merges(plan):
        yield Condition(merge.name, merge.adapter, both, Role.MERGE, family=f"merged: {merge.method}")
    yield Condition("merged: PEFT linear", "peft-linear", both, Role.PEFT)
    yield Condition("merged with a random parent", "merged-random", both, Role.RANDOM_PARENT)


def probes_of(plan: Plan, names: Sequence[str]) -> list[Probe]:
    """In the order of the columns."""
    return [probe for probe in plan.probes if probe.name in names]
