"""Foreign text loses everything that is not plain and visible (house-style B2.5, P7)."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.cells import cell_len

from rune_tui.terminal_text import MAX_LINE_CHARS, clean, clean_line, visible, visible_line
from rune_tui.widgets.row import fit


def hidden(text: str) -> list[str]:
    """Characters that are controls, invisible formats or half surrogates."""
    return [char for char in text if char != "\n" and unicodedata.category(char) in {"Cc", "Cf", "Cs", "Zl", "Zp"}]


@pytest.mark.parametrize(
    ("raw", "shown"),
    [
        ("plain", "plain"),
        ("[/foo] [bold]x[/]", "[/foo] [bold]x[/]"),
        ("\x1b[31mred\x1b[0m", "red"),
        ("\x9b31mred", "red"),
        ("\x1b]52;c;cm0gLXJm\x07after", "after"),
        ("\x1b]0;title\x1b\\after", "after"),
        ("\x9d0;title\x9cafter", "after"),
        ("\x1bPq#0\x1b\\after", "after"),
        ("\x1bc\x1b(0text", "text"),
        ("\x1b]52;never ends", "]52;never ends"),
        ("safe\u202egnp.exe", "safegnp.exe"),
        ("zero\u200bwidth\ufeff", "zerowidth"),
        ("a\x00b\x07c\x7f", "abc"),
        ("one\r\ntwo\rthree\u2028four", "one\ntwo\nthree\nfour"),
        ("\tx", "    x"),
        ("half \ud83d surrogate", "half  surrogate"),
        ("tag\U000e0041s", "tags"),
        ("e" + "\u0301" * 50, "e" + "\u0301" * 2),
        ("漢字 ok ✓", "漢字 ok ✓"),
    ],
)
def test_clean(raw: str, shown: str) -> None:
    assert clean(raw) == shown


def test_the_command_line_and_the_app_take_away_the_same() -> None:
    """One table: what a widget would not show, no command prints."""
    everything = "".join(chr(code) for code in range(0x30000) if chr(code) not in "\n\t")
    assert visible(everything) == clean(everything, max_line=10**7, max_chars=10**7)
    assert hidden(visible(everything)) == []
    assert visible_line("\x1b[31mred\x1b[0m\nline " + "x" * 600, 20) == "red line xxxxxxxx..."


def test_an_unterminated_sequence_hides_nothing() -> None:
    assert "rm -rf" in clean("\x1b]0;rm -rf /\nand more")
    assert clean("\x1b[999999;" + "1;" * 200 + "visible").endswith("visible")


@pytest.mark.parametrize("introducer", ["\x9d", "\x90", "\x1b]", "\x1b]\x9d", "\x9b"])
def test_a_text_of_introducers_takes_linear_time(introducer: str) -> None:
    """Searched to its end from each introducer, this text takes minutes."""
    assert set(clean(introducer * 50_000, max_line=10**6, max_chars=10**6)) <= {"]"}


def test_long_lines_and_texts_are_cut_with_a_marker() -> None:
    assert clean("x" * 5000) == "x" * MAX_LINE_CHARS + "… (+3000 characters)"
    assert clean("ab\n" * 10, max_chars=6).endswith("… 24 more characters")
    assert len(clean("y" * 1_000_000)) < MAX_LINE_CHARS + 100


def test_a_line_has_no_line_break() -> None:
    assert clean_line("a\nb\r\nc") == "a⏎b⏎c"


@pytest.mark.parametrize("width", range(0, 12))
@pytest.mark.parametrize("text", ["", "abc", "漢字漢字", "a漢b字c", "\x1b[1mabc\u202e", "a\nb"])
def test_fit_is_exact(text: str, width: int) -> None:
    assert cell_len(fit(text, width)) == width


@settings(max_examples=300, deadline=None)
@given(st.text(st.characters(codec=None), max_size=200))
def test_nothing_hidden_survives(text: str) -> None:
    """P7: whatever comes in, nothing that could drive a terminal goes out, and cleaning is done once."""
    cleaned = clean(text)
    assert hidden(cleaned) == []
    assert clean(cleaned) == cleaned
    cleaned.encode("utf-8")


def test_every_format_character_is_covered() -> None:
    """The negative list agrees with the Unicode database of this Python."""
    everything = "".join(chr(code) for code in range(0x110000) if unicodedata.category(chr(code)) in {"Cf", "Cc", "Cs"})
    assert hidden(clean(everything, max_line=10**7, max_chars=10**7)) == []
