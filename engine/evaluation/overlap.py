"""What deciding tasks share with what was learned from: a gain on tasks that were seen is no gain. Pure.

A deciding document (a task's prompt with its reference) is compared with every learned one (a training row) by:

- *exact*: their code is the same program. It is brought to a normal form first: names that the code itself binds are
  numbered, constants are replaced by one of their type, docstrings, annotations and imports are dropped. Names that
  the code only uses stay, because calling another function is another program.
- *near*: the whole prompt stands in the row, line by line; or both share 13 words in a row; or 0.8 (Jaccard) of their
  shingles of 5, with numbers abstracted.

A sentence that stands in the tasks of many templates ("Write a function called solve that ...") is a phrase of the
suite and tells nothing of one task: such phrases are not counted. Which ones they are is told by the whole suite: in
a part of its tasks the same phrase may be rare.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import accumulate
from typing import TypeAlias, TypeVar

from engine.api_evolution import Contamination
from engine.evaluation.normal_form import normal_forms, readable
from engine.evaluation.straight_line import one_expression

GRAM = 13
"""Words in a row that two texts do not share by chance; the length that GPT-3's decontamination took."""
SHINGLE = 5
NEAR = 0.8
"""Jaccard similarity of shingle sets."""
MIN_VERBATIM = 3
"""Words of a prompt that is looked for as a whole; a shorter one stands in any text."""
MIN_SHINGLES = 5
"""A set of fewer is not compared by likeness: two short sentences are alike too easily."""
COMMON_TEMPLATES = 3
COMMON_SHARE = 0.05
"""What stands in so many templates, and in this share of all, is a phrase of the suite."""
MAX_EXAMPLES = 10
"""Overlaps that a report spells out."""

_WORD = re.compile(r"\w+")
_TOKEN = re.compile(r"\w+|[^\w\s]")
_NUMBER = re.compile(r"\d+")
_FENCED = re.compile(r"```[\w+-]*[ \t]*\n(.*?)(?:```|\Z)", re.DOTALL)

_Feature: TypeAlias = tuple[str, ...]
_Key = TypeVar("_Key")


class How(StrEnum):
    """In what two documents overlap."""

    SAME_CODE = "the same code"
    SAME_TEXT = "the whole prompt"
    SAME_WORDS = "13 words in a row"
    LIKE_TEXT = "nearly the same prompt"
    LIKE_CODE = "nearly the same code"


@dataclass(frozen=True, slots=True)
class Document:
    """Something to solve, or something that was learned from."""

    id: str
    text: str
    """What is asked."""
    code: str = ""
    """The answer, Python source."""
    template: str = ""
    """What it was made from; its own id where that is empty."""
    written: str = ""
    """The answer as it stands, where not all of it is code."""


@dataclass(frozen=True, slots=True)
class Overlap:
    """A deciding document and the first learned one that it shares something with."""

    deciding: str
    learned: str
    how: How

    def __str__(self) -> str:
        return f"{self.deciding} and {self.learned} share {self.how}"


@dataclass(frozen=True, slots=True)
class Overlaps:
    """Each overlapping deciding document once: with its code where that is shared, else with what is near."""

    rows: int
    """Learned documents that were compared."""
    exact: tuple[Overlap, ...]
    near: tuple[Overlap, ...]

    @property
    def clean(self) -> bool:
        """Whether there is none."""
        return not self.exact and not self.near

    @property
    def tasks(self) -> frozenset[str]:
        """Ids of the deciding documents that overlap."""
        return frozenset(overlap.deciding for overlap in (*self.exact, *self.near))


def learned_document(identifier: str, prompt: str, completion: str) -> Document:
    """A training row: the code is what can be read as such between the fences of its answer, or in the whole answer.

    Each fence by itself: an example of its use, or another language, beside a program does not make it unreadable.
    """
    blocks = _FENCED.findall(completion) or [completion]
    code = "\n".join(filter(None, map(readable, blocks)))
    return Document(identifier, prompt, code, written="\n".join(blocks))


def contamination(found: Overlaps | None) -> Contamination:
    """What stands with a promotion. None: it is not known what the adapter learned from."""
    if found is None:
        return Contamination(checked=False, rows=0, exact=0, near=0)
    examples = tuple(map(str, (*found.exact, *found.near)))[:MAX_EXAMPLES]
    return Contamination(checked=True, rows=found.rows, exact=len(found.exact), near=len(found.near), examples=examples)


def find_overlaps(
    deciding: Sequence[Document], learned: Iterable[Document], suite: Sequence[Document] = ()
) -> Overlaps:
    """Which deciding documents share something with a learned one. Linear in all.

    Args:
        suite: what the deciding ones are a part of.
    """
    return find_all_overlaps([(deciding, suite)], learned)[0]


def find_all_overlaps(
    parts: Sequence[tuple[Sequence[Document], Sequence[Document]]], learned: Iterable[Document]
) -> tuple[Overlaps, ...]:
    """`find_overlaps` of several (deciding, suite), for which each learned document is looked at once."""
    found = [_Found(deciding, suite) for deciding, suite in parts]
    for document in learned:
        features = _Features(document)
        for one in found:
            one.compare(document.id, features)
    return tuple(one.overlaps() for one in found)


class _Features:
    """All that a document could share with another."""

    def __init__(self, document: Document) -> None:
        forms = normal_forms(document.code)
        self._lines = [_words(line) for line in document.text.splitlines()]
        words = tuple(word for line in self._lines for word in line)
        self.whole: _Feature | None = words if len(words) >= MIN_VERBATIM else None
        answers = (one_expression(document.code), document.written)
        self.grams = _runs(words, GRAM).union(*(_runs(_words(answer), GRAM) for answer in answers))
        self.text_shingles = _runs(tuple(_NUMBER.sub("0", word) for word in words), SHINGLE)
        self.code_shingles = _runs(tuple(_TOKEN.findall(forms[0])), SHINGLE) if forms else frozenset[_Feature]()
        self.programs = tuple(hashlib.sha256(form.encode()).hexdigest() for form in forms)

    def line_runs(self, lengths: Iterable[int]) -> Iterator[_Feature]:
        """Whole lines that follow each other and have one of these numbers of words together."""
        words = tuple(word for line in self._lines for word in line)
        edges = [0, *accumulate(map(len, self._lines))]
        ends = frozenset(edges)
        for length in lengths:
            yield from (words[edge : edge + length] for edge in set(edges) if edge + length in ends)


def _words(text: str) -> _Feature:
    return tuple(_WORD.findall(text.casefold()))


def _runs(words: _Feature, length: int) -> frozenset[_Feature]:
    return frozenset(words[i : i + length] for i in range(len(words) - length + 1))


def _phrases(documents: Sequence[tuple[Document, _Features]]) -> frozenset[_Feature]:
    """What stands in the documents of many templates."""
    holders: dict[_Feature, set[str]] = defaultdict(set)
    for document, features in documents:
        template = document.template or document.id
        whole = {features.whole} if features.whole else set[_Feature]()
        for feature in features.grams | features.text_shingles | features.code_shingles | whole:
            holders[feature].add(template)
    templates = len({document.template or document.id for document, _ in documents})
    many = max(COMMON_TEMPLATES, COMMON_SHARE * templates)
    return frozenset(feature for feature, held in holders.items() if len(held) >= many)


class _Found:
    """What some deciding documents share with the learned ones that came so far."""

    def __init__(self, deciding: Sequence[Document], suite: Sequence[Document]) -> None:
        self._index = _Index(deciding, suite)
        self._order = tuple(dict.fromkeys(document.id for document in deciding))
        self._rows = 0
        self._exact: dict[str, Overlap] = {}
        self._near: dict[str, Overlap] = {}

    def compare(self, learned: str, features: _Features) -> None:
        """Take one learned document more."""
        self._rows += 1
        for identifier, how in self._index.shared_with(features):
            found = self._exact if how is How.SAME_CODE else self._near
            found.setdefault(identifier, Overlap(identifier, learned, how))

    def overlaps(self) -> Overlaps:
        """In the order of the deciding documents."""
        exact, near = self._exact, self._near
        return Overlaps(
            rows=self._rows,
            exact=tuple(exact[identifier] for identifier in self._order if identifier in exact),
            near=tuple(
                near[identifier] for identifier in self._order if identifier in near and identifier not in exact
            ),
        )


class _Index:
    """The deciding documents by what they could share."""

    def __init__(self, deciding: Sequence[Document], suite: Sequence[Document]) -> None:
        documents = [(document, _Features(document)) for document in deciding]
        here = {document.id for document in deciding}
        rest = [(document, _Features(document)) for document in suite if document.id not in here]
        self._phrases = _phrases([*documents, *rest])
        self._programs: dict[str, list[str]] = defaultdict(list)
        self._texts: dict[_Feature, list[str]] = defaultdict(list)
        self._grams: dict[_Feature, list[str]] = defaultdict(list)
        self._like_text, self._like_code = _Similar(), _Similar()
        for document, features in documents:
            for program in features.programs[:1]:  # the whole: a helper function of it is not the task
                self._programs[program].append(document.id)
            if features.whole and features.whole not in self._phrases:
                self._texts[features.whole].append(document.id)
            for gram in features.grams - self._phrases:
                self._grams[gram].append(document.id)
            self._like_text.add(document.id, features.text_shingles - self._phrases)
            self._like_code.add(document.id, features.code_shingles - self._phrases)
        self._lengths = frozenset(map(len, self._texts))

    def shared_with(self, features: _Features) -> Iterator[tuple[str, How]]:
        """Deciding documents that share something with this one; a document may come more than once."""
        runs = features.line_runs(self._lengths)
        found: dict[How, Iterable[str]] = {
            How.SAME_CODE: _of(self._programs, features.programs),
            How.SAME_TEXT: _of(self._texts, runs),
            How.SAME_WORDS: _of(self._grams, features.grams),
            How.LIKE_TEXT: self._like_text.to(features.text_shingles - self._phrases),
            How.LIKE_CODE: self._like_code.to(features.code_shingles - self._phrases),
        }
        yield from ((identifier, how) for how, identifiers in found.items() for identifier in identifiers)


def _of(index: dict[_Key, list[str]], keys: Iterable[_Key]) -> Iterator[str]:
    return (identifier for key in keys if key in index for identifier in index[key])


class _Similar:
    """Documents by their shingles."""

    def __init__(self) -> None:
        self._holders: dict[_Feature, list[str]] = defaultdict(list)
        self._sizes: dict[str, int] = {}

    def add(self, identifier: str, shingles: frozenset[_Feature]) -> None:
        if len(shingles) < MIN_SHINGLES:
            return
        self._sizes[identifier] = len(shingles)
        for shingle in shingles:
            self._holders[shingle].append(identifier)

    def to(self, shingles: frozenset[_Feature]) -> list[str]:
        """Documents whose Jaccard similarity to these shingles is at least `NEAR`."""
        shared = Counter(_of(self._holders, shingles))
        return [
            identifier
            for identifier, both in shared.items()
            if both >= NEAR * (self._sizes[identifier] + len(shingles) - both)
        ]
