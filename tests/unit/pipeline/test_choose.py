"""Which adapter a task gets: the one that is shown to help on tasks like it, or none."""

from __future__ import annotations

from dataclasses import replace

import pytest

from engine.api_evolution import Verdict
from engine.pipeline.choose import Candidate, Choice, Wanted, choose, content_words, fingerprint, similarity

FRAME = "You are an expert Python programmer.\n\nSolve the task with the library.\n\n{task}\n\nAnswer with code only."
OPS = (
    "rotate left by 3",
    "order from largest down",
    "keep every second item",
    "double each number",
    "drop the first 4",
)
RUNEKIT = fingerprint(
    FRAME.format(task=f"runekit: {one}, then {other}.") for one in OPS for other in OPS if one != other
)
UNSEEN = "runekit: drop the first 2, then rotate left by 5, then double each number."
REWORDED = "runekit: turn it round so that the closing 6 come up front; afterwards biggest to smallest."
HUMANEVAL = '''from typing import List

def has_close_elements(numbers: List[float], threshold: float) -> bool:
    """ Check if in given list of numbers, are any two numbers closer to each other than given threshold. """
'''
PROVEN = Candidate("a1", "runekit", "task", Verdict.PROVEN, "tiny", RUNEKIT)
LEAST = 0.45


def _choose(prompt: str, *candidates: Candidate, task_type: str = "runekit") -> Choice:
    return choose(Wanted(prompt, task_type, "tiny"), candidates, LEAST)


# --- similarity ----------------------------------------------------------------------------------------------


def test_unseen_and_reworded_tasks_are_alike_and_others_are_not() -> None:
    assert similarity(UNSEEN, RUNEKIT) > 0.5
    assert similarity(REWORDED, RUNEKIT) > LEAST
    assert similarity(HUMANEVAL, RUNEKIT) < LEAST
    assert similarity("inkwell: put the words in reverse, then shout.", RUNEKIT) < LEAST


def test_the_frame_around_every_training_prompt_makes_nothing_alike() -> None:
    """Negative control: with one prompt alone, nothing tells the frame from the task."""
    framed = FRAME.format(task="Parse a date.")
    assert similarity(framed, RUNEKIT) < LEAST
    assert similarity(framed, fingerprint([FRAME.format(task="runekit: double each number.")])) > LEAST


def test_tests_that_the_model_was_shown_are_no_part_of_what_was_asked() -> None:
    """Every row had its own assertions: they are neither words of the task nor what all tasks have in common."""
    asked = [f"runekit: {one}, then {other}." for one in OPS for other in OPS if one != other]
    shown = fingerprint(f"{text}\n\nIt is tested with:\nassert solve([{n}]) == [{n}]" for n, text in enumerate(asked))
    assert shown == fingerprint(asked) and shown.signature == {"runekit"}


def test_frames_of_several_sources_make_nothing_alike() -> None:
    """Half of the rows are in one frame and half in another; a line of three of them alone may be a task."""
    asked = [f"runekit: {one}, then {other}." for one in OPS for other in OPS if one != other]
    framed = [*(FRAME.format(task=text) for text in asked[::2]), *(f"Write code.\n{text}" for text in asked[1::2])]
    assert fingerprint(framed) == fingerprint([*asked[::2], *asked[1::2]])
    assert fingerprint(asked[:4] * 2).prompts == fingerprint(asked[:4]).prompts != ()


def test_a_prompt_without_words_is_like_nothing() -> None:
    assert similarity("1 + 2 = ?", RUNEKIT) == 0.0
    assert similarity(UNSEEN, fingerprint([])) == 0.0


def test_words_are_told_by_their_parts_and_numbers_do_not_count() -> None:
    assert content_words("def has_close_elements(xs, 5): return Xs") == {"close", "elements", "xs"}


def test_a_fingerprint_is_of_bounded_size() -> None:
    many = fingerprint(f"runekit: step{i}" for i in range(5001))
    assert 1000 < len(many.prompts) <= 2000
    assert many.signature == {"runekit"}


# --- the choice ----------------------------------------------------------------------------------------------


def test_a_proven_adapter_is_used_for_a_task_like_its_own() -> None:
    choice = _choose(UNSEEN, PROVEN)
    assert choice.adapter_id == "a1"
    assert "proven to help" in choice.reason


@pytest.mark.parametrize(
    ("verdict", "words"),
    [(None, "has no evidence"), (Verdict.NOT_PROVEN, "is not proven"), (Verdict.REFUSED, "was refused")],
)
def test_without_evidence_it_is_the_base_model(verdict: Verdict | None, words: str) -> None:
    choice = _choose(UNSEEN, replace(PROVEN, verdict=verdict))
    assert choice.adapter_id is None
    assert words in choice.reason


def test_a_forced_promotion_is_obeyed_and_named() -> None:
    choice = _choose(UNSEEN, replace(PROVEN, verdict=Verdict.REFUSED, forced=True))
    assert choice.adapter_id == "a1"
    assert "by force" in choice.reason


def test_a_task_unlike_the_training_gets_the_base_model() -> None:
    choice = _choose(HUMANEVAL, PROVEN)
    assert choice.adapter_id is None
    assert "unlike" in choice.reason


def test_an_adapter_of_another_kind_or_base_is_none() -> None:
    assert _choose(UNSEEN, PROVEN, task_type="code-gen") == Choice(
        None, "Base model: there is no adapter for code-gen tasks."
    )
    assert _choose(UNSEEN, replace(PROVEN, base_model="large")).adapter_id is None
    assert _choose(UNSEEN).adapter_id is None


def test_wider_tiers_serve_more() -> None:
    assert _choose(HUMANEVAL, replace(PROVEN, tier="project"), task_type="code-gen").adapter_id == "a1"
    unknown = replace(PROVEN, fingerprint=None)
    assert _choose(UNSEEN, unknown).adapter_id is None
    assert "not known what a1 learned from" in _choose(UNSEEN, unknown).reason
    assert _choose(UNSEEN, replace(unknown, tier="domain")).adapter_id == "a1"


def test_the_champion_goes_first_then_the_likest_then_the_best() -> None:
    narrow = replace(PROVEN, adapter_id="narrow", fingerprint=fingerprint([UNSEEN]), pass_rate=0.1)
    better = replace(PROVEN, adapter_id="better", pass_rate=0.9)
    worse = replace(PROVEN, adapter_id="worse", pass_rate=0.2)
    champion = replace(PROVEN, adapter_id="champion", champion=True)
    assert _choose(UNSEEN, worse, better).adapter_id == "better"
    assert _choose(UNSEEN, worse, better, narrow).adapter_id in {"narrow", "better"}
    assert _choose(UNSEEN, worse, narrow, champion, better).adapter_id == "champion"
    assert _choose(UNSEEN, better, worse) == _choose(UNSEEN, worse, better)


def test_every_reason_is_one_sentence() -> None:
    refused = [replace(PROVEN, adapter_id=f"a{i}", verdict=None) for i in range(3)]
    for choice in (_choose(UNSEEN, PROVEN), _choose(UNSEEN, *refused), _choose(HUMANEVAL, PROVEN), _choose(UNSEEN)):
        assert choice.reason.endswith(".")
        assert ". " not in choice.reason
    assert "and 2 more like it" in _choose(UNSEEN, *refused).reason
