"""Which adapter a task is worked on with, or the base model, and why. Pure.

An adapter is used where it was shown to help, on tasks like those that it learned from. Everything else gets the base
model: an adapter that does not help does harm.

How like a task is, is told by words, in two halves:

- the *signature*, words that nearly all training prompts have, such as the name of an API: what share of it the task
  names. A task in other words is found by it, and one that shares only everyday words is not.
- the other words: the Jaccard index (Jaccard 1901) with the training prompt nearest to the task, over what that index
  commonly is between one training prompt and the nearest of the others. So "like" means as like as they are to each
  other: prompts of one private API are much alike, and what was taught by any programming task is like any other.

Where training prompts have no signature, the other words are the whole.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import median

from engine.api_evolution import TierName, Verdict

MAX_PROMPTS = 2000
"""Training prompts that a fingerprint keeps; of more, that many at even distances."""
FRAME_SHARE = 0.2
"""A line that stands in this share of the different training prompts is a frame around them, not the task: prompts of
several sources, each in a frame of its own, may be mixed."""
MIN_FRAMED = 3
"""Prompts that a line must stand in for that."""
TEST = "assert "
"""Begins a line that tests."""
SIGNATURE_SHARE = 0.9
"""A word that stands in this share of the tasks is what they have in common: the name of an API, for instance."""
MIN_FOR_COMMON = 5
"""With fewer prompts nothing can be told to be common to all, nor how like one commonly is to another."""
MAX_COMPARED = 200
"""Training prompts of which the nearest other is looked for: enough for a median, and half a second of work."""
MIN_COMMON_LIKENESS = 0.1
"""Prompts that are less like each other are taken to be this much alike: sharing one word of many is no likeness."""

_WORD = re.compile(r"[^\W\d]\w+")
_STOP_WORDS = frozenset(
    _WORD.findall(
        "an and any are as at be but by code def do each else example false first for from function given has have"
        " if in int into is it its last list must no none not of on only or python return returns same should str"
        " such that the their them then there these they this to true use using value values was when where which"
        " will with write you your"
    )
)
"""Words that any programming task may have."""


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """What the prompts that an adapter learned from look like."""

    prompts: tuple[frozenset[str], ...]
    """Content words of each but for the signature; different ones, none of them empty."""
    signature: frozenset[str]
    """Content words that nearly all of them have."""
    common_likeness: float = 1.0
    """Jaccard index of a prompt and the nearest of the others, the median; at least `MIN_COMMON_LIKENESS`."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """The task that an adapter is looked for."""

    prompt: str
    task_type: str
    base_model: str | None = None
    """None: not asked about."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """An adapter that can be served, with what speaks for it."""

    adapter_id: str
    task_type: str
    tier: TierName
    verdict: Verdict | None
    """Of its newest evidence; None where it has none."""
    base_model: str
    fingerprint: Fingerprint | None = None
    """None: it is not known what it learned from."""
    champion: bool = False
    """An alias makes it the one to use for its task type."""
    forced: bool = False
    """It was promoted against the evidence, or without any, by someone who was asked twice."""
    pass_rate: float | None = None
    rolled_back: bool = False
    """It was the champion, and its user took it back."""


@dataclass(frozen=True, slots=True)
class Choice:
    """`adapter_id` None is the base model; `reason` is one sentence."""

    adapter_id: str | None
    reason: str


def fingerprint(prompts: Iterable[str]) -> Fingerprint:
    """What these training prompts look like. Lines that all have, such as instructions, are left out."""
    texts = list(dict.fromkeys(prompts))
    texts = texts[:: max(1, -(-len(texts) // MAX_PROMPTS))]
    frame = _common((set(_lines(text)) for text in texts), len(texts), FRAME_SHARE, MIN_FRAMED)
    words = [content_words("\n".join(line for line in _lines(text) if line not in frame)) for text in texts]
    signature = _common(words, len(words), SIGNATURE_SHARE)
    different = tuple(dict.fromkeys(one - signature for one in words if one - signature))
    return Fingerprint(different, signature, _common_likeness(different))


def content_words(text: str) -> frozenset[str]:
    """Words of two letters or more that not every task has; a name with underscores counts by its parts."""
    words = (part for name in _WORD.findall(text.casefold()) for part in name.split("_"))
    return frozenset(word for word in words if len(word) > 1) - _STOP_WORDS


def similarity(prompt: str, learned: Fingerprint) -> float:
    """How like the prompt is to what was learned, in [0, 1]; see the module's docstring."""
    words = content_words("\n".join(_lines(prompt)))
    if not words:
        return 0.0
    rest = words - learned.signature
    alike = min(1.0, _nearest(rest, learned.prompts) / learned.common_likeness)
    if not learned.signature:
        return alike
    named = len(words & learned.signature) / len(learned.signature)
    return (named + alike) / 2 if learned.prompts else named


def choose(task: Wanted, candidates: Sequence[Candidate], min_similarity: float) -> Choice:
    """The best adapter that the evidence speaks for and the task is like, or the base model.

    A champion goes before others, then the one whose training is likest, then the one that passes most.
    """
    suitable: list[tuple[tuple[bool, float, float, str], Candidate, float | None]] = []
    turned_down: list[tuple[int, str]] = []
    for candidate in candidates:
        alike = similarity(task.prompt, candidate.fingerprint) if candidate.fingerprint else None
        if against := _against(task, candidate, alike, min_similarity):
            turned_down.append(against)
            continue
        rank = (not candidate.champion, -(alike or 0.0), -(candidate.pass_rate or 0.0), candidate.adapter_id)
        suitable.append((rank, candidate, alike))
    if not suitable:
        return Choice(None, _base_reason(task, turned_down))
    _, best, alike = min(suitable, key=lambda item: item[0])
    return Choice(best.adapter_id, _reason(best, alike))


def _against(task: Wanted, candidate: Candidate, alike: float | None, least: float) -> tuple[int, str] | None:
    """Why the adapter is not used; the number says how near it came."""
    name = candidate.adapter_id
    if task.base_model is not None and candidate.base_model != task.base_model:
        return 0, f"{name} is for {candidate.base_model}"
    if candidate.tier != "project" and candidate.task_type != task.task_type:
        return 1, f"{name} is for {candidate.task_type}"
    if not candidate.forced and candidate.verdict is not Verdict.PROVEN:
        return 2, f"{name} {_unproven(candidate.verdict)}"
    if candidate.rolled_back and not candidate.champion:
        return 2, f"{name} was rolled back"
    if alike is None and candidate.tier == "task":
        return 3, f"it is not known what {name} learned from"
    if alike is not None and alike < least and candidate.tier != "project":
        return 4, f"the task is unlike what {name} learned from ({alike:.2f}, at least {least:.2f})"
    return None


def _unproven(verdict: Verdict | None) -> str:
    match verdict:
        case Verdict.REFUSED:
            return "was refused by the evidence"
        case Verdict.NOT_PROVEN:
            return "is not proven to help"
        case _:
            return "has no evidence"


def _base_reason(task: Wanted, turned_down: Sequence[tuple[int, str]]) -> str:
    near = [reason for step, reason in turned_down if step > 1]
    if not near:
        return f"Base model: there is no adapter for {task.task_type} tasks."
    step = max(step for step, _ in turned_down)
    first, *others = sorted(reason for reached, reason in turned_down if reached == step)
    more = f", and {len(others)} more like it" if others else ""
    return f"Base model: {first}{more}."


def _reason(candidate: Candidate, alike: float | None) -> str:
    shown = "was promoted by force" if candidate.verdict is not Verdict.PROVEN else "is proven to help"
    place = (
        f"the champion for {candidate.task_type} tasks" if candidate.champion else f"for {candidate.task_type} tasks"
    )
    like = "" if alike is None else f"; the task is {alike:.2f} like what it learned from"
    return f"{candidate.adapter_id}: {place}, {shown}{like}."


def _lines(text: str) -> list[str]:
    """Without empty ones and without tests: those stand in what a model is given, and seldom in what a user asks."""
    lines = (line.strip() for line in text.splitlines())
    return [line for line in lines if line and not line.startswith(TEST)]


def _common(sets: Iterable[set[str] | frozenset[str]], total: int, share: float, least: int = 1) -> frozenset[str]:
    if total < MIN_FOR_COMMON:
        return frozenset()
    held = Counter(item for one in sets for item in one)
    return frozenset(item for item, times in held.items() if times >= max(least, share * total))


def _nearest(words: frozenset[str], prompts: Iterable[frozenset[str]]) -> float:
    """The highest Jaccard index."""
    return max((len(words & one) / len(words | one) for one in prompts), default=0.0) if words else 0.0


def _common_likeness(prompts: Sequence[frozenset[str]]) -> float:
    if len(prompts) < MIN_FOR_COMMON:
        return 1.0
    some = range(0, len(prompts), max(1, -(-len(prompts) // MAX_COMPARED)))
    found = [_nearest(prompts[place], (*prompts[:place], *prompts[place + 1 :])) for place in some]
    return max(MIN_COMMON_LIKENESS, median(found))
