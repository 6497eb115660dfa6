"""Out of distribution: what neither a private API nor HumanEval asks for.

Adapters here learn from calls of small functions, on one list or one text. These tasks want something else: objects
that keep state, generators, decorators, context managers, parsers, grids, graphs, dates, errors that must be raised.
None of them is about a list or a word that goes in and comes out again changed.
"""

from __future__ import annotations

from functools import cache

from engine.api_learning import SuiteTask
from engine.evaluation.suites.ood_objects import OBJECTS
from engine.evaluation.suites.plain import Row, task_of

TITLE = "Out of distribution: state, generators, parsers, grids, graphs, dates, errors."

_FUNCTIONS = (
    Row(
        "balanced",
        "Write a Python function balanced(text) that returns True when every bracket of (), [] and {} in the text is "
        "closed by its own kind in the right order.",
        """\
def balanced(text):
    pairs = {")": "(", "]": "[", "}": "{"}
    stack = []
    for sign in text:
        if sign in "([{":
            stack.append(sign)
        elif sign in pairs and (not stack or stack.pop() != pairs[sign]):
            return False
    return not stack
""",
        [(("(a[b]{c})",), True), (("(]",), False), (("((",), False), ((")",), False), (("",), True)],
    ),
    Row(
        "roman_to_int",
        "Write a Python function roman_to_int(numeral) that returns the value of a Roman numeral.",
        """\
def roman_to_int(numeral):
    values = {"I": 1, "V": 5, "X": 10, "L": 50, "C": 100, "D": 500, "M": 1000}
    total = 0
    for sign, after in zip(numeral, numeral[1:] + "I"):
        total += -values[sign] if values[sign] < values[after] else values[sign]
    return total
""",
        [(("III",), 3), (("XIV",), 14), (("MCMXC",), 1990), (("XLII",), 42)],
    ),
    Row(
        "evaluate_rpn",
        "Write a Python function evaluate_rpn(tokens) that computes an expression in reverse Polish notation. "
        'tokens is a list of text: whole numbers and the signs "+", "-" and "*".',
        """\
def evaluate_rpn(tokens):
    stack = []
    for token in tokens:
        if token in ("+", "-", "*"):
            right, left = stack.pop(), stack.pop()
            stack.append(left + right if token == "+" else left - right if token == "-" else left * right)
        else:
            stack.append(int(token))
    return stack[0]
""",
        [((["2", "3", "+"],), 5), ((["7", "2", "-", "3", "*"],), 15), ((["4"],), 4)],
    ),
    Row(
        "is_leap_year",
        "Write a Python function is_leap_year(year) that returns whether the year has a 29th of February.",
        "def is_leap_year(year):\n    return year % 4 == 0 and (year % 100 != 0 or year % 400 == 0)",
        [((2024,), True), ((1900,), False), ((2000,), True), ((2023,), False)],
    ),
    Row(
        "days_between",
        "Write a Python function days_between(first, second) that returns how many days lie from the date first to the "
        'date second. Both are text such as "2024-03-01".',
        """\
from datetime import date


def days_between(first, second):
    return (date.fromisoformat(second) - date.fromisoformat(first)).days
""",
        [(("2024-02-28", "2024-03-01"), 2), (("2023-12-31", "2024-01-01"), 1), (("2024-01-05", "2024-01-01"), -4)],
    ),
    Row(
        "transpose",
        "Write a Python function transpose(matrix) that turns the rows of a matrix, a list of lists, into columns.",
        "def transpose(matrix):\n    return [list(column) for column in zip(*matrix)]",
        [(([[1, 2], [3, 4]],), [[1, 3], [2, 4]]), (([[1, 2, 3]],), [[1], [2], [3]])],
    ),
    Row(
        "count_islands",
        "Write a Python function count_islands(grid) that returns the number of groups of ones in a grid of zeros and "
        "ones. Ones belong together when they touch left, right, above or below.",
        """\
def count_islands(grid):
    land = {(r, c) for r, row in enumerate(grid) for c, cell in enumerate(row) if cell == 1}
    islands = 0
    while land:
        islands += 1
        todo = [land.pop()]
        while todo:
            r, c = todo.pop()
            for place in ((r + 1, c), (r - 1, c), (r, c + 1), (r, c - 1)):
                if place in land:
                    land.remove(place)
                    todo.append(place)
    return islands
""",
        [
            (([[1, 1, 0], [0, 0, 1], [1, 0, 1]],), 3),
            (([[0, 0], [0, 0]],), 0),
            (([[1, 1], [1, 1]],), 1),
            (([[1, 0], [0, 1]],), 2),
        ],
    ),
    Row(
        "shortest_path",
        "Write a Python function shortest_path(graph, start, goal) that returns the smallest number of steps from "
        "start to goal, or -1 when there is no way. graph maps each name to the list of names one step away.",
        """\
def shortest_path(graph, start, goal):
    steps = {start: 0}
    todo = [start]
    for name in todo:
        for after in graph.get(name, []):
            if after not in steps:
                steps[after] = steps[name] + 1
                todo.append(after)
    return steps.get(goal, -1)
""",
        [
            (({"a": ["b", "c"], "b": ["d"], "c": ["d"], "d": []}, "a", "d"), 2),
            (({"a": ["b"], "b": []}, "b", "a"), -1),
            (({"a": []}, "a", "a"), 0),
        ],
    ),
    Row(
        "parse_query",
        'Write a Python function parse_query(text) that turns text such as "a=1&b=2" into a dictionary of text to '
        "text. An empty text gives an empty dictionary.",
        """\
def parse_query(text):
    return dict(part.split("=", 1) for part in text.split("&")) if text else {}
""",
        [(("a=1&b=2",), {"a": "1", "b": "2"}), (("",), {}), (("q=x=y",), {"q": "x=y"})],
    ),
    Row(
        "make_change",
        "Write a Python function make_change(amount) that returns a dictionary from coin to count, with the fewest "
        'coins of 25, 10, 5 and 1 that make the amount. The keys are text such as "25"; coins not needed are left out.',
        """\
def make_change(amount):
    coins = {}
    for coin in (25, 10, 5, 1):
        if amount >= coin:
            coins[str(coin)] = amount // coin
            amount %= coin
    return coins
""",
        [((41,), {"25": 1, "10": 1, "5": 1, "1": 1}), ((50,), {"25": 2}), ((0,), {}), ((9,), {"5": 1, "1": 4})],
    ),
    Row(
        "to_binary",
        "Write a Python function to_binary(number) that returns a whole number of at least 0 as binary digits.",
        "def to_binary(number):\n    return format(number, 'b')",
        [((5,), "101"), ((0,), "0"), ((16,), "10000")],
    ),
    Row(
        "nested_depth",
        "Write a Python function nested_depth(data) that returns how deep a value is nested: 0 for a number, "
        "and for a list one more than the deepest of its items; an empty list has depth 1.",
        """\
def nested_depth(data):
    if not isinstance(data, list):
        return 0
    return 1 + max((nested_depth(item) for item in data), default=0)
""",
        [((3,), 0), (([],), 1), (([1, [2, [3]]],), 3), (([1, 2],), 1)],
    ),
)


@cache
def tasks() -> tuple[SuiteTask, ...]:
    """All twenty."""
    return tuple(task_of(row, "OOD", number, "other") for number, row in enumerate((*OBJECTS, *_FUNCTIONS)))
