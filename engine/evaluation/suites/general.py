"""Forty plain requests of general knowledge, arithmetic, text and lists: an anchor, which learning must not sink.

They are easy on purpose. An anchor that a small model never passes cannot show that it got worse.
"""

from __future__ import annotations

from functools import cache

from engine.api_learning import Split, SuiteTask
from engine.evaluation.suites.everyday import ROWS
from engine.evaluation.suites.plain import Row, task_of

TITLE = "Forty plain requests, checked exactly: arithmetic, text, lists, knowledge; and others to rehearse."

_ARITHMETIC = (
    Row(
        "add",
        "Write a Python function add(a, b) that returns the sum of a and b.",
        "def add(a, b):\n    return a + b",
        [((2, 3), 5), ((-4, 4), 0), ((10, 25), 35)],
    ),
    Row(
        "subtract",
        "Write a Python function subtract(a, b) that returns a minus b.",
        "def subtract(a, b):\n    return a - b",
        [((7, 3), 4), ((3, 7), -4), ((0, 0), 0)],
    ),
    Row(
        "multiply",
        "Write a Python function multiply(a, b) that returns the product of a and b.",
        "def multiply(a, b):\n    return a * b",
        [((6, 7), 42), ((-2, 5), -10), ((9, 0), 0)],
    ),
    Row(
        "square",
        "Write a Python function square(n) that returns n multiplied by itself.",
        "def square(n):\n    return n * n",
        [((3,), 9), ((-5,), 25), ((12,), 144)],
    ),
    Row(
        "is_even",
        "Write a Python function is_even(n) that returns True if n is even and False otherwise.",
        "def is_even(n):\n    return n % 2 == 0",
        [((4,), True), ((7,), False), ((0,), True)],
    ),
    Row(
        "remainder",
        "Write a Python function remainder(a, b) that returns the remainder of a divided by b.",
        "def remainder(a, b):\n    return a % b",
        [((17, 5), 2), ((20, 4), 0), ((3, 10), 3)],
    ),
    Row(
        "larger",
        "Write a Python function larger(a, b) that returns the larger of two numbers.",
        "def larger(a, b):\n    return a if a > b else b",
        [((3, 9), 9), ((8, 2), 8), ((5, 5), 5)],
    ),
    Row(
        "absolute",
        "Write a Python function absolute(n) that returns the absolute value of n.",
        "def absolute(n):\n    return -n if n < 0 else n",
        [((-6,), 6), ((6,), 6), ((0,), 0)],
    ),
    Row(
        "factorial",
        "Write a Python function factorial(n) that returns the factorial of n.",
        "def factorial(n):\n    result = 1\n    for i in range(2, n + 1):\n        result *= i\n    return result",
        [((0,), 1), ((5,), 120), ((7,), 5040)],
    ),
    Row(
        "power",
        "Write a Python function power(base, exponent) that returns base raised to the exponent.",
        "def power(base, exponent):\n    return base**exponent",
        [((2, 10), 1024), ((5, 0), 1), ((3, 3), 27)],
    ),
)

_TEXT = (
    Row(
        "shout",
        "Write a Python function shout(text) that returns the text in upper case.",
        "def shout(text):\n    return text.upper()",
        [(("hello",), "HELLO"), (("Abc d",), "ABC D")],
    ),
    Row(
        "length",
        "Write a Python function length(text) that returns the number of characters in the text.",
        "def length(text):\n    return len(text)",
        [(("",), 0), (("seven c",), 7)],
    ),
    Row(
        "greet",
        'Write a Python function greet(name) that returns "Hello, " followed by the name and "!".',
        'def greet(name):\n    return "Hello, " + name + "!"',
        [(("Ann",), "Hello, Ann!"), (("Bo",), "Hello, Bo!")],
    ),
    Row(
        "first_letter",
        "Write a Python function first_letter(word) that returns the first letter of the word.",
        "def first_letter(word):\n    return word[0]",
        [(("plum",), "p"), (("Zoe",), "Z")],
    ),
    Row(
        "count_words",
        "Write a Python function count_words(sentence) that returns how many words the sentence has.",
        "def count_words(sentence):\n    return len(sentence.split())",
        [(("one two three",), 3), (("word",), 1), (("a b",), 2)],
    ),
    Row(
        "join_words",
        "Write a Python function join_words(words) that joins a list of words with a space between them.",
        'def join_words(words):\n    return " ".join(words)',
        [((["a", "b", "c"],), "a b c"), ((["one"],), "one")],
    ),
    Row(
        "starts_with_a",
        'Write a Python function starts_with_a(word) that returns True if the word starts with "a".',
        'def starts_with_a(word):\n    return word.startswith("a")',
        [(("apple",), True), (("pear",), False), (("banana",), False)],
    ),
    Row(
        "repeat",
        "Write a Python function repeat(text, times) that returns the text repeated that many times.",
        "def repeat(text, times):\n    return text * times",
        [(("ab", 3), "ababab"), (("x", 1), "x"), (("y", 0), "")],
    ),
    Row(
        "is_palindrome",
        "Write a Python function is_palindrome(text) that returns True if the text reads the same backwards.",
        "def is_palindrome(text):\n    return text == text[::-1]",
        [(("level",), True), (("hello",), False), (("aa",), True)],
    ),
    Row(
        "count_letter",
        "Write a Python function count_letter(text, letter) that returns how often the letter is in the text.",
        "def count_letter(text, letter):\n    return text.count(letter)",
        [(("banana", "a"), 3), (("banana", "n"), 2), (("banana", "z"), 0)],
    ),
)

_LISTS = (
    Row(
        "total",
        "Write a Python function total(numbers) that returns the sum of a list of numbers.",
        "def total(numbers):\n    return sum(numbers)",
        [(([1, 2, 3],), 6), (([],), 0), (([-1, 5],), 4)],
    ),
    Row(
        "largest",
        "Write a Python function largest(numbers) that returns the largest number in a list.",
        "def largest(numbers):\n    return max(numbers)",
        [(([3, 9, 2],), 9), (([-3, -1],), -1)],
    ),
    Row(
        "smallest",
        "Write a Python function smallest(numbers) that returns the smallest number in a list.",
        "def smallest(numbers):\n    return min(numbers)",
        [(([3, 9, 2],), 2), (([-3, -1],), -3)],
    ),
    Row(
        "count_items",
        "Write a Python function count_items(items) that returns how many items a list has.",
        "def count_items(items):\n    return len(items)",
        [(([4, 4, 4],), 3), (([],), 0)],
    ),
    Row(
        "last_item",
        "Write a Python function last_item(items) that returns the last item of a list.",
        "def last_item(items):\n    return items[-1]",
        [(([1, 2, 3],), 3), ((["x"],), "x")],
    ),
    Row(
        "ascending",
        "Write a Python function ascending(numbers) that returns the numbers sorted from smallest to largest.",
        "def ascending(numbers):\n    return sorted(numbers)",
        [(([3, 1, 2],), [1, 2, 3]), (([5, -5],), [-5, 5])],
    ),
    Row(
        "evens",
        "Write a Python function evens(numbers) that returns a list of only the even numbers.",
        "def evens(numbers):\n    return [n for n in numbers if n % 2 == 0]",
        [(([1, 2, 3, 4],), [2, 4]), (([1, 3],), []), (([0, 7, 10],), [0, 10])],
    ),
    Row(
        "contains",
        "Write a Python function contains(items, value) that returns True if the value is in the list.",
        "def contains(items, value):\n    return value in items",
        [(([1, 2, 3], 2), True), (([1, 2, 3], 5), False)],
    ),
    Row(
        "average",
        "Write a Python function average(numbers) that returns the sum of the numbers divided by how many there are.",
        "def average(numbers):\n    return sum(numbers) / len(numbers)",
        [(([1, 2, 3],), 2.0), (([5, 10],), 7.5)],
    ),
    Row(
        "one_to",
        "Write a Python function one_to(n) that returns a list of the numbers from 1 to n.",
        "def one_to(n):\n    return list(range(1, n + 1))",
        [((4,), [1, 2, 3, 4]), ((1,), [1]), ((0,), [])],
    ),
)

_KNOWLEDGE = (
    Row(
        "days_in_week",
        "Write a Python function days_in_week() that returns the number of days in a week.",
        "def days_in_week():\n    return 7",
        [((), 7)],
    ),
    Row(
        "months_in_year",
        "Write a Python function months_in_year() that returns the number of months in a year.",
        "def months_in_year():\n    return 12",
        [((), 12)],
    ),
    Row(
        "minutes_in_hour",
        "Write a Python function minutes_in_hour() that returns the number of minutes in an hour.",
        "def minutes_in_hour():\n    return 60",
        [((), 60)],
    ),
    Row(
        "hours_in_day",
        "Write a Python function hours_in_day() that returns the number of hours in a day.",
        "def hours_in_day():\n    return 24",
        [((), 24)],
    ),
    Row(
        "capital_of_france",
        "Write a Python function capital_of_france() that returns the name of the capital of France.",
        'def capital_of_france():\n    return "Paris"',
        [((), "Paris")],
    ),
    Row(
        "capital_of_japan",
        "Write a Python function capital_of_japan() that returns the name of the capital of Japan.",
        'def capital_of_japan():\n    return "Tokyo"',
        [((), "Tokyo")],
    ),
    Row(
        "legs_of_spider",
        "Write a Python function legs_of_spider() that returns how many legs a spider has.",
        "def legs_of_spider():\n    return 8",
        [((), 8)],
    ),
    Row(
        "sides_of_triangle",
        "Write a Python function sides_of_triangle() that returns how many sides a triangle has.",
        "def sides_of_triangle():\n    return 3",
        [((), 3)],
    ),
    Row(
        "letters_of_alphabet",
        "Write a Python function letters_of_alphabet() that returns how many letters the English alphabet has.",
        "def letters_of_alphabet():\n    return 26",
        [((), 26)],
    ),
    Row(
        "to_fahrenheit",
        "Write a Python function to_fahrenheit(celsius) that returns celsius times 9, divided by 5, plus 32.",
        "def to_fahrenheit(celsius):\n    return celsius * 9 / 5 + 32",
        [((100,), 212.0), ((0,), 32.0), ((-40,), -40.0)],
    ),
)


@cache
def tasks() -> tuple[SuiteTask, ...]:
    """The forty, which decide, and then those to rehearse."""
    rows = (*_ARITHMETIC, *_TEXT, *_LISTS, *_KNOWLEDGE)
    deciding = (task_of(row, "general", number, "anchor") for number, row in enumerate(rows))
    rehearsed = (task_of(row, "general-train", number, "everyday", Split.TRAIN) for number, row in enumerate(ROWS))
    return (*deciding, *rehearsed)
