"""A04: whatever a model wraps around its code, clean code comes out, and a cut answer says so."""

from __future__ import annotations

import hypothesis.strategies as st
import pytest
from hypothesis import given

from engine.pipeline.extract import extract_code, extract_continuation, join_continuation

CODE = "def add(a, b):\n    return a + b"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (f"```python\n{CODE}\n```", CODE),
        (f"```py\n{CODE}\n```", CODE),
        (f"```Python\n{CODE}\n```", CODE),
        (f"```\n{CODE}\n```", CODE),
        (f"~~~python\n{CODE}\n~~~", CODE),
        (f"Sure! Here it is:\n\n```python\n{CODE}\n```\nIt adds.", CODE),
        (f"Here it is:```python\n{CODE}```", CODE),
        (f"\n\n{CODE}\n\n", CODE),
        (f"```python\r\n{CODE}\r\n```", CODE),
        ("```x = 1```", "x = 1"),
        # a closing fence that was never opened
        (f"{CODE}\n```", CODE),
        (f"{CODE}\n```\nThis function adds.", CODE),
    ],
)
def test_a04_labelled_unlabelled_and_no_fence(text: str, expected: str) -> None:
    found = extract_code(text)
    assert found.code.replace("\r", "") == expected
    assert not found.truncated


def test_a04_several_blocks_are_joined() -> None:
    assert extract_code("```python\nx = 1\n```\nand\n```py\ny = 2\n```").code == "x = 1\n\ny = 2"


def test_a04_a_block_that_is_written_anew_replaces_the_first() -> None:
    found = extract_code("```python\ndef f():\n    return 1\n```\nBetter:\n```python\ndef f():\n    return 2\n```")
    assert found.code == "def f():\n    return 2"


def test_a04_blocks_of_other_languages_are_not_code() -> None:
    assert extract_code("```bash\nrm -rf /\n```\n```python\nx = 1\n```").code == "x = 1"
    assert extract_code("Run it:\n```bash\nrm -rf /\n```").code == ""


def test_a04_nested_fences() -> None:
    nested = "```python\ndef f():\n    return 1\n```python\ny = 2\n```\nz = 3\n```"
    found = extract_code(nested)
    assert found.code == "def f():\n    return 1\ny = 2\nz = 3"
    assert not found.truncated


def test_a04_a_fence_in_a_docstring_does_not_end_the_block() -> None:
    code = 'def f():\n    """\n    ```\n    f()\n    ```\n    """\n    return 1'
    found = extract_code(f"```python\n{code}\n```")
    assert "return 1" in found.code
    assert "```" not in found.code
    assert not found.truncated


def test_a04_unterminated_fence_is_code_and_truncated() -> None:
    found = extract_code("Here:\n```python\ndef f():\n    return 1")
    assert found.code == "def f():\n    return 1"
    assert found.truncated


def test_a04_code_without_fence_that_was_cut_is_truncated() -> None:
    found = extract_code("Sure!\ndef f(x):\n    y = x +", cut=True)
    assert (found.code, found.truncated) == ("def f(x):\n    y = x +", True)
    assert not extract_code("def f(x):\n    return x").truncated


def test_prose_around_code_without_fences_is_left_out() -> None:
    text = f"Here is the function:\n\n{CODE}\n\nThis function adds two numbers.\nIt's simple."
    assert extract_code(text).code == CODE


def test_prose_alone_stays_as_it_is() -> None:
    assert extract_code("  I cannot do that. ").code == "I cannot do that."


fences = st.sampled_from(
    ["```", "```python", "```py", "````", "~~~", "    ```", "x = 1", "def f():", "  pass", "text", ""]
)


@given(st.lists(fences, max_size=12).map("\n".join))
def test_a04_no_fence_line_reaches_the_interpreter(text: str) -> None:
    for line in extract_code(text).code.splitlines():
        assert not line.strip().startswith(("```", "~~~"))


@given(st.text(alphabet="`~pyx \n=1", max_size=60))
def test_a04_extraction_never_fails(text: str) -> None:
    extract_code(text)
    extract_continuation(text, cut=True)


@pytest.mark.parametrize(
    ("previous", "answer", "expected"),
    [
        # in the midst of a line, without a fence
        ("def f(x):\n    return x", " + 1\n", "def f(x):\n    return x + 1\n"),
        # whole lines with their indentation, without a fence
        ("def f(x):\n    y = x\n", "    return y", "def f(x):\n    y = x\n    return y"),
        # in a new block
        ("def f(x):\n    y = x", "```python\n    return y\n```", "def f(x):\n    y = x\n    return y"),
        # the last, unfinished line again
        ("def f(x):\n    retu", "```python\n    return x\n```", "def f(x):\n    return x"),
        # several lines again
        ("a = 1\nbig = 22\nc", "big = 22\nc = 3", "a = 1\nbig = 22\nc = 3"),
        # nothing
        ("a = 1", "  \n", "a = 1"),
    ],
)
def test_a13_continuation_is_concatenated(previous: str, answer: str, expected: str) -> None:
    assert join_continuation(previous, extract_continuation(answer)) == expected


def test_a13_a_cut_block_keeps_its_line_end_so_that_the_next_line_is_its_own() -> None:
    cut = extract_code("```python\ndef f(x):\n", cut=True)
    assert join_continuation(cut.code, extract_continuation("    return x")) == "def f(x):\n    return x"


@pytest.mark.timeout(10)
@pytest.mark.parametrize(
    "line",
    [
        pytest.param("```" + " " * 200_000 + "`", id="spaces"),
        pytest.param("~" * 200_000 + "`", id="tildes"),
    ],
)
def test_a_long_line_that_only_begins_like_a_fence_is_no_fence_and_freezes_nothing(line: str) -> None:
    assert extract_code(f"x = 1\n{line}").code == f"x = 1\n{line}"


def test_spaces_and_tabs_around_a_fences_label_do_not_count() -> None:
    assert extract_code("``` \tPython \t\nx = 1\n``` \t\nbye").code == "x = 1"
