"""What the explorer may write: the calls that a task's files document, its inputs, and the constants its text names.

Everything is read from the task's text by the syntax tree; nothing of it is run. A function counts as documented when
it is public, at the top level of a module, and its parameters are annotated with types that values can be made of.
Visible tests of the form `assert solve(3, [1]) == [2]`, and the task's cases, are the examples to search with.
"""

from __future__ import annotations

import ast
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from engine.api_models import TaskSpec
from engine.pipeline.files import importable_files
from engine.pipeline.search import ANY, Constant
from engine.pipeline.syntax import parse_python

MAX_FUNCTIONS = 200
"""Documented calls that are searched with; the first ones of a larger module."""
MAX_EXAMPLES = 20
"""Examples of a search: each program is run on all of them, and a few tell programs apart as well as many do."""
MAX_CONSTANTS = 12
"""Of one type: each multiplies the programs that there are."""

MAX_SHARED = 1
"""A word in more docstrings than this tells no call from the others."""

_NUMBER = re.compile(r"(?<![\w.])-?\d{1,9}(?![\w.]*\d)")
_QUOTED = re.compile(r"'([^'\n]{1,40})'|\"([^\"\n]{1,40})\"|`([^`\n]{1,40})`")
_WORD = re.compile(r"[a-z]{3,}")
_NUMBER_WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
_FALLBACK: Mapping[str, tuple[Any, ...]] = {"int": (1, 2, 0), "str": (" ",), "bool": (True, False)}
"""Where the text names no constant of a type that a call wants."""
_ALIASES = {"sequence": "list", "iterable": "list", "collection": "list", "object": ANY}
_DEFAULT_NAMES = {"list": "xs", "str": "text", "int": "n", "float": "x", "bool": "flag", "dict": "table"}


@dataclass(frozen=True)
class Form:
    """One way to call a documented function: positional arguments of these types give a value of that type."""

    name: str
    module: str
    takes: tuple[str, ...]
    gives: str
    places: tuple[int, ...]
    """Where in the task's text the words of its docstring stand: such calls are tried first, and in that order."""


@dataclass(frozen=True)
class Example:
    """Arguments of the wanted function, and what it must give."""

    arguments: tuple[Any, ...]
    expected: Any


@dataclass(frozen=True)
class Grammar:
    """Everything that a search is made of."""

    target: str
    """Function that the task asks for."""
    parameters: tuple[tuple[str, str], ...]
    """Name and type of each of its arguments."""
    forms: tuple[Form, ...]
    constants: tuple[Constant, ...]
    """Those that the text names come first, in its order."""
    examples: tuple[Example, ...]
    prelude: str
    """Source that brings the functions' names."""


def read_grammar(task: TaskSpec) -> Grammar | str:
    """The grammar of a task, or why it cannot be searched, in one sentence."""
    target = task.entry_point or (task.cases.function if task.cases else None) or _asserted_function(task.tests or "")
    if target is None:
        return "The task names no function; give entry_point."
    examples = tuple(_examples(task, target))[:MAX_EXAMPLES]
    if not examples:
        return f"There is no example to search with: no visible test says assert {target}(...) == a value."
    if len({len(example.arguments) for example in examples}) > 1:
        return f"The examples call {target} with different numbers of arguments."
    functions = [found for path, text in sorted(importable_files(task).items()) for found in _functions(path, text)][
        :MAX_FUNCTIONS
    ]
    said = _places(task.prompt, [function for _, function in functions])
    forms = tuple(form for module, function in functions for form in _forms(module, function, said[function.name]))
    if not forms:
        return "The task's files document no function with typed parameters to compose."
    named = tuple(_constants(task.prompt))
    wanted = {kind for form in forms for kind in form.takes} - {constant.kind for constant in named}
    spare = tuple(Constant(kind, value, None) for kind in _FALLBACK if kind in wanted for value in _FALLBACK[kind])
    return Grammar(
        target=target,
        parameters=_parameters(examples, [function for _, function in functions]),
        forms=forms,
        constants=(*named, *spare),
        examples=examples,
        prelude=task.prelude,
    )


def solution_source(grammar: Grammar, expression: str) -> str:
    """The whole solution: the wanted function, with the imports that the prelude does not bring."""
    names = ", ".join(name for name, _ in grammar.parameters)
    lines = steps_of(expression) or [f"return {expression}"]
    body = "\n    ".join((f"def {grammar.target}({names}):", *lines))
    imports = "\n".join(_imports(grammar, expression))
    return f"{imports}\n\n\n{body}" if imports else body


def steps_of(expression: str) -> list[str] | None:
    """A chain of calls as one statement a call, in the order in which they are done; None for anything else.

    A model learns to continue such a list more readily than to nest: it reads like the task. A chain passes one input
    on, and no other call needs it.
    """
    tree = ast.parse(expression, mode="eval").body
    calls: list[ast.Call] = []
    inner: ast.expr | None = tree
    while isinstance(inner, ast.Call):
        calls.insert(0, inner)
        nested = [argument for argument in inner.args if isinstance(argument, ast.Call)]
        if len(nested) > 1:
            return None
        inner = nested[0] if nested else None
    inputs = [node.id for call in calls for node in call.args if isinstance(node, ast.Name)]
    first = [node.id for node in calls[0].args if isinstance(node, ast.Name)] if calls else []
    if not first or inputs.count(first[0]) != 1:
        return None
    x = first[0]
    for call in calls[1:]:
        call.args = [ast.Name(x) if isinstance(argument, ast.Call) else argument for argument in call.args]
    return [*(f"{x} = {ast.unparse(call)}" for call in calls), f"return {x}"]


def is_of_grammar(grammar: Grammar, expression: str) -> bool:
    """Whether the expression is made of the grammar's calls, inputs and constants alone, and of nothing else.

    What a sandbox sends back is data from an opponent: only this makes it code that goes into a trajectory.
    """
    try:
        tree = ast.parse(expression, mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    arities = {(form.name, len(form.takes)) for form in grammar.forms}
    names = {name for name, _ in grammar.parameters}
    values = {repr(constant.value) for constant in grammar.constants}

    def fits(node: ast.expr) -> bool:
        match node:
            case ast.Call(func=ast.Name(id=name), args=arguments, keywords=[]):
                return (name, len(arguments)) in arities and all(map(fits, arguments))
            case ast.Name(id=name):
                return name in names
            case _:
                return ast.unparse(node) in values

    return fits(tree)


# --- examples ------------------------------------------------------------------------------------------------


def _examples(task: TaskSpec, target: str) -> Iterator[Example]:
    for case in task.cases.items if task.cases is not None else ():
        if not case.kwargs:
            yield Example(tuple(case.args), case.expected)
    tree = parse_python(task.tests or "")
    for node in ast.walk(tree) if tree is not None else ():
        if isinstance(node, ast.Assert) and (example := _asserted(node.test, {target, "candidate"})) is not None:
            yield example


def _asserted(test: ast.expr, names: Iterable[str]) -> Example | None:
    match test:
        case ast.Compare(left=left, ops=[ast.Eq() | ast.Is()], comparators=[right]):
            sides = [(left, right), (right, left)]
        case ast.UnaryOp(op=ast.Not(), operand=ast.Call() as call):
            sides = [(call, ast.Constant(value=False))]
        case ast.Call():
            sides = [(test, ast.Constant(value=True))]
        case _:
            return None
    for call, expected in sides:
        match call:
            case ast.Call(func=ast.Name(id=name), args=arguments, keywords=[]) if name in names:
                try:
                    return Example(tuple(map(ast.literal_eval, arguments)), ast.literal_eval(expected))
                except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
                    return None
            case _:
                continue
    return None


def _asserted_function(tests: str) -> str | None:
    """The function that the assertions call most."""
    tree = parse_python(tests)
    calls = Counter(
        node.func.id
        for assertion in (ast.walk(tree) if tree is not None else ())
        if isinstance(assertion, ast.Assert)
        for node in ast.walk(assertion.test)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
    )
    return calls.most_common(1)[0][0] if calls else None


def type_of(value: Any) -> str:
    """The type of a plain value, in the words of annotations."""
    match value:
        case bool():
            return "bool"
        case list() | tuple():
            inner = {type_of(item) for item in value}
            return f"list[{inner.pop()}]" if len(inner) == 1 else "list"
        case None:
            return "none"
        case _:
            return type(value).__name__.lower()


# --- functions -----------------------------------------------------------------------------------------------


def _functions(path: str, text: str) -> Iterator[tuple[str, ast.FunctionDef]]:
    tree = parse_python(text) if path.endswith(".py") else None
    module = path.removesuffix(".py").replace("/", ".").removesuffix(".__init__")
    for node in tree.body if tree is not None else ():
        if isinstance(node, ast.FunctionDef) and not node.name.startswith(("_", "test")):
            yield module, node


def _places(prompt: str, functions: Sequence[ast.FunctionDef]) -> dict[str, tuple[int, ...]]:
    """Name of a function -> where the words stand that the text shares with its docstring, and with few others'."""
    told = {function.name: set(_WORD.findall((ast.get_docstring(function) or "").lower())) for function in functions}
    times = Counter(word for words in told.values() for word in words)
    found = [(match.start(), match[0]) for match in _WORD.finditer(prompt.lower())]
    return {
        name: tuple(place for place, word in found if word in words and times[word] <= MAX_SHARED)
        for name, words in told.items()
    }


def _forms(module: str, function: ast.FunctionDef, places: tuple[int, ...]) -> Iterator[Form]:
    """One form for each number of positional arguments that the function takes."""
    arguments = function.args
    positional = [*arguments.posonlyargs, *arguments.args]
    keywords_needed = any(default is None for default in arguments.kw_defaults)
    if keywords_needed or any(argument.annotation is None for argument in positional):
        return
    types = [_type(argument.annotation) for argument in positional]
    for count in range(len(positional) - len(arguments.defaults), len(positional) + 1):
        if count:
            yield Form(function.name, module, tuple(types[:count]), _type(function.returns), places)


def _type(annotation: ast.expr | None) -> str:
    """`list[int]` of `list[int]`, `List[int]`, `Sequence[int]` or their quoted forms; ANY where nothing is said."""
    match annotation:
        case None:
            return ANY
        case ast.Constant(value=str(text)):
            tree = parse_python(text)
            inner = tree.body[0] if tree is not None and tree.body else None
            return _type(inner.value) if isinstance(inner, ast.Expr) else ANY
        case ast.Constant(value=None):
            return "none"
        case ast.Name(id=name) | ast.Attribute(attr=name):
            return _ALIASES.get(name.lower(), name.lower())
        case ast.Subscript(value=outer, slice=inner):
            return f"{_type(outer)}[{_type(inner)}]"
        case _:
            return ANY


def _parameters(examples: Sequence[Example], functions: Sequence[ast.FunctionDef]) -> tuple[tuple[str, str], ...]:
    """Names for the inputs: those that the documented functions use for values of the same type."""
    used: dict[str, Counter[str]] = {}
    for function in functions:
        for argument in function.args.args:
            used.setdefault(_type(argument.annotation).split("[", 1)[0], Counter())[argument.arg] += 1
    chosen: list[tuple[str, str]] = []
    taken = {function.name for function in functions}
    for index in range(len(examples[0].arguments)):
        # An empty list says nothing of what is in it: the example that says most decides.
        kind = max((type_of(example.arguments[index]) for example in examples), key=len)
        bare = kind.split("[", 1)[0]
        names = [name for name, _ in used.get(bare, Counter[str]()).most_common()]
        free = [name for name in (*names, _DEFAULT_NAMES.get(bare, "value")) if name not in taken]
        name = free[0] if free else f"value{len(chosen) + 1}"
        taken.add(name)
        chosen.append((name, kind))
    return tuple(chosen)


# --- constants and imports -----------------------------------------------------------------------------------


def _constants(prompt: str) -> Iterator[Constant]:
    found = [Constant("int", int(m[0]), m.start()) for m in _NUMBER.finditer(prompt)]
    words = re.finditer(r"[a-z]+", prompt.lower())
    found += [Constant("int", _NUMBER_WORDS.index(m[0]), m.start()) for m in words if m[0] in _NUMBER_WORDS]
    found += [Constant("str", next(filter(None, m.groups())), m.start()) for m in _QUOTED.finditer(prompt)]
    given: Counter[str] = Counter()
    seen: set[tuple[str, Any]] = set()
    for constant in sorted(found, key=lambda one: one.place or 0):
        if (constant.kind, constant.value) not in seen and given[constant.kind] < MAX_CONSTANTS:
            seen.add((constant.kind, constant.value))
            given[constant.kind] += 1
            yield constant


def _imports(grammar: Grammar, expression: str) -> list[str]:
    """`from module import names` for what the prelude does not bring."""
    used = {node.id for node in ast.walk(ast.parse(expression)) if isinstance(node, ast.Name)}
    brought = imported(grammar.prelude)
    needed: dict[str, set[str]] = {}
    for form in grammar.forms:
        if form.name in used and (form.module, "*") not in brought and (form.module, form.name) not in brought:
            needed.setdefault(form.module, set()).add(form.name)
    return [f"from {module} import {', '.join(sorted(names))}" for module, names in sorted(needed.items())]


def imported(source: str) -> set[tuple[str, str]]:
    """Module and name of each `from module import name`; `*` for all of them."""
    tree = parse_python(source)
    return {
        (node.module or "", alias.name)
        for node in (tree.body if tree is not None else ())
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
