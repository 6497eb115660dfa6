"""The comparison behind each verified wake: what counts as the same answer, and what does not."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.device.contracts import Oracle, Utterance
from engine.inference.oracle import mismatch
from engine.inference.servers.sleep_levels import MARGIN_MIB, TRAINER_MIB, Ram, choose_level

TOLERANCE = 0.01
LOGPROBS = st.floats(-20, 0)
WORDS = st.text(min_size=1, max_size=4)
UTTERANCES = st.lists(st.tuples(WORDS, LOGPROBS), min_size=1, max_size=8)


def _oracle(*pairs: tuple[str, float], name: str = "base") -> Oracle:
    return Oracle(((name, Utterance(tuple(word for word, _ in pairs), tuple(value for _, value in pairs))),))


@given(UTTERANCES, st.floats(-0.009, 0.009))
def test_the_same_tokens_with_nearly_the_same_probabilities_match(said: list[tuple[str, float]], shift: float) -> None:
    again = [(word, value + shift) for word, value in said]
    assert mismatch(_oracle(*said), _oracle(*again), TOLERANCE) is None


@given(UTTERANCES, st.data())
def test_one_other_token_or_one_other_probability_is_seen(said: list[tuple[str, float]], data: st.DataObject) -> None:
    place = data.draw(st.integers(0, len(said) - 1))
    word, value = said[place]
    shifted = value + data.draw(st.sampled_from([-0.02, 0.02, -5.0, math.nan, math.inf]))
    for changed in ((word + "x", value), (word, shifted)):
        other = [*said[:place], changed, *said[place + 1 :]]
        complaint = mismatch(_oracle(*said), _oracle(*other), TOLERANCE)
        assert complaint is not None and complaint.startswith("base ")
        assert str(place + 1) in complaint


def test_fewer_tokens_fewer_probabilities_and_a_model_that_was_not_asked_are_seen() -> None:
    said = _oracle(("a", -1.0), ("b", -2.0))
    assert "says 1 tokens" in str(mismatch(said, _oracle(("a", -1.0)), TOLERANCE))
    silent = Oracle((("base", Utterance(("a", "b"), ())),))
    assert "0 log-probabilities" in str(mismatch(said, silent, TOLERANCE))
    assert mismatch(said, _oracle(("a", -1.0), ("b", -2.0), name="other"), TOLERANCE) == "base was not asked"


def test_a_server_that_said_nothing_matches_silence_only() -> None:
    assert mismatch(_oracle(), _oracle(), TOLERANCE) is None
    assert mismatch(_oracle(), _oracle(("a", 0.0)), TOLERANCE) is not None


ENOUGH = 2 * 1000 + TRAINER_MIB + MARGIN_MIB


@pytest.mark.parametrize(
    ("wanted", "available", "gpu", "on_disk", "level"),
    [
        (0, ENOUGH, True, True, 1),
        (0, ENOUGH - 1, True, True, 2),
        (0, ENOUGH - 1, True, False, None),
        (0, 0, False, False, 1),
        (1, 0, True, True, 1),
        (2, 10 * ENOUGH, True, True, 2),
        (2, 10 * ENOUGH, True, False, None),
        (2, ENOUGH, False, True, 1),
    ],
)
def test_the_level_of_sleep_follows_the_memory_that_is_free(
    wanted: int, available: int, gpu: bool, on_disk: bool, level: int | None
) -> None:
    """gpu-engine.md section 4: L1 if MemAvailable >= 2 x weights + trainer + 2 GiB, else L2, else a full stop."""
    assert choose_level(wanted, Ram(available, 1000), gpu=gpu, weights_on_disk=on_disk) == level
