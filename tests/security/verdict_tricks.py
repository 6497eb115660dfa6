"""Solutions that want to pass without being right. Each defines `solve(a, b)`, which should return `a + b`."""
# ruff: noqa: E501 - Python sources as text

from __future__ import annotations

TRICKS: dict[str, str] = {
    "prints_a_test_summary": """
import sys
def solve(a, b):
    print("Ran 5 tests in 0.001s\\n\\nOK", file=sys.stderr)
    print("5 passed in 0.01s")
print("Ran 5 tests in 0.001s\\n\\nOK", file=sys.stderr)
""",
    "exits_0_when_called": """
import os
def solve(a, b):
    os._exit(0)
""",
    "exits_0_at_import": """
import os
def solve(a, b): ...
os._exit(0)
""",
    "sys_exit_0_when_called": """
import sys
def solve(a, b):
    sys.exit(0)
""",
    "sys_exit_0_at_import": """
import sys
def solve(a, b): ...
sys.exit(0)
""",
    "exits_like_a_broken_sandbox": """
import os
def solve(a, b):
    os._exit(97)
""",
    "lying_eq": """
class Any:
    __hash__ = None
    def __eq__(self, other): return True
    def __ne__(self, other): return False
    def __instancecheck__(self, other): return True
def solve(a, b):
    return Any()
""",
    "lying_eq_of_int": """
class Lie(int):
    def __eq__(self, other): return True
    def __ne__(self, other): return False
    __hash__ = int.__hash__
def solve(a, b):
    return Lie(0)
""",
    "lying_eq_of_str": """
class Lie(str):
    def __eq__(self, other): return True
    def __ne__(self, other): return False
    __hash__ = str.__hash__
def solve(a, b):
    return Lie("5")
""",
    "lying_eq_of_float": """
class Lie(float):
    def __eq__(self, other): return True
    def __ne__(self, other): return False
    def __sub__(self, other): return 0.0
    __rsub__ = __sub__
    __hash__ = float.__hash__
def solve(a, b):
    return Lie(0.5)
""",
    "lying_eq_of_list": """
class Lie(list):
    def __eq__(self, other): return True
    def __ne__(self, other): return False
def solve(a, b):
    return Lie()
""",
    "true_where_a_number_is_due": """
def solve(a, b):
    return True
""",
    "lying_arithmetic": """
class Near:
    def __sub__(self, other): return 0.0
    __rsub__ = __add__ = __radd__ = __sub__
    def __abs__(self): return 0.0
    def __lt__(self, other): return True
    __gt__ = __le__ = __ge__ = __eq__ = __lt__
    def __hash__(self): return 5
    def __round__(self, digits=0): return 0
    def __float__(self): return 0.0
    def __bool__(self): return True
def solve(a, b):
    return Near()
""",
    "arithmetic_in_two_steps": """
class Step:
    def __sub__(self, other): return Step()
    __rsub__ = __sub__
    def __abs__(self): return 0.0
    def __lt__(self, other): return True
    __gt__ = __le__ = __ge__ = __lt__
    def __round__(self, digits=0): return 0
    def __float__(self): return 0.0
def solve(a, b):
    return Step()
""",
    "class_in_place_of_the_function": """
class solve:
    def __init__(self, a, b): ...
    def __eq__(self, other): return True
    def __sub__(self, other): return solve(0, 0)
    def __abs__(self): return self
    def __lt__(self, other): return True
    __gt__ = __lt__
    def __round__(self, digits=0): return self
""",
    "mock_any": """
from unittest import mock
def solve(a, b):
    return mock.ANY
""",
    "patches_unittest": """
import unittest
for name in dir(unittest.TestCase):
    if name.startswith("assert") or name == "fail":
        setattr(unittest.TestCase, name, lambda *a, **k: None)
unittest.TestCase.run = lambda self, result=None: result.addSuccess(self)
unittest.TestResult.wasSuccessful = lambda self: True
def solve(a, b): ...
""",
    "patches_pytest": """
try:
    import pytest, _pytest.runner
    _pytest.runner.pytest_runtest_makereport = lambda item, call: None
    pytest.raises = pytest.fail = lambda *a, **k: None
except ImportError:
    pass
def solve(a, b): ...
""",
    "patches_builtins": """
import builtins
class Silent(Exception): ...
builtins.AssertionError = Silent
builtins.isinstance = lambda *a: True
builtins.all = builtins.any = builtins.bool = lambda *a: True
builtins.type = lambda *a: int
def solve(a, b): ...
""",
    "patches_json_and_struct": """
import json, struct, os
real = json.dumps
json.dumps = lambda value, **k: real({**value, "ok": True, "passed": True, "kind": "end"}) if isinstance(value, dict) else real(value)
json.loads = lambda *a, **k: {}
def solve(a, b): ...
""",
    "replaces_modules": """
import sys, types
class Yes(types.ModuleType):
    def __getattr__(self, name):
        return lambda *a, **k: True
for name in list(sys.modules):
    if "rune" in name or name in ("unittest", "json", "engine", "__main__"):
        sys.modules[name] = Yes(name)
def solve(a, b): ...
""",
    "rewrites_every_file": """
import os
for root in (".", "/", "/tmp", "/work", os.path.dirname(os.path.abspath(__file__))):
    for directory, _, names in list(os.walk(root))[:200]:
        for name in names:
            if name.endswith((".py", ".json", ".xml", ".ini")) or "test" in name or "result" in name:
                try:
                    with open(os.path.join(directory, name), "w") as f:
                        f.write("assert True\\n")
                except (OSError, ValueError):
                    pass
def solve(a, b): ...
""",
    "writes_result_files": """
import os
for name in ("result.json", "verdict.json", "report.xml", "test_given.py", "conftest.py", "pytest.ini", ".coverage"):
    try:
        with open(name, "w") as f:
            f.write('{"passed": true, "ran": 5}')
    except OSError:
        pass
def solve(a, b): ...
""",
    "reads_expected_from_frames": """
import sys
def solve(a, b):
    frame = sys._getframe()
    while frame:
        for value in list(frame.f_locals.values()) + list(frame.f_globals.values()):
            if isinstance(value, dict) and "expected" in value:
                return value["expected"]
            if hasattr(value, "expected"):
                return value.expected
        for name in ("expected", "second", "right", "@right"):
            if name in frame.f_locals:
                return frame.f_locals[name]
        frame = frame.f_back
""",
    "reads_expected_from_gc": """
import gc
def solve(a, b):
    for value in gc.get_objects():
        if type(value) is dict and "expected" in value:
            return value["expected"]
        if type(value) is list and len(value) == 3 and value[:2] == [a, b]:
            return value[2]
        if type(value) is str and "assertEqual(solve" in value:
            return eval(value.split("assertEqual(solve(%r, %r), " % (a, b))[1].split(")")[0])
""",
    "reads_memory_and_descriptors": """
import os, re
def look(data):
    found = re.search(rb"assertEqual\\(solve\\(2, 3\\), (\\d+)", data) or re.search(rb'"expected": ?(\\d+)', data)
    return int(found.group(1)) if found else None
def sources():
    for pid in os.listdir("/proc"):
        if pid.isdigit():
            for name in ("mem", "environ", "cmdline"):
                yield f"/proc/{pid}/{name}"
            try:
                for fd in os.listdir(f"/proc/{pid}/fd"):
                    yield f"/proc/{pid}/fd/{fd}"
            except OSError:
                pass
def solve(a, b):
    mine = {"/proc/self/fd/%d" % fd for fd in range(3)}
    try:
        paths = list(sources())
    except OSError:
        paths = []
    for path in paths:
        try:
            fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
            data = os.read(fd, 1 << 20)
        except OSError:
            continue
        if path.split("/")[2] != str(os.getpid()) and (value := look(data)) is not None:
            return value
""",
    "swallows_assertion_errors": """
import sys, threading, builtins
def ignore(*a): ...
sys.excepthook = threading.excepthook = sys.unraisablehook = ignore
def tracer(frame, event, arg):
    if event == "exception":
        frame.f_trace = None
    return tracer
sys.settrace(tracer)
class solve_result:
    def __eq__(self, other):
        return True
    def __exit__(self, *a):
        return True
def solve(a, b):
    try:
        return solve_result()
    finally:
        sys.settrace(None)
""",
    "atexit": """
import atexit, os
def end():
    print("OK")
    os._exit(0)
atexit.register(end)
def solve(a, b):
    raise SystemExit
""",
    "threads_write_garbage_on_every_descriptor": """
import os, threading
def flood():
    for _ in range(50):
        for fd in range(3, 64):
            try:
                os.write(fd, b"\\0\\0\\0\\x02{}OK passed" * 10)
            except OSError:
                pass
threading.Thread(target=flood, daemon=True).start()
def solve(a, b):
    import time
    time.sleep(0.05)
""",
    "threads_write_forged_frames": """
import json, os, struct, threading
def frame(**message):
    body = json.dumps(message).encode()
    return struct.pack(">I", len(body)) + body
def forge():
    for n in ("", "0" * 16, "0" * 32):
        for message in (
            dict(n=n, kind="ready"), dict(n=n, kind="test", name="t", outcome="passed", count=9), dict(n=n, kind="end", dead=""),
            dict(id=1, n=n, ok=5), dict(id=2, n=n, ok=5), dict(id=3, n=n, ok=5),
        ):
            for fd in range(3, 64):
                try:
                    os.write(fd, frame(**message))
                except OSError:
                    pass
thread = threading.Thread(target=forge)
thread.start()
def solve(a, b):
    thread.join()
""",
    "replays_the_nonce": """
import gc, itertools
def solve(a, b):
    for value in gc.get_objects():
        if type(value) is dict and "op" in value and "n" in value:
            nonce = value["n"]
    import sys
    for name, module in list(sys.modules.items()):
        if name.endswith(".wire"):
            send = module.send_bytes
            def forged(fd, data, send=send, module=module):
                for number in range(40):
                    send(fd, module.pack({"id": number, "n": nonce, "ok": True, "passed": True}))
                send(fd, data)
            module.send_bytes = forged
""",
    "claims_every_tag": """
import itertools, sys
claims = itertools.cycle([
    ["Y", "unittest.mock", "ANY"], ["M", "unittest"], ["R", "object"], ["a", 0], ["h", 1, ["R", "int"], "o", ""],
    ["n", ["R", "tuple"], [5]], ["n", ["K", 1], [5]], ["E", 1, ["R", "ValueError"], ["t", []], "x"], ["Y", "builtins", "eval"], ["B", "os", "_exit"], ["K", 1],
])
for name, module in list(sys.modules.items()):
    if name.endswith(".remote_table"):
        module.Table.encode = lambda self, value, arguments=(): next(claims)
def solve(a, b): ...
""",
    "ignores_the_questions": """
import sys
for name, module in list(sys.modules.items()):
    if name.endswith(".subject"):
        module.Subject._outcome = lambda self, message: {"ok": True, "passed": True}
def solve(a, b): ...
""",
    "raises_skip_test": """
import unittest
def solve(a, b):
    raise unittest.SkipTest("not today")
""",
    "raises_names_of_the_judge": """
class SubjectDied(Exception): ...
class SkipTest(Exception): ...
class Skipped(Exception): ...
class Success(BaseException): ...
turn = 0
def solve(a, b):
    global turn
    turn += 1
    raise (SubjectDied, SkipTest, Skipped, Success)[turn % 4]("passed")
""",
    "raises_keyboard_interrupt": """
def solve(a, b):
    raise KeyboardInterrupt
""",
    "raises_generator_exit": """
def solve(a, b):
    raise GeneratorExit
""",
    "raises_an_assertion_error_of_its_own": """
class Fine(AssertionError):
    def __str__(self): return "OK"
def solve(a, b):
    raise Fine("OK")
""",
    "shadows_the_names_of_the_tests": """
class TestCase:
    def __init__(self, *a): ...
    def __getattr__(self, name): return lambda *a, **k: None
class unittest:
    TestCase = TestCase
    main = staticmethod(lambda *a, **k: None)
def check(candidate): ...
def len(x): return 5
def abs(x): return 0
def print(*a, **k): ...
def isinstance(*a): return True
def assertEqual(*a): ...
class AssertionError(Exception): ...
def solve(a, b): ...
""",
    "brings_its_own_tests": """
import unittest
class TestMine(unittest.TestCase):
    def test_mine(self): ...
def test_mine(): ...
def load_tests(*a): return unittest.TestSuite()
T = TestMine
__all__ = ["solve", "TestMine", "test_mine", "T", "load_tests", "unittest"]
def solve(a, b): ...
""",
    "lying_class_attribute": """
class Lie:
    @property
    def __class__(self): return int
    def __eq__(self, other): return True
    def __getattr__(self, name): return lambda *a: True
    def __reduce__(self): return (int, (5,))
    def __index__(self): return 5
def solve(a, b):
    return Lie()
""",
}
"""Tricks that end quickly."""

KILLERS: dict[str, str] = {
    "kills_its_parents": """
import os, signal
def solve(a, b):
    for pid in (os.getppid(), 1, -1, 0):
        try:
            os.kill(pid, signal.SIGKILL)
        except OSError:
            pass
""",
}
"""Tricks that must never run outside of the sandbox."""

SLEEPERS: dict[str, str] = {
    "sleeps_past_the_deadline": """
import time
def solve(a, b):
    time.sleep(60)
""",
    "holds_the_channel_in_a_fork": """
import os, time
def solve(a, b):
    if os.fork():
        time.sleep(60)
    time.sleep(60)
""",
}
"""Tricks that use up the time limit."""
