"""Which tasks of the built-in suites an adapter of a private API is used for: its own in any words, and no others.

The table, at the threshold that ships (tasks taken for like what was learned, of all):

                    runekit: as trained  deeper  reworded   the other API   general   ood   humaneval
    learned runekit              220/220   110/110    90/90           0/420      0/61  0/20       0/164
    learned inkwell              220/220   110/110    90/90           0/420      0/61  0/20       0/164
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path

import pytest

from engine.api_learning import Split, SuiteTask
from engine.config import load_config
from engine.evaluation.suites.library import BUILT_IN
from engine.pipeline.choose import Fingerprint, content_words, fingerprint, similarity

APIS = ("runekit", "inkwell")
ELSEWHERE = ("general", "ood", "humaneval")


@cache
def _tasks(suite: str) -> tuple[SuiteTask, ...]:
    return BUILT_IN[suite].tasks(0)


def _learned(*suites: str) -> Fingerprint:
    return fingerprint(task.prompt for suite in suites for task in _tasks(suite) if task.split is Split.TRAIN)


def _asked(suite: str, group: str = "") -> list[str]:
    """Prompts that nobody learned from: all of `general` and the like, and the other splits of an API."""
    held_out = [task for task in _tasks(suite) if suite not in APIS or task.split is not Split.TRAIN]
    return [task.prompt for task in held_out if group in ("", task.group)]


def _least() -> float:
    return load_config(Path("no such file"), (), {}).evolution.select_similarity


def _taken(prompts: Iterable[str], learned: Fingerprint, least: float) -> int:
    return sum(similarity(prompt, learned) >= least for prompt in prompts)


def _of_the_nearest(prompt: str, prompts: Iterable[frozenset[str]]) -> float:
    """What told likeness before: the share of the prompt's words that one training prompt has."""
    words = content_words(prompt)
    return max(len(words & seen) for seen in prompts) / len(words) if words else 0.0


@pytest.mark.parametrize(("own", "other"), [APIS, APIS[::-1]])
def test_an_adapter_of_one_api_is_used_for_its_tasks_in_any_words_and_for_no_others(own: str, other: str) -> None:
    learned, least = _learned(own), _least()
    sizes = {group: len(_asked(own, group)) for group in ("in", "deeper", "paraphrase")}
    assert sizes == {"in": 220, "deeper": 110, "paraphrase": 90}
    assert {group: _taken(_asked(own, group), learned, least) for group in sizes} == sizes
    others: Mapping[str, list[str]] = {suite: _asked(suite) for suite in (other, *ELSEWHERE)}
    assert {suite: len(prompts) for suite, prompts in others.items()} == {
        other: 420, "general": 61, "ood": 20, "humaneval": 164
    }  # fmt: skip
    assert {suite: _taken(prompts, learned, least) for suite, prompts in others.items()} == dict.fromkeys(others, 0)


@pytest.mark.parametrize(("own", "other"), [APIS, APIS[::-1]])
def test_there_is_room_between_the_likest_of_the_others_and_the_unlikest_of_its_own(own: str, other: str) -> None:
    learned = _learned(own)
    theirs = max(similarity(prompt, learned) for suite in (other, *ELSEWHERE) for prompt in _asked(suite))
    ours = min(similarity(prompt, learned) for prompt in _asked(own))
    assert theirs < 0.34 and ours > 0.64
    assert theirs + 0.1 < _least() < ours - 0.1


@pytest.mark.parametrize(("own", "other"), [APIS, APIS[::-1]])
def test_shared_words_alone_do_not_tell_the_two_apart(own: str, other: str) -> None:
    """Negative control: by the share of its words, at the threshold that went with it, most of the other API passed."""
    prompts = [content_words(task.prompt) for task in _tasks(own) if task.split is Split.TRAIN]
    gate = [task.prompt for task in _tasks(other) if task.split is Split.GATE]
    wrong = sum(_of_the_nearest(prompt, prompts) >= 0.2 for prompt in gate)
    assert len(gate) == 220 and wrong >= 120


def test_a_merged_adapter_is_used_for_the_tasks_of_both() -> None:
    """It has no signature: only how much the words share tells."""
    learned, least = _learned(*APIS), _least()
    assert not learned.signature
    assert [_taken(_asked(api), learned, least) for api in APIS] == [420, 420]
    assert [_taken(_asked(suite), learned, least) for suite in ELSEWHERE] == [0, 0, 0]


def test_what_was_taught_by_any_programming_task_is_used_for_such_tasks() -> None:
    """HumanEval's prompts are little like each other, so little likeness is enough: most of the other half pass."""
    prompts = _asked("humaneval")
    learned = fingerprint(prompts[::2])
    assert learned.common_likeness < 0.3
    unseen = prompts[1::2]
    assert _taken(unseen, learned, _least()) >= 0.85 * len(unseen)
    uncalibrated = Fingerprint(learned.prompts, learned.signature)  # negative control
    assert _taken(unseen, uncalibrated, _least()) <= 0.1 * len(unseen)
