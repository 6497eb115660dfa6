"""A77, learning.md 4.3.6: what was learned from must not decide, however it is dressed up; what is new may."""

from __future__ import annotations

from textwrap import indent

import pytest

from engine.evaluation.normal_form import normal_forms
from engine.evaluation.overlap import Document, contamination, find_overlaps, learned_document

CODE = """
def count_above(numbers: list[int], limit: int = 3) -> int:
    '''How many are above.'''
    found = 0
    for number in numbers:
        if number > limit:
            found += 1
    return found
"""
RENAMED = """
import math
from typing import List

def tally(xs, cap=-17):
    result = 1.5
    for x in xs:
        if x > cap:
            result += 2
    return result
"""
LONG = (
    "Given a list of readings from a thermometer, leave out those that were taken at night and give back"
    " the mean of the others, rounded to one decimal place."
)


def _deciding(text: str = "", code: str = "", identifier: str = "gate/1", template: str = "") -> Document:
    return Document(identifier, text, code, template)


def _shared(deciding: Document, learned: Document) -> tuple[int, int]:
    found = find_overlaps([deciding], [learned])
    return len(found.exact), len(found.near)


# --- the normal form -----------------------------------------------------------------------------------------


def test_a_renamed_copy_with_other_constants_is_the_same_program() -> None:
    assert normal_forms(CODE) == normal_forms(RENAMED)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("def f(x):\n    return tumble(gyre(6, x))", "def f(x):\n    return tumble(shed(6, x))"),
        ("def f(x):\n    return tumble(gyre(6, x))", "def f(x):\n    return gyre(6, tumble(x))"),
        ("def f(x):\n    return x.upper()", "def f(x):\n    return x.lower()"),
        ("def f(x):\n    return x + 1", "def f(x):\n    return x - 1"),
        ("def f(x, y):\n    return x - y", "def f(x, y):\n    return y - x"),
        ("def f(x):\n    return x or None", "def f(x):\n    return x or True"),
        ("def f(x):\n    return x[1]", "def f(x):\n    return x['1']"),
    ],
)
def test_another_program_stays_another(one: str, other: str) -> None:
    """A function of an API that is only called keeps its name: a composition is not every composition."""
    assert normal_forms(one) != normal_forms(other)


@pytest.mark.parametrize("code", ["", "def f(:", "\0", "(" * 5000, "'just words'", "import os"])
def test_what_is_no_program_has_no_form(code: str) -> None:
    assert normal_forms(code) == ()


def test_every_kind_of_binding_is_renamed() -> None:
    one = """
class Box:
    def put(self, thing: int) -> None:
        self.held: int = thing

async def run(*many, key=1, **rest):
    try:
        return [(a, b) for a in many if (b := a)] and run(key=key)
    except ValueError as error:
        raise TypeError(f"bad {error}") from error
    match rest:
        case {"x": [first, *others], **left} if first:
            return lambda q: q + first
        case int() as number:
            return number
"""
    other = one
    for old, new in {"Box": "Crate", "thing": "it", "run": "go", "many": "all_", "key": "k", "rest": "r"}.items():
        other = other.replace(old, new)
    for old, new in {"error": "e", "first": "head", "others": "tail", "number": "n", " q": " z", "q +": "z +"}.items():
        other = other.replace(old, new)
    assert normal_forms(one) == normal_forms(other)


def test_a_function_is_found_inside_a_longer_program() -> None:
    learned = learned_document(
        "row", "Do it.", f"Here:\n```python\n{RENAMED}\n\nprint(tally([1]))\n```\nand\n```py\nx = 1\n```"
    )
    assert _shared(_deciding(code=CODE), learned) == (1, 0)


@pytest.mark.parametrize(
    "answer",
    [
        f"```python\n{RENAMED}```\nFor example:\n```\n>>> tally([1])\n1\n```",
        f"```\n$ pip install it\n```\n\n```python\n{RENAMED}```",
        f"Here it is, as you wished:\n\n{RENAMED}\nThat is all of it.",
        f"```python\n{RENAMED}",
        f"- so:\n  ```python\n{indent(RENAMED, '  ')}  ```\n",
    ],
)
def test_what_stands_beside_a_program_does_not_hide_it(answer: str) -> None:
    assert _shared(_deciding(code=CODE), learned_document("row", "Do it.", answer)) == (1, 0)
    # The control: another program in the same clothes is none.
    other = answer.replace("result += 2", "result -= 2")
    assert _shared(_deciding(code=CODE), learned_document("row", "Do it.", other))[0] == 0


def test_an_answer_that_is_no_program_is_compared_word_by_word() -> None:
    words = "def solve(x): first take all of the rows then sort them by name and give = back"
    found = _shared(_deciding(code=words), learned_document("row", "Do it.", f"```\n{words}\n```"))
    assert found == (0, 1)


def test_a_helper_of_the_deciding_code_alone_is_no_overlap() -> None:
    with_helper = CODE + "\n\ndef solve(rows):\n    return [count_above(row) for row in rows if row]\n"
    assert _shared(_deciding(code=with_helper), Document("row", "", RENAMED)) == (0, 0)


# --- near ----------------------------------------------------------------------------------------------------


def test_thirteen_words_in_a_row_are_an_overlap_and_twelve_are_not() -> None:
    words = LONG.split()
    for count, near in ((13, 1), (12, 0)):
        learned = Document("row", "Another thing. " + " ".join(words[3 : 3 + count]) + " And more.")
        assert _shared(_deciding(LONG), learned) == (0, near)


def test_case_and_marks_do_not_hide_a_copy() -> None:
    assert _shared(_deciding(LONG), Document("row", LONG.upper().replace(",", " --"))) == (0, 1)


def test_a_short_prompt_is_found_as_a_line_of_a_longer_one() -> None:
    prompt = "runekit: rotate left by 6, then order from largest down."
    inside = Document("row", f"You have a library.\n\n{prompt}\nAnswer with code.")
    longer = Document("row", f"You have a library.\n\n{prompt[:-1]}, then drop the last 2.\nAnswer with code.")
    assert _shared(_deciding(prompt), inside) == (0, 1)
    assert _shared(_deciding(prompt), longer) == (0, 0)  # a longer chain is another task


def test_nearly_the_same_prompt_with_other_numbers_is_an_overlap() -> None:
    """A swapped number in every dozen words would get past the 13-gram alone."""
    text = "Take every 3 items of a list and sum up 4 of the largest ones among them all"
    other = "Take every 7 items of a list and sum up 9 of the largest ones among them all"
    assert _shared(_deciding(text), Document("row", other)) == (0, 1)


def test_nearly_the_same_code_is_an_overlap() -> None:
    body = "".join(f"    a{i} = step{i}(x)\n" for i in range(20))
    one = f"def f(x):\n{body}    return a1\n"
    assert _shared(_deciding(code=one), Document("row", "", one.replace("step7", "other"))) == (0, 1)


def test_compositions_of_the_same_calls_are_new_tasks() -> None:
    """Eight functions, pairs held out by template: nothing of the train pairs may count as seen in the gate pairs."""
    words = ("rotate left by", "keep the first", "leave out those under", "double each over", "repeat all of it")
    calls = ("gyre", "nab", "shed", "swell", "tumble")
    documents = [
        Document(
            f"{i}-{j}",
            f"runekit: {words[i]} {k}, then {words[j]} 4.",
            f"def solve(xs):\n    return {calls[j]}(4, {calls[i]}({k}, xs))",
            f"{i}-{j}",
        )
        for k, (i, j) in enumerate((i, j) for i in range(5) for j in range(5) if i != j)
    ]
    gate, train = documents[::3], [document for n, document in enumerate(documents) if n % 3]
    assert find_overlaps(gate, train).clean
    assert len(find_overlaps(gate, documents).exact) == len(gate)  # negative control


def test_a_phrase_of_the_whole_suite_is_no_overlap() -> None:
    frame = "Write one function called solve that takes a list and gives a list back, and nothing but this function."
    gate = [
        Document(f"g{i}", f"{frame} It should {verb} them.") for i, verb in enumerate(("sort", "sum", "double", "zip"))
    ]
    learned = [Document("row", f"{frame} It should reverse them.")]
    assert find_overlaps(gate, learned).clean
    assert not find_overlaps(gate[:2], learned).clean  # two tasks alike are no suite yet


def test_one_template_does_not_make_its_own_phrases_common() -> None:
    gate = [Document(f"g{i}", f"{LONG} Case {i}.", template="t") for i in range(10)]
    assert len(find_overlaps(gate, [Document("row", LONG)]).near) == 10


def test_a_document_with_nothing_in_common_is_clean() -> None:
    found = find_overlaps(
        [_deciding(LONG, CODE)], [Document("row", "Say hello.", "print('hello')"), Document("empty", "")]
    )
    assert found.clean
    assert found.rows == 2
    assert find_overlaps([], []).clean


def test_each_deciding_task_is_reported_once_and_the_code_counts_more() -> None:
    found = find_overlaps([_deciding(LONG, CODE)], [Document("r1", LONG), Document("r2", LONG, RENAMED)])
    assert [str(overlap) for overlap in found.exact] == ["gate/1 and r2 share the same code"]
    assert found.near == ()


# --- what stands with a promotion ----------------------------------------------------------------------------


def test_contamination_says_what_it_does_not_know() -> None:
    unknown = contamination(None)
    assert (unknown.checked, unknown.exact, unknown.near) == (False, 0, 0)
    known = contamination(find_overlaps([_deciding(LONG, CODE)], [Document("r", "", RENAMED)]))
    assert (known.checked, known.rows, known.exact, known.near) == (True, 1, 1, 0)
    assert known.examples == ("gate/1 and r share the same code",)


def test_examples_are_few() -> None:
    gate = [Document(f"g{i}", "", f"def f(x):\n    return call{i}(x)") for i in range(50)]
    found = contamination(find_overlaps(gate, gate))
    assert (found.exact, len(found.examples)) == (50, 10)


def test_a_step_a_line_is_the_same_program_as_one_call_inside_the_other() -> None:
    nested = "def solve(s):\n    return order(turn(6, s))"
    lines = 'def f(xs):\n    """Two steps."""\n    xs: list = turn(2, xs)\n    ys = order(xs)\n    return ys'
    assert normal_forms(lines) == normal_forms(nested)


@pytest.mark.parametrize(
    "code",
    [
        "def f(x):\n    y = turn(x)\n    return y + y",
        "def f(x):\n    y = turn(x)\n    return x",
        "def f(x):\n    y = turn(x)\n    return [y for _ in x]",
        "def f(x):\n    x += 1\n    return x",
    ],
)
def test_a_result_that_is_not_used_once_stays_a_statement(code: str) -> None:
    (form,) = normal_forms(code)
    assert form.count("\n") == 2


def test_words_of_a_step_a_line_are_counted_as_of_one_expression() -> None:
    """Two tasks that begin with the same three steps share 13 words only because each line repeats the variable."""
    same = "def solve(xs):\n    xs = swell(5, xs)\n    xs = nab(3, xs)\n    xs = gyre(4, xs)\n"
    one, other = same + "    xs = lone(xs)\n    return xs", same + "    xs = flim(xs)\n    return xs"
    assert find_overlaps([Document("gate", "a b c", one)], [Document("row", "d e f", other)]).clean
