"""Honest suites of every style pass on right code and fail on wrong code, through the proxy (A06, A07)."""
# ruff: noqa: E501 - Python sources as text

from __future__ import annotations

import asyncio
from dataclasses import dataclass

import pytest

from engine.evaluation.judge import Checks, Judge, Solution
from engine.evaluation.verdict import Strength


@dataclass(frozen=True)
class Example:
    name: str
    code: str
    wrong: tuple[str, str]
    """Text of the code and what it becomes in the wrong variant."""
    tests: str
    ran: int
    entry_point: str | None = None


CASE = "\n\n\nimport unittest\n\n\nclass T(unittest.TestCase):\n    def test_it(self):\n        it()\n"
"""Runs the function `it` of an example: unittest starts three times faster than pytest."""

EXAMPLES = (
    Example(
        "functions-unittest",
        "def add(a, b=0):\n    return a + b\n",
        ("a + b", "a - b"),
        "import unittest\n\n\nclass T(unittest.TestCase):\n"
        "    def test_sum(self):\n        self.assertEqual(add(1, 2), 3)\n"
        "    def test_keyword(self):\n        self.assertEqual(add(1, b=5), 6)\n",
        2,
    ),
    Example(
        "main-call-not-run-twice",
        "def double(x):\n    return 2 * x\n",
        ("2 * x", "3 * x"),
        "import unittest\nfrom solution import double\n\n\nclass T(unittest.TestCase):\n"
        "    def test_double(self):\n        self.assertEqual(double(2), 4)\n\n\n"
        "if __name__ == '__main__':\n    unittest.main()\n",
        1,
    ),
    Example(
        "bare-asserts",
        "def inc(x):\n    return x + 1\n",
        ("x + 1", "x + 2"),
        "assert inc(1) == 2\nfor i in range(3):\n    assert inc(i) == i + 1, f'at {i}'\n",
        2,
    ),
    Example(
        "humaneval-check",
        "def inc(x):\n    return x + 1\n",
        ("x + 1", "x"),
        "METADATA = {}\n\n\ndef check(candidate):\n    assert candidate(1) == 2\n    assert candidate(5) == 6\n",
        2,
        "inc",
    ),
    Example(
        "pytest-parametrize-fixture-raises",
        "def root(x):\n    if x < 0:\n        raise ValueError('negative number')\n    return x ** 0.5\n",
        ("raise ValueError", "raise KeyError"),
        "import pytest\nimport solution\n\n\n@pytest.fixture\ndef four():\n    return 4\n\n\n"
        "@pytest.mark.parametrize('x, y', [(0, 0), (1, 1), (9, 3)])\n"
        "def test_root(x, y):\n    assert solution.root(x) == pytest.approx(y)\n\n\n"
        "def test_fixture(four):\n    assert solution.root(four) == 2\n\n\n"
        "def test_raises():\n    with pytest.raises(ValueError, match='negative'):\n        solution.root(-1)\n",
        5,
    ),
    Example(
        "pytest-classes-and-async",
        "async def fetch(n):\n    return n * 2\n",
        ("n * 2", "n"),
        "import asyncio\n\n\nclass TestFetch:\n    def test_run(self):\n        assert asyncio.run(fetch(2)) == 4\n\n"
        "    async def test_await(self):\n        assert await fetch(3) == 6\n"
        "        assert await asyncio.gather(fetch(1), fetch(2)) == [2, 4]\n",
        2,
    ),
    Example(
        "mixed-styles",
        "def neg(x):\n    return -x\n",
        ("-x", "x"),
        "import unittest\nassert neg(1) == -1\n\n\nclass A(unittest.TestCase):\n"
        "    def test_a(self):\n        self.assertEqual(neg(2), -2)\n\n\ndef test_b():\n    assert neg(3) == -3\n",
        3,
    ),
    Example(
        "subtests",
        "def even(n):\n    return n % 2 == 0\n",
        ("== 0", "== 1"),
        "import unittest\n\n\nclass T(unittest.TestCase):\n    def test_all(self):\n        for n in range(4):\n"
        "            with self.subTest(n=n):\n                self.assertIs(even(n), n in (0, 2))\n",
        4,
    ),
    Example(
        "classes",
        "class Stack:\n    kind = 'lifo'\n\n    def __init__(self, *items):\n        self._items = list(items)\n\n"
        "    def push(self, item):\n        self._items.append(item)\n        return self\n\n"
        "    def pop(self):\n        return self._items.pop()\n\n"
        "    @property\n    def top(self):\n        return self._items[-1]\n\n"
        "    @classmethod\n    def of(cls, items):\n        return cls(*items)\n\n"
        "    @staticmethod\n    def empty():\n        return Stack()\n\n"
        "    def __len__(self):\n        return len(self._items)\n\n"
        "    def __contains__(self, item):\n        return item in self._items\n\n"
        "    def __iter__(self):\n        return iter(self._items)\n\n"
        "    def __getitem__(self, index):\n        return self._items[index]\n\n"
        "    def __setitem__(self, index, value):\n        self._items[index] = value\n\n"
        "    def __repr__(self):\n        return f'Stack({self._items!r})'\n",
        ("self._items.pop()", "self._items[-1]"),
        "from solution import Stack\n\n\ndef it():\n    stack = Stack(1).push(2).push(3)\n"
        "    assert isinstance(stack, Stack) and type(stack).__name__ == 'Stack'\n"
        "    assert stack.pop() == 3 and len(stack) == 2 and stack.top == 2\n"
        "    assert 1 in stack and 7 not in stack\n    assert list(stack) == [1, 2] and stack[0] == 1\n"
        "    stack[0] = 9\n    assert repr(stack) == 'Stack([9, 2])' and f'{stack}' == str(stack)\n"
        "    assert not Stack.empty() and Stack.of([1])\n    assert Stack.kind == 'lifo'\n"
        "    assert not hasattr(stack, 'nothing') and hasattr(stack, 'push')\n",
        1,
    ),
    Example(
        "dataclasses",
        "from dataclasses import dataclass, field\n\n\n@dataclass(order=True)\nclass Point:\n    x: int\n    y: int = 0\n"
        "    tags: list = field(default_factory=list)\n",
        ("y: int = 0", "y: int = 1"),
        "import dataclasses\n\n\ndef it():\n    p = Point(1)\n"
        "    assert p == Point(1, 0) and p != Point(2) and p is not Point(1)\n"
        "    assert dataclasses.asdict(p) == {'x': 1, 'y': 0, 'tags': []}\n    assert p < Point(2)\n"
        "    assert [Point(1), Point(2)] == [Point(1), Point(2)]\n    p.x = 5\n    assert p.x == 5\n"
        "    assert dataclasses.replace(p, y=3).y == 3\n    assert p != (5, 0)\n",
        1,
    ),
    Example(
        "exceptions-by-type",
        "class BankError(Exception):\n    pass\n\n\nclass Overdrawn(BankError, ValueError):\n"
        "    def __init__(self, missing):\n        super().__init__(f'{missing} missing')\n"
        "        self.missing = missing\n\n\ndef pay(have, price):\n    if price > have:\n"
        "        raise Overdrawn(price - have)\n    return have - price\n",
        ("raise Overdrawn(price - have)", "raise BankError('no')"),
        "import unittest\nimport solution\n\n\nclass T(unittest.TestCase):\n    def test_raises(self):\n"
        "        for kind in (solution.Overdrawn, solution.BankError, ValueError, Exception):\n"
        "            with self.assertRaises(kind) as caught:\n                solution.pay(1, 3)\n"
        "        self.assertEqual(caught.exception.missing, 2)\n"
        "        self.assertEqual(str(caught.exception), '2 missing')\n"
        "        self.assertTrue(issubclass(solution.Overdrawn, ValueError))\n",
        1,
    ),
    Example(
        "generators",
        "def squares(n):\n    total = 0\n    for i in range(n):\n        sent = yield i * i\n        total += sent or 0\n"
        "    return total\n",
        ("i * i", "i"),
        "import types\n\n\ndef it():\n    assert list(squares(4)) == [0, 1, 4, 9]\n"
        "    found = squares(3)\n    assert isinstance(found, types.GeneratorType)\n"
        "    assert next(found) == 0 and found.send(5) == 1 and next(found, None) == 4\n"
        "    try:\n        next(found)\n    except StopIteration as end:\n        assert end.value == 5\n"
        "    else:\n        assert 0 == 1\n",
        1,
    ),
    Example(
        "in-place-mutation",
        "def sort_in_place(xs):\n    xs.sort()\n\n\ndef transpose(grid):\n    for i in range(len(grid)):\n"
        "        for j in range(i):\n            grid[i][j], grid[j][i] = grid[j][i], grid[i][j]\n    return grid\n",
        ("xs.sort()", "sorted(xs)"),
        "def test_sort():\n    xs = [3, 1, 2]\n    assert sort_in_place(xs) is None\n    assert xs == [1, 2, 3]\n\n\n"
        "def test_grid():\n    grid = [[1, 2], [3, 4]]\n    row = grid[0]\n    assert transpose(grid) is grid\n"
        "    assert grid == [[1, 3], [2, 4]] and row == [1, 3]\n",
        2,
    ),
    Example(
        "callbacks",
        "def apply(f, xs):\n    return [f(x) for x in xs]\n\n\ndef safe(f):\n    try:\n        return f()\n"
        "    except ValueError as error:\n        return f'caught {error}'\n",
        ("f(x) for", "x for"),
        "import pytest\n\n\nclass Mine(Exception):\n    pass\n\n\ndef test_callbacks():\n    seen = []\n\n"
        "    def note(x):\n        seen.append(x)\n        return x + 1\n\n"
        "    assert apply(note, [1, 2]) == [2, 3] and seen == [1, 2]\n    assert apply(len, ['a', 'bc']) == [1, 2]\n"
        "    assert apply(str.upper, ['a']) == ['A']\n    assert apply(lambda x: x, iter([1, 2])) == [1, 2]\n"
        "    def bad():\n        raise ValueError('x')\n    assert safe(bad) == 'caught x'\n"
        "    def own():\n        raise Mine('y')\n    with pytest.raises(Mine):\n        safe(own)\n",
        1,
    ),
    Example(
        "printing",
        "def hello(name):\n    print('hello', name)\n",
        ("'hello'", "'bye'"),
        "import contextlib, io\n\n\ndef test_capsys(capsys):\n    hello('ann')\n"
        "    assert capsys.readouterr().out == 'hello ann\\n'\n\n\ndef test_redirect():\n    out = io.StringIO()\n"
        "    with contextlib.redirect_stdout(out):\n        hello('bob')\n    assert out.getvalue() == 'hello bob\\n'\n",
        2,
    ),
    Example(
        "operators",
        "class Vector:\n    def __init__(self, x, y):\n        self.x, self.y = x, y\n\n"
        "    def __add__(self, other):\n        return Vector(self.x + other.x, self.y + other.y)\n\n"
        "    def __mul__(self, k):\n        return Vector(self.x * k, self.y * k)\n\n    __rmul__ = __mul__\n\n"
        "    def __matmul__(self, other):\n        return self.x * other.x + self.y * other.y\n\n"
        "    def __eq__(self, other):\n        return (self.x, self.y) == (other.x, other.y)\n\n"
        "    def __hash__(self):\n        return hash((self.x, self.y))\n\n"
        "    def __abs__(self):\n        return (self.x ** 2 + self.y ** 2) ** 0.5\n\n"
        "    def __bool__(self):\n        return bool(self.x or self.y)\n\n"
        "    def __call__(self, i):\n        return (self.x, self.y)[i]\n",
        ("self.y + other.y", "self.y - other.y"),
        "def it():\n    v = Vector(3, 4)\n    assert v + Vector(1, 1) == Vector(4, 5)\n"
        "    assert v * 2 == Vector(6, 8) == 2 * v\n    assert v @ v == 25 and abs(v) == 5.0\n"
        "    assert len({Vector(1, 1), Vector(1, 1)}) == 1\n    assert v and not Vector(0, 0)\n    assert v(1) == 4\n"
        "    assert sum([v, v], Vector(0, 0)) == Vector(6, 8)\n",
        1,
    ),
    Example(
        "context-manager",
        "from contextlib import contextmanager\nlog = []\n\n\n@contextmanager\ndef traced(name):\n    log.append('in ' + name)\n"
        "    try:\n        yield name.upper()\n    finally:\n        log.append('out')\n\n\n"
        "class Quiet:\n    def __enter__(self):\n        return self\n\n    def __exit__(self, kind, error, trace):\n"
        "        return kind is not None and issubclass(kind, KeyError)\n",
        ("'out'", "'leave'"),
        "def it():\n    with traced('a') as name:\n        assert name == 'A'\n"
        "    assert log == ['in a', 'out']\n    with Quiet():\n        raise KeyError('x')\n",
        1,
    ),
    Example(
        "enums-and-constants",
        "from enum import Enum\nLIMIT = 10\n\n\nclass Color(Enum):\n    RED = 1\n    BLUE = 2\n\n\n"
        "def mix(a, b):\n    return Color.RED if a is b else Color.BLUE\n",
        ("if a is b", "if a is not b"),
        "from solution import Color, LIMIT, mix\n\n\ndef it():\n    assert LIMIT == 10\n"
        "    assert Color.RED is Color.RED and Color.RED != Color.BLUE\n    assert Color(1) is Color.RED\n"
        "    assert [c.name for c in Color] == ['RED', 'BLUE'] and len(Color) == 2\n"
        "    assert Color['BLUE'].value == 2\n    assert mix(Color.RED, Color.RED) is Color.RED\n",
        1,
    ),
    Example(
        "inheritance-and-abc",
        "from abc import ABC, abstractmethod\n\n\nclass Shape(ABC):\n    @abstractmethod\n    def area(self): ...\n\n\n"
        "class Square(Shape):\n    def __init__(self, a):\n        self.a = a\n\n    def area(self):\n        return self.a ** 2\n",
        ("self.a ** 2", "self.a * 2"),
        "import pytest\n\n\ndef test_shapes():\n    assert isinstance(Square(2), Shape) and issubclass(Square, Shape)\n"
        "    assert Square(3).area() == 9\n    with pytest.raises(TypeError):\n        Shape()\n",
        1,
    ),
    Example(
        "library-containers",
        "from collections import Counter, defaultdict, deque, namedtuple\n\n\ndef count(text):\n    return Counter(text)\n\n\n"
        "def group(words):\n    found = defaultdict(list)\n    for word in words:\n        found[word[0]].append(word)\n    return found\n\n\n"
        "def last(xs, n):\n    return deque(xs, maxlen=n)\n",
        ("word[0]", "word[-1]"),
        "from collections import deque\n\n\ndef it():\n    assert count('aab') == {'a': 2, 'b': 1}\n"
        "    assert group(['ab', 'ac', 'b']) == {'a': ['ab', 'ac'], 'b': ['b']}\n    assert last([1, 2, 3], 2) == deque([2, 3])\n",
        1,
    ),
    Example(
        "named-tuples",
        "from typing import NamedTuple\n\n\nclass Point(NamedTuple):\n    x: int\n    y: int = 0\n\n"
        "    @property\n    def sum(self):\n        return self.x + self.y\n\n"
        "    def plus(self, other):\n        return Point(self.x + other.x, self.y + other.y)\n\n\n"
        "def corners(n):\n    return [Point(0), Point(n, n)]\n\n\ndef width(points):\n    return max(p.x for p in points)\n\n\n"
        "def chain(n):\n    found = None\n    for i in range(n):\n        found = Point(i, found)\n    return found\n",
        ("Point(n, n)", "Point(n, 0)"),
        "import copy\n\n\ndef it():\n    p = Point(1, 2)\n    assert corners(2) == [(0, 0), (2, 2)] == [Point(0, 0), Point(x=2, y=2)]\n"
        "    assert p == (1, 2) and p != (1, 3) and p.x == 1 and p[1] == 2 and p.sum == 3\n"
        "    assert p.plus(p) == Point(2, 4) and p._replace(x=5) == (5, 2) and p._asdict() == {'x': 1, 'y': 2}\n"
        "    assert isinstance(p, Point) and isinstance(p, tuple) and repr(p) == 'Point(x=1, y=2)'\n"
        "    assert width(corners(3)) == 3 and {p: 5}[1, 2] == 5 and sorted([Point(2), Point(1)])[0].x == 1\n"
        "    assert copy.deepcopy(p) == p and not hasattr(p, 'z')\n    x, y = p\n    assert (x, y) == p\n"
        "    end, count = chain(200), 0\n    while end is not None:\n        end, count = end.y, count + 1\n    assert count == 200\n",
        1,
    ),
    Example(
        "lazy-results",
        "def texts(xs):\n    return map(str, xs)\n\n\ndef pairs(xs):\n    return zip(xs, xs[1:])\n",
        ("map(str", "map(repr"),
        "def it():\n    assert list(texts([1, 'a'])) == ['1', 'a']\n    assert list(pairs([1, 2, 3])) == [(1, 2), (2, 3)]\n"
        "    found = texts([7])\n    assert next(found) == '7' and next(found, None) is None\n",
        1,
    ),
    Example(
        "exact-values",
        "import datetime\nfrom decimal import Decimal\nfrom fractions import Fraction\n\n\ndef values():\n"
        "    return [10 ** 40, b'x', (1, [2]), {1, 2}, frozenset([3]), 2j, Decimal('1.10'), Fraction(1, 3),\n"
        "            datetime.date(2024, 2, 29), datetime.timedelta(1), float('inf'), None, True, range(3)]\n",
        ("10 ** 40", "10 ** 40 + 1"),
        "import datetime\nfrom decimal import Decimal\nfrom fractions import Fraction\n\n\ndef it():\n"
        "    assert values() == [10 ** 40, b'x', (1, [2]), {1, 2}, frozenset([3]), 2j, Decimal('1.10'), Fraction(1, 3),\n"
        "                        datetime.date(2024, 2, 29), datetime.timedelta(1), float('inf'), None, True, range(3)]\n",
        1,
    ),
    Example(
        "async-protocols",
        "import asyncio\n\n\nasync def ticks(n):\n    for i in range(n):\n        await asyncio.sleep(0)\n        yield i\n\n\n"
        "class Session:\n    async def __aenter__(self):\n        return self\n\n    async def __aexit__(self, *exc):\n"
        "        self.closed = True\n\n\nasync def each(f, xs):\n    return [await f(x) for x in xs]\n",
        ("yield i", "yield i + 1"),
        "import unittest\n\n\nclass T(unittest.IsolatedAsyncioTestCase):\n    async def test_async(self):\n"
        "        self.assertEqual([i async for i in ticks(3)], [0, 1, 2])\n        async with Session() as s:\n            pass\n"
        "        self.assertTrue(s.closed)\n        async def double(x):\n            return 2 * x\n"
        "        self.assertEqual(await each(double, [1, 2]), [2, 4])\n",
        1,
    ),
    Example(
        "module-state",
        "counter = 0\n\n\ndef bump():\n    global counter\n    counter += 1\n    return counter\n\n\n"
        "import functools\n\n\n@functools.lru_cache\ndef slow(n):\n    return n\n",
        ("counter += 1", "counter += 2"),
        "import solution\n\n\ndef it():\n    assert bump() == 1\n    assert counter == 1 and solution.counter == 1\n"
        "    solution.counter = 5\n    assert bump() == 6\n    slow(1), slow(1)\n    assert slow.cache_info().hits == 1\n"
        "    slow.cache_clear()\n",
        1,
    ),
    Example(
        "shadows-a-builtin-by-request",
        "def pow(a, b):\n    return a ** b\n",
        ("a ** b", "a * b"),
        "assert pow(2, 3) == 8\n",
        1,
        "pow",
    ),
    Example(
        "recursion-and-threads",
        "def depth(n):\n    return 0 if n == 0 else 1 + depth(n - 1)\n\n\nclass Counter:\n    def __init__(self):\n"
        "        self.n = 0\n\n    def hit(self):\n        self.n += 1\n",
        ("self.n += 1", "self.n += 2"),
        "import pytest, threading\n\n\ndef test_all():\n    assert depth(50) == 50\n    with pytest.raises(RecursionError):\n"
        "        depth(10 ** 6)\n    c = Counter()\n    ts = [threading.Thread(target=c.hit) for _ in range(4)]\n"
        "    [t.start() for t in ts]\n    [t.join() for t in ts]\n    assert c.n == 4\n",
        1,
    ),
)


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: example.name)
async def test_right_code_passes_and_wrong_code_fails(judge: Judge, example: Example) -> None:
    """Negative control: the same suite on the code with one change."""
    wrong = example.code.replace(*example.wrong)
    assert wrong != example.code
    checks = Checks(example.tests + (CASE if "def it()" in example.tests else ""))
    right, bad = await asyncio.gather(
        *(judge.check(Solution(code, {}, example.entry_point), checks) for code in (example.code, wrong))
    )
    assert right.passed, right
    assert (right.ran, right.strength) == (example.ran, Strength.VERIFIED)
    assert not bad.passed and bad.failed > 0 and not bad.infrastructure, bad
    assert bad.failures and bad.failures[0].kind


def test_there_are_enough_styles() -> None:
    assert len(EXAMPLES) >= 25
