"""The out-of-distribution tasks that ask for something that keeps state: classes, closures, generators, decorators."""

from __future__ import annotations

from engine.evaluation.suites.plain import Tested

OBJECTS = (
    Tested(
        "stack-class",
        "Write a Python class Stack with the methods push(item), pop() and size(). "
        "pop() takes the newest item away and returns it, and raises IndexError when the stack is empty.",
        """\
class Stack:
    def __init__(self):
        self.items = []

    def push(self, item):
        self.items.append(item)

    def pop(self):
        if not self.items:
            raise IndexError("empty")
        return self.items.pop()

    def size(self):
        return len(self.items)
""",
        """\
def test_newest_first():
    stack = Stack()
    stack.push(1)
    stack.push("two")
    assert stack.size() == 2
    assert stack.pop() == "two"
    assert stack.pop() == 1
    assert stack.size() == 0

def test_empty_raises():
    try:
        Stack().pop()
    except IndexError:
        raised = True
    else:
        raised = False
    assert raised
""",
    ),
    Tested(
        "bank-account",
        "Write a Python class Account whose balance starts at 0, with the methods deposit(amount), withdraw(amount) "
        "and the attribute balance. withdraw raises ValueError and changes nothing when there is too little.",
        """\
class Account:
    def __init__(self):
        self.balance = 0

    def deposit(self, amount):
        self.balance += amount

    def withdraw(self, amount):
        if amount > self.balance:
            raise ValueError("too little")
        self.balance -= amount
""",
        """\
def test_balance():
    account = Account()
    account.deposit(50)
    account.withdraw(20)
    assert account.balance == 30

def test_too_little():
    account = Account()
    account.deposit(10)
    try:
        account.withdraw(11)
    except ValueError:
        raised = True
    else:
        raised = False
    assert raised
    assert account.balance == 10
""",
    ),
    Tested(
        "counter-closure",
        "Write a Python function make_counter(step) that returns a function without arguments. "
        "Each call of that function returns a number that is larger by step; the first call returns step.",
        """\
def make_counter(step):
    value = 0

    def count():
        nonlocal value
        value += step
        return value

    return count
""",
        """\
def test_two_counters():
    one, two = make_counter(1), make_counter(5)
    assert one() == 1
    assert one() == 2
    assert two() == 5
    assert one() == 3
    assert two() == 10
""",
    ),
    Tested(
        "least-recently-used",
        "Write a Python class Cache(capacity) with put(key, value) and get(key). get returns None for a key that is "
        "not there. When there are more keys than capacity, the one that was used longest ago is dropped; get uses.",
        """\
class Cache:
    def __init__(self, capacity):
        self.capacity = capacity
        self.values = {}

    def get(self, key):
        if key not in self.values:
            return None
        self.values[key] = self.values.pop(key)
        return self.values[key]

    def put(self, key, value):
        self.values.pop(key, None)
        self.values[key] = value
        if len(self.values) > self.capacity:
            del self.values[next(iter(self.values))]
""",
        """\
def test_drops_the_oldest():
    cache = Cache(2)
    cache.put("a", 1)
    cache.put("b", 2)
    assert cache.get("a") == 1
    cache.put("c", 3)
    assert cache.get("b") is None
    assert cache.get("a") == 1
    assert cache.get("c") == 3
""",
    ),
    Tested(
        "traffic-light",
        'Write a Python class Light whose attribute color is "red" at first. Its method change() goes from red to '
        "green, from green to yellow, from yellow to red.",
        """\
class Light:
    def __init__(self):
        self.color = "red"

    def change(self):
        self.color = {"red": "green", "green": "yellow", "yellow": "red"}[self.color]
""",
        """\
def test_round():
    light = Light()
    assert light.color == "red"
    light.change()
    assert light.color == "green"
    light.change()
    assert light.color == "yellow"
    light.change()
    assert light.color == "red"
""",
    ),
    Tested(
        "vector-operators",
        "Write a Python class Vector(x, y) that can be added with + and compared with ==, "
        "and whose method dot(other) returns the dot product.",
        """\
class Vector:
    def __init__(self, x, y):
        self.x = x
        self.y = y

    def __add__(self, other):
        return Vector(self.x + other.x, self.y + other.y)

    def __eq__(self, other):
        return self.x == other.x and self.y == other.y

    def dot(self, other):
        return self.x * other.x + self.y * other.y
""",
        """\
def test_sum():
    total = Vector(1, 2) + Vector(3, 5)
    assert total.x == 4
    assert total.y == 7

def test_equal():
    assert Vector(1, 2) == Vector(1, 2)
    assert not Vector(1, 2) == Vector(1, 3)

def test_dot():
    assert Vector(1, 2).dot(Vector(3, 5)) == 13
""",
    ),
    Tested(
        "fibonacci-generator",
        "Write a Python generator fibonacci() that yields the Fibonacci numbers without end, beginning with 0 and 1.",
        """\
def fibonacci():
    a, b = 0, 1
    while True:
        yield a
        a, b = b, a + b
""",
        """\
def test_first_eight():
    numbers = fibonacci()
    assert [next(numbers) for _ in range(8)] == [0, 1, 1, 2, 3, 5, 8, 13]
""",
    ),
    Tested(
        "call-counting-decorator",
        "Write a Python decorator counted(function). The decorated function works as before and has an attribute "
        "calls, the number of times that it was called.",
        """\
def counted(function):
    def wrapper(*args, **kwargs):
        wrapper.calls += 1
        return function(*args, **kwargs)

    wrapper.calls = 0
    return wrapper
""",
        """\
def test_counts():
    double = counted(lambda n, times=2: n * times)
    assert double.calls == 0
    assert double(4) == 8
    assert double(4, times=3) == 12
    assert double.calls == 2
""",
    ),
)
