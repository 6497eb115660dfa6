"""S6: the sandbox is strict with attackers only: honest programs work, at each level."""

from __future__ import annotations

from dataclasses import replace

import pytest

from engine.config import load_config
from engine.sandbox.probe import SandboxReport, probe
from engine.sandbox.run import Sandbox
from engine.sandbox.types import Level, Program

SETTINGS = load_config(overrides=["sandbox.min_level=none"]).sandbox

HONEST = {
    "asyncio": "import asyncio\n"
    "async def f():\n    await asyncio.sleep(0.01)\n    return 'ok'\nprint(asyncio.run(f()))",
    "asyncio subprocess": """
import asyncio, sys
async def f():
    p = await asyncio.create_subprocess_exec(sys.executable, '-c', 'print("ok")', stdout=-1)
    print((await p.communicate())[0].decode().strip())
asyncio.run(f())""",
    "threads": """
from concurrent.futures import ThreadPoolExecutor
with ThreadPoolExecutor(8) as pool:
    assert sum(pool.map(lambda n: n * n, range(100))) == 328350
print('ok')""",
    "subprocess": "import subprocess, sys\nprint(subprocess.run([sys.executable, '-c', 'print(\"ok\")'], "
    "capture_output=True, text=True, check=True, timeout=20).stdout.strip())",
    "kills its own child": """
import subprocess, sys
p = subprocess.Popen([sys.executable, '-c', 'input()'], stdin=-1)
p.kill()
assert p.wait() == -9
print('ok')""",
    "tempfile": "import tempfile\nwith tempfile.TemporaryDirectory() as d, tempfile.NamedTemporaryFile('w') as f:\n"
    "    f.write('x'); open(d + '/y', 'w').write('z')\nprint('ok')",
    "shutil": "import shutil, os\nopen('a', 'w').write('x')\nos.makedirs('d/e')\nshutil.copy2('a', 'd/e')\n"
    "shutil.move('d', 'f')\nshutil.make_archive('z', 'zip', 'f')\nshutil.rmtree('f')\nprint('ok')",
    "sqlite with WAL": """
import sqlite3
c = sqlite3.connect('x.db')
c.execute('PRAGMA journal_mode=WAL')
c.execute('CREATE TABLE t (a)')
c.executemany('INSERT INTO t VALUES (?)', [(i,) for i in range(100)])
c.commit()
assert c.execute('SELECT sum(a) FROM t').fetchone() == (4950,)
print('ok')""",
    "zoneinfo": "from zoneinfo import ZoneInfo\nfrom datetime import datetime\n"
    "assert datetime(2026, 7, 1, tzinfo=ZoneInfo('Europe/Berlin')).utcoffset().seconds == 7200\nprint('ok')",
    "dataclasses and json": "import json, dataclasses\n@dataclasses.dataclass\nclass P:\n    x: int\n"
    "print('ok' if json.loads(json.dumps(dataclasses.asdict(P(1)))) == {'x': 1} else '')",
    "unittest": """
import unittest
class T(unittest.TestCase):
    def test(self): self.assertEqual(1 + 1, 2)
unittest.main(exit=False, argv=['x'])
print('ok')""",
    "multiprocessing": """
import multiprocessing as m
def f(n): return n * n
if __name__ == '__main__':
    with m.get_context('fork').Pool(3) as pool:
        assert pool.map(f, range(10)) == [n * n for n in range(10)]
    print('ok')""",
    "module beside the script": "import sys, os\nsys.path.insert(0, os.getcwd())\n"
    "import helper\nprint(helper.answer())",
    "random and secrets": "import random, secrets, uuid\n"
    "random.seed(1); secrets.token_hex(); uuid.uuid4()\nprint('ok')",
    "standard input": "print(input())",
    "signals and timers": """
import signal
def f(*_): print('ok')
signal.signal(signal.SIGALRM, f)
signal.setitimer(signal.ITIMER_REAL, 0.01)
signal.pause()""",
    "set order": "import os\n"
    "assert hash('a') == int(os.popen('python3 -c \"print(hash(chr(97)))\"').read())\nprint('ok')",
}
NEEDS_SHM = {"multiprocessing"}


@pytest.fixture(scope="module")
def real() -> SandboxReport:
    return probe(SETTINGS)


@pytest.mark.parametrize("level", [Level.STRICT, Level.LANDLOCK])
@pytest.mark.parametrize("name", HONEST)
async def test_s6_honest_programs_work(name: str, level: Level, real: SandboxReport) -> None:
    if level is Level.STRICT and real.level is not Level.STRICT:
        pytest.skip(real.reason)
    if level is Level.LANDLOCK and name in NEEDS_SHM:
        pytest.skip("semaphores need a private /dev/shm, which only a mount namespace gives")
    files = {"main.py": HONEST[name], "helper.py": "def answer(): return 'ok'"}
    result = await Sandbox(SETTINGS, replace(real, level=level)).run(Program(files, ("main.py",), stdin=b"ok\n"))
    assert (result.exit_code, result.stdout) == (0, "ok\n"), result.stderr
    assert result.level is level
