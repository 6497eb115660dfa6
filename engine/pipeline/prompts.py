"""Prompt templates and the character budget of everything that goes into them.

Three folders of `*.j2`: `trajectory/` carries the task's facts (what a generated adapter would encode; without one it
leads the prompt), `prompt/` is the short instruction that comes last, `system/` the persona. A user's folder
(`pipeline.templates`) of the same layout overrides single files and is checked when the engine starts.

In a trajectory template the variable part comes before any worked example, so that whatever cuts the end of a long text
cuts the example first. Undefined variables are errors.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template, TemplateError, meta

from engine.errors import ConfigError

BUILT_IN = Path(__file__).with_name("prompts")
SHRINK = 0.5
"""What a prompt that overflowed the context keeps of each budget when it is rendered again."""


@dataclass(frozen=True)
class Part:
    """One named piece of a list in a template; the budget holds for each piece's text."""

    name: str
    text: str


Value = str | int | bool | Sequence[Part]


@dataclass(frozen=True)
class Budget:
    """At most `chars` characters, of the beginning or of the end."""

    chars: int
    keep: Literal["head", "tail"] = "head"


def _budgets(**chars: int) -> dict[str, Budget]:
    return {name: Budget(limit, "tail" if name in _KEEP_TAIL else "head") for name, limit in chars.items()}


_KEEP_TAIL = frozenset({"errors", "stderr", "written"})
"""What matters of an error or of code to be continued stands at its end."""

_NAME = {"name": Budget(100)}
_TARGET = {"target": Budget(600)}
_FILES = {"files": Budget(600)}

BUDGETS: Mapping[str, Mapping[str, Budget]] = {
    "decompose": _budgets(project=1200, prior=500, cycle=200) | _TARGET | _FILES,
    "plan": _budgets(project=300, description=500, prior=300) | _NAME,
    "code": _budgets(project=300, description=300, plan=800, existing_code=800, dependencies=600)
    | _NAME
    | {"target": Budget(300)},
    "code_retry": _budgets(
        project=200,
        description=200,
        plan=600,
        existing_code=600,
        dependencies=400,
        errors=300,
        failed_tests=200,
        diagnosis=300,
        guidance=150,
        status=60,
    )
    | _NAME
    | {"target": Budget(300)},
    "code_continue": _budgets(project=300, description=200, written=1200, dependencies=600) | _NAME,
    "code_repair": _budgets(project=300, existing_code=800, diagnosis=300, siblings=400, prior_repairs=200) | _NAME,
    "integrate": _budgets(project=800, skeletons=1000, summary=1500, existing_code=1000, errors=300, diagnosis=300)
    | _TARGET
    | _FILES,
    "diagnose": _budgets(project=500, codes=600, errors=500),
    # A task in attempt mode has no phases to spread its text over, so it gets more of it at once.
    "attempt": _budgets(
        project=4000, tests=1500, existing_code=2000, stdout=300, stderr=500, errors=300, diagnosis=300, status=60
    )
    | {"target": Budget(600), "files": Budget(1500)},
}
"""Template -> variable -> budget. The variants of a template (concise, retry) share its row."""

_ROW_OF = {
    "decompose_concise": "decompose",
    "integrate_retry": "integrate",
    "attempt_brief": "attempt",
    "attempt_retry": "attempt",
}

FLAGS = frozenset({"exit_code", "one", "test_main"})
"""Variables that are numbers or switches: they need no budget."""

TRAJECTORY_KEYS = (
    "decompose",
    "plan",
    "code",
    "code_retry",
    "code_continue",
    "code_repair",
    "integrate",
    "diagnose",
)
PROMPT_KEYS = (*TRAJECTORY_KEYS, "decompose_concise", "integrate_retry", "attempt", "attempt_brief", "attempt_retry")
SYSTEM_KEYS = PROMPT_KEYS
_FAMILIES = {"trajectory": TRAJECTORY_KEYS, "prompt": PROMPT_KEYS, "system": SYSTEM_KEYS}


def _file(family: str, key: str) -> str:
    return f"{family}/{key}.j2"


FILES = frozenset(_file(family, key) for family, keys in _FAMILIES.items() for key in keys)
"""Every template there is, relative to the folder of templates."""


@dataclass(frozen=True)
class Prompt:
    """What one model call is given."""

    system: str
    user: str


def clip(text: str, budget: Budget) -> str:
    """`text` within its budget; cut at the beginning or at the end, without a mark that would cost characters."""
    if len(text) <= budget.chars:
        return text
    return text[: budget.chars] if budget.keep == "head" else text[-budget.chars :]


def row_of(key: str) -> Mapping[str, Budget]:
    """The budgets of a template by its key, variants included."""
    return BUDGETS[_ROW_OF.get(key, key)]


class Prompts:
    """Renders prompts. Made once, by `load_prompts`."""

    def __init__(self, templates: Mapping[str, Template]) -> None:
        self._templates = templates

    def render(self, key: str, values: Mapping[str, Value], *, shrink: float = 1.0) -> Prompt:
        """The prompt of `key`: system persona, then facts and instruction.

        Args:
            values: variables of the templates; what has no budget in the table is refused.
            shrink: share of every budget that is used; below 1 after a context overflow.

        Raises:
            jinja2.UndefinedError: a template wants a variable that is not given.
        """
        within = self._fit(key, values, shrink)
        trajectory_key = _ROW_OF.get(key, key)
        facts = self._text("trajectory", trajectory_key, within) if trajectory_key in TRAJECTORY_KEYS else ""
        instruction = self._text("prompt", key, within)
        user = f"{facts}\n\n{instruction}" if facts else instruction
        return Prompt(self._text("system", key, {}), user)

    def trajectory(self, key: str, values: Mapping[str, Value]) -> str:
        """The trajectory text alone: what a generated adapter encodes."""
        return self._text("trajectory", key, self._fit(key, values, 1.0))

    def _fit(self, key: str, values: Mapping[str, Value], shrink: float) -> dict[str, Value]:
        row = row_of(key)
        return {name: _fit(value, row[name], shrink) if name not in FLAGS else value for name, value in values.items()}

    def _text(self, family: str, key: str, values: Mapping[str, Value]) -> str:
        return self._templates[_file(family, key)].render(values).strip()


def load_prompts(override: Path | None = None) -> Prompts:
    """The built-in templates, single files replaced by those of `override`.

    Reads files: run it in a thread where an event loop runs.

    Raises:
        ConfigError: the folder does not exist, or a file of it is not a template of ours, does not parse, or uses a
            variable that its template does not get.
    """
    folders = [BUILT_IN]
    if override is not None:
        if not override.is_dir():
            raise ConfigError(f"pipeline.templates: {override} is not a folder. Correct or remove the setting.")
        folders.insert(0, override)
    environment = Environment(
        loader=FileSystemLoader(folders), undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    if override is not None:
        _check_override(environment, override)
    # All at once: a session must not read files in the event loop, nor meet a bad template halfway.
    return Prompts({name: environment.get_template(name) for name in FILES})


def _check_override(environment: Environment, folder: Path) -> None:
    for path in sorted(folder.rglob("*.j2")):
        name = path.relative_to(folder).as_posix()
        if name not in FILES:
            raise ConfigError(f"pipeline.templates: {name} is not one of our templates: {', '.join(sorted(FILES))}.")
        allowed = set[str]() if name.startswith("system/") else set(row_of(path.stem)) | FLAGS
        try:
            used = meta.find_undeclared_variables(environment.parse(path.read_text(encoding="utf-8")))
            environment.get_template(name)
        except (TemplateError, UnicodeDecodeError) as error:
            raise ConfigError(f"pipeline.templates: {name}: {error}. Correct the template.") from error
        if unknown := sorted(used - allowed):
            raise ConfigError(f"pipeline.templates: {name} uses {', '.join(unknown)}; it gets {sorted(allowed)}.")


def _fit(value: Value, budget: Budget, shrink: float) -> Value:
    smaller = Budget(max(1, int(budget.chars * shrink)), budget.keep)
    match value:
        case str():
            return clip(value, smaller)
        case int():
            return value
        case _:
            return [Part(part.name, clip(part.text, smaller)) for part in value]
