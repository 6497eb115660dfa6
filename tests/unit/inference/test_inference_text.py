"""Half a character or half a stop string is never shown."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.inference.sidecar.text import StopScanner, Utf8Stream

STOPS = st.lists(st.text(alphabet="abc", min_size=1, max_size=4))


@given(text=st.text(alphabet="abc", max_size=40), stops=STOPS, data=st.data())
def test_however_it_is_cut_no_stop_is_shown(text: str, stops: list[str], data: st.DataObject) -> None:
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=8)))
    scanner, shown = StopScanner(stops), ""
    for begin, end in zip([0, *cuts], [*cuts, len(text)], strict=True):
        shown += scanner.push(text[begin:end])
        assert not any(stop in shown for stop in stops)
    shown += scanner.flush()
    # A stop that is complete earlier wins over one that begins earlier; both are in the text then.
    places = [text.index(stop) for stop in stops if stop in text]
    assert scanner.hit == bool(places)
    assert text.startswith(shown)
    assert shown == text if not places else len(shown) >= min(places)


def test_what_may_begin_a_stop_is_held_back_until_it_is_known() -> None:
    scanner = StopScanner(("\n\n", "END"))
    assert [scanner.push(part) for part in ("one\n", "two EN", "O END more")] == ["one", "\ntwo ", "ENO "]
    assert scanner.hit and scanner.push("more") == ""


@given(st.text(max_size=20), st.integers(1, 4))
def test_characters_survive_being_cut_into_tokens(text: str, size: int) -> None:
    stream, data = Utf8Stream(), text.encode()
    parts = [stream.push(data[at : at + size]) for at in range(0, len(data), size)]
    assert "".join(parts) + stream.flush() == text
    assert "\ufffd" not in "".join(parts) or "\ufffd" in text


@pytest.mark.parametrize("rest", ["é".encode()[:1], "€".encode()[:2]])
def test_an_answer_that_ends_inside_a_character_shows_it(rest: bytes) -> None:
    stream = Utf8Stream()
    assert stream.push(rest) == "" and stream.flush() == "\ufffd"
