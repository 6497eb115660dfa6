"""Ordinary requests to rehearse: the train split of `general`, of which nothing is in its gate.

An adapter that learns one domain alone forgets how to answer these. What the base model says to them
(`rune-tui rehearse --suite general`) holds an adapter to the base model outside its domain.
"""

from __future__ import annotations

from engine.evaluation.suites.plain import Row

_ARITHMETIC = (
    Row(
        "triple",
        "Write a Python function triple(n) that returns n times three.",
        "def triple(n):\n    return n * 3",
        [((2,), 6), ((-1,), -3)],
    ),
    Row(
        "half",
        "Write a Python function half(n) that returns n divided by 2.",
        "def half(n):\n    return n / 2",
        [((3,), 1.5), ((8,), 4.0)],
    ),
    Row(
        "quotient",
        "Write a Python function quotient(a, b) that divides a by b and drops the rest.",
        "def quotient(a, b):\n    return a // b",
        [((7, 2), 3), ((9, 3), 3)],
    ),
    Row(
        "smaller",
        "Write a Python function smaller(a, b) that gives the smaller of a and b.",
        "def smaller(a, b):\n    return a if a < b else b",
        [((3, 9), 3), ((8, 2), 2)],
    ),
    Row(
        "cube",
        "Write a Python function cube(n) for the third power of n.",
        "def cube(n):\n    return n * n * n",
        [((2,), 8), ((-3,), -27)],
    ),
    Row(
        "negate",
        "Implement negate(n), which turns the sign of n around.",
        "def negate(n):\n    return -n",
        [((5,), -5), ((-2,), 2)],
    ),
    Row(
        "percent",
        "Implement percent(part, whole): how many percent of whole is part?",
        "def percent(part, whole):\n    return part * 100 / whole",
        [((1, 4), 25.0), ((3, 2), 150.0)],
    ),
)

_TEXT = (
    Row(
        "whisper",
        "Please write whisper(text), which gives the text in lower case.",
        "def whisper(text):\n    return text.lower()",
        [(("HeLLo",), "hello"), (("A b",), "a b")],
    ),
    Row(
        "words_of",
        "I need words_of(sentence), a list of the words of a sentence.",
        "def words_of(sentence):\n    return sentence.split()",
        [(("one two",), ["one", "two"]), (("word",), ["word"])],
    ),
    Row(
        "is_empty",
        "Give me a function is_empty(text): True if the text has no characters.",
        "def is_empty(text):\n    return len(text) == 0",
        [(("",), True), (("x",), False)],
    ),
    Row(
        "initials",
        "Define initials(first, last), for example AL for Ada and Lovelace.",
        "def initials(first, last):\n    return first[0] + last[0]",
        [(("Ada", "Lovelace"), "AL"), (("Bo", "Ek"), "BE")],
    ),
    Row(
        "without_spaces",
        "Write without_spaces(text), the text with every space taken out.",
        'def without_spaces(text):\n    return text.replace(" ", "")',
        [(("a b c",), "abc"), (("ab",), "ab")],
    ),
)

_LISTS = (
    Row(
        "descending",
        "Write descending(numbers): the numbers, the largest of them first.",
        "def descending(numbers):\n    return sorted(numbers, reverse=True)",
        [(([1, 3, 2],), [3, 2, 1]), (([],), [])],
    ),
    Row(
        "spread",
        "Implement spread(numbers): the largest number minus the smallest.",
        "def spread(numbers):\n    return max(numbers) - min(numbers)",
        [(([4, 9, 1],), 8), (([5],), 0)],
    ),
    Row(
        "place_of",
        "Implement place_of(items, value): at which index does the value stand?",
        "def place_of(items, value):\n    return items.index(value)",
        [((["a", "b"], "b"), 1), (([7], 7), 0)],
    ),
    Row(
        "pairs",
        "Define pairs(xs, ys), a list of the tuples that zip makes, as lists.",
        "def pairs(xs, ys):\n    return [[x, y] for x, y in zip(xs, ys)]",
        [(([1, 2], [3, 4]), [[1, 3], [2, 4]]), (([], []), [])],
    ),
    Row(
        "squares",
        "Define squares(numbers): each number times itself.",
        "def squares(numbers):\n    return [n * n for n in numbers]",
        [(([1, 2, 3],), [1, 4, 9]), (([],), [])],
    ),
    Row(
        "middle",
        "What does middle(items) look like, for the item halfway along a list?",
        "def middle(items):\n    return items[len(items) // 2]",
        [(([1, 2, 3],), 2), (([1, 2, 3, 4, 5],), 3)],
    ),
)

_KNOWLEDGE = (
    Row(
        "grams",
        "Implement grams(kilograms), in whole numbers.",
        "def grams(kilograms):\n    return kilograms * 1000",
        [((2,), 2000), ((0,), 0)],
    ),
    Row(
        "weekend",
        "Give me weekend(), a list of its two days.",
        'def weekend():\n    return ["Saturday", "Sunday"]',
        [((), ["Saturday", "Sunday"])],
    ),
    Row(
        "is_vowel",
        "Please write is_vowel(letter), true for a, e, i, o and u.",
        'def is_vowel(letter):\n    return letter in "aeiou"',
        [(("e",), True), (("k",), False)],
    ),
)

ROWS = (*_ARITHMETIC, *_TEXT, *_LISTS, *_KNOWLEDGE)
