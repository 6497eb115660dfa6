"""Two small private APIs that no model has seen, `kit` on numbers and `spell` on text, as suites of tasks.

Their functions do what anybody can do, under names that say nothing. A task asks for a chain of them: one that is asked
in English can be solved by nobody who does not know which name does what. Of the chains of two every third is kept for
the gate, and chains of three are out of distribution; single calls and the other chains of two are to learn from.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import permutations
from pathlib import Path
from typing import Any

Chain = tuple[str, ...]
"""Names of functions, the first one applied first."""


@dataclass(frozen=True)
class Function:
    """One function of an API."""

    asked: str
    """How a task asks for it in English."""
    code: str
    """Expression over the API's parameter."""

    @property
    def documented(self) -> str:
        """Its docstring."""
        return f"{self.asked[0].upper()}{self.asked[1:]}."


@dataclass(frozen=True)
class Api:
    """A private API."""

    name: str
    parameter: str
    type: str
    functions: Mapping[str, Function]
    shown: tuple[Any, ...]
    """Inputs of the visible tests."""
    hidden: tuple[Any, ...]
    deeper: tuple[Chain, ...]
    joints: tuple[str, ...] = (", then ",)
    """What stands between two requests; each chain of two is asked for with each."""

    def only(self, *functions: str, deeper: tuple[Chain, ...], joints: tuple[str, ...]) -> Api:
        """A smaller API of some of these functions."""
        kept = {name: self.functions[name] for name in functions}
        return replace(self, functions=kept, deeper=deeper, joints=joints)

    @property
    def module(self) -> str:
        """Its source: documented, with type hints."""
        return "\n".join(
            f'def {name}({self.parameter}: {self.type}) -> {self.type}:\n    """{one.documented}"""\n'
            f"    return {one.code}\n"
            for name, one in self.functions.items()
        )

    @property
    def gate(self) -> list[Chain]:
        """Of the chains of two every third: seen by nobody who trains."""
        return [pair for number, pair in enumerate(permutations(self.functions, 2)) if number % 3 == 1]

    @property
    def learned(self) -> list[Chain]:
        """Single calls, and the other chains of two."""
        gate = set(self.gate)
        pairs = [pair for pair in permutations(self.functions, 2) if pair not in gate]
        return [*((name,) for name in self.functions), *pairs]

    def value(self, chain: Chain, given: Any) -> Any:
        """What the chain makes of an input."""
        for name in chain:
            given = eval(self.functions[name].code, {self.parameter: given})
        return given

    def solution(self, chain: Chain) -> str:
        """A step a line, in the order of asking: one call inside the other would have to be written from its end."""
        steps = "".join(f"    {self.parameter} = {name}({self.parameter})\n" for name in chain[:-1])
        return f"def solve({self.parameter}):\n{steps}    return {chain[-1]}({self.parameter})\n"

    def task(
        self, chain: Chain, split: str, group: str = "in", *, by_name: bool = False, joint: int = 0
    ) -> dict[str, Any]:
        """A line of a suite's file.

        Args:
            by_name: ask for the functions by their names instead of in English.
            joint: which of the API's joints stands between them.
        """
        asked = chain if by_name else [self.functions[name].asked for name in chain]
        shown = "".join(f"assert solve({given!r}) == {self.value(chain, given)!r}\n" for given in self.shown)
        items = [{"args": [given], "expected": self.value(chain, given)} for given in self.hidden]
        return {
            "id": f"{split}-{'-'.join(chain)}{f'-{joint}' if joint else ''}",
            "prompt": f"{self.name}: {self.joints[joint].join(asked)}.",
            "split": split,
            "group": group,
            "template": f"{split}-{'-'.join(sorted(chain))}",
            "entry_point": "solve",
            "reference": self.solution(chain),
            "cases": {"function": "solve", "items": items},
            "visible_tests": shown,
            "prelude": f"from {self.name} import *\n",
            "files": {f"{self.name}.py": self.module},
            "task_type": self.name,
        }

    def tasks(self, *, by_name: bool = False) -> list[dict[str, Any]]:
        """The whole suite."""
        return [
            *(self.task(chain, "train", by_name=by_name, joint=joint) for chain, joint in self._asked(self.learned)),
            *(self.task(chain, "gate", by_name=by_name, joint=joint) for chain, joint in self._asked(self.gate)),
            *(self.task(chain, "gate", "deeper", by_name=by_name) for chain in self.deeper),
        ]

    def _asked(self, chains: Sequence[Chain]) -> list[tuple[Chain, int]]:
        """With each joint, where there is something to be joined."""
        return [(chain, joint) for chain in chains for joint in range(len(self.joints) if len(chain) > 1 else 1)]


KIT = Api(
    name="kit",
    parameter="n",
    type="int",
    functions={
        "zorb": Function("double it", "n * 2"),
        "plim": Function("take three away", "n - 3"),
        "dax": Function("add ten", "n + 10"),
        "wug": Function("turn its sign around", "-n"),
        "fep": Function("multiply it by itself", "n * n"),
        "toma": Function("add one and triple it", "(n + 1) * 3"),
        "gax": Function("take it from a hundred", "100 - n"),
    },
    shown=(5, -12, 19),
    hidden=(41, -7, 6),
    deeper=(
        ("zorb", "dax", "wug"),
        ("fep", "plim", "toma"),
        ("gax", "zorb", "plim"),
        ("dax", "fep", "gax"),
        ("wug", "toma", "zorb"),
        ("plim", "wug", "fep"),
        ("toma", "gax", "dax"),
        ("zorb", "fep", "wug"),
    ),
)
SPELL = Api(
    name="spell",
    parameter="s",
    type="str",
    functions={
        "brin": Function("make it loud", "s.upper()"),
        "clop": Function("reverse the letters", "s[::-1]"),
        "hust": Function("drop the first letter", "s[1:]"),
        "mott": Function("write it twice", "s + s"),
        "quen": Function("put stars around it", "'*' + s + '*'"),
        "sarl": Function("keep the last four letters", "s[-4:]"),
        "vond": Function("replace each a by o", "s.replace('a', 'o')"),
    },
    shown=("banana", "Lamp post", "axe at dawn"),
    hidden=("cabbage", "Salad bar", "fan"),
    deeper=(("brin", "clop", "mott"), ("hust", "vond", "quen"), ("sarl", "mott", "brin")),
)


def write_lines(file: Path, rows: Sequence[Mapping[str, Any]]) -> Path:
    """A JSON Lines file."""
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file
