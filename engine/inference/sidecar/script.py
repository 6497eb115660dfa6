"""The script of the scripted backend: rules, read from JSON, and the pure choice of an answer.

A script is `{"rules": [rule, ...]}`; the first rule that matches answers. A rule has:

    match            regex searched in the last user message (or in the whole text prompt); "" matches all
    system           regex searched in the system messages; "" matches all
    adapter          regex that the adapter's name must match in full; absent: any adapter and none
    reply            the answer; {{name}} becomes the named group of `match`; {{adapter}} the adapter's name;
                     {{sampling}} the sampling parameters as they arrived.
                     Where the request has a JSON schema, a reply that is not JSON gives way to a value of the schema
    replies          answers by occurrence instead: the first time the first, ...; the last one repeats
    token_seconds    pause before each token (0)
    finish_reason    "stop" (default) or "length": how the answer ends when no limit ends it before
    fail             {"status": 500, "message": "...", "after_tokens": 0}: an error instead of the rest
    times            how often this rule may answer; then the next ones are asked. 0: always
"""

from __future__ import annotations

import json
import re
from collections import Counter
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from engine.inference.sidecar.backend import BackendError, Job
from engine.inference.sidecar.json_instance import instance

MAX_SCRIPT_BYTES = 4 << 20
"""A script is written by hand; this is far more than anyone writes."""


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Failure(_Model):
    """An error in place of the rest of the answer."""

    status: int = Field(default=500, ge=400, le=599)
    message: str = "the script says so"
    after_tokens: int = Field(default=0, ge=0)


class Rule(_Model):
    """One rule; see the module's text."""

    match: str = ""
    system: str = ""
    adapter: str | None = None
    reply: str | None = None
    replies: tuple[str, ...] = ()
    token_seconds: float = Field(default=0.0, ge=0, le=60)
    finish_reason: Literal["stop", "length"] = "stop"
    fail: Failure | None = None
    times: int = Field(default=0, ge=0)

    @field_validator("match", "system", "adapter")
    @classmethod
    def _compiles(cls, pattern: str | None) -> str | None:
        try:
            re.compile(pattern or "")
        except re.error as error:
            raise ValueError(f"not a regular expression: {error}") from error
        return pattern


class _File(_Model):
    comment: str = ""
    rules: tuple[Rule, ...]


@dataclass(frozen=True)
class Answer:
    """What a rule says to a job."""

    text: str
    rule: Rule


class Script:
    """Rules and how often each has answered. The same jobs in the same order get the same answers."""

    def __init__(self, rules: tuple[Rule, ...]) -> None:
        self._rules = rules
        self._used: Counter[int] = Counter()

    @classmethod
    def read(cls, path: Path | None) -> Script:
        """The script at `path`, or the demo script that ships with the product.

        Raises:
            BackendError: not readable or not a script; names the place.
        """
        source = path or files("engine.inference.sidecar").joinpath("demo_script.json")
        try:
            text = source.read_text(encoding="utf-8")
            if len(text) > MAX_SCRIPT_BYTES:
                raise BackendError(f"{source}: larger than {MAX_SCRIPT_BYTES} bytes")
            return cls(_File.model_validate_json(text).rules)
        except (OSError, UnicodeDecodeError, ValidationError) as error:
            raise BackendError(f"{source}: not a script: {error}") from error

    def answer(self, job: Job) -> Answer:
        """The first matching rule's answer; a plain sentence where none matches."""
        system, user = _texts(job)
        for number, rule in enumerate(self._rules):
            found = _applies(rule, job, system, user)
            if found is None or (rule.times and self._used[number] >= rule.times):
                continue
            occurrence = self._used[number]
            self._used[number] += 1
            return Answer(_constrained(_fill(_reply(rule, occurrence), found, job), job), rule)
        return Answer(_constrained("I have no rule for this prompt.", job), Rule())


def _texts(job: Job) -> tuple[str, str]:
    """The system messages and the last user message."""
    if isinstance(job.prompt, str):
        return "", job.prompt
    system = "\n".join(turn.content for turn in job.prompt if turn.role == "system")
    users = [turn.content for turn in job.prompt if turn.role == "user"]
    return system, users[-1] if users else ""


def _applies(rule: Rule, job: Job, system: str, user: str) -> re.Match[str] | None:
    if rule.adapter is not None and re.fullmatch(rule.adapter, job.adapter or "") is None:
        return None
    if re.search(rule.system, system) is None:
        return None
    return re.search(rule.match, user)


def _reply(rule: Rule, occurrence: int) -> str:
    if rule.replies:
        return rule.replies[min(occurrence, len(rule.replies) - 1)]
    return rule.reply or ""


def _fill(reply: str, found: re.Match[str] | None, job: Job) -> str:
    values = {name: value or "" for name, value in (found.groupdict() if found else {}).items()}
    values |= {"adapter": job.adapter or "", "sampling": _sampling(job)}
    return re.sub(r"\{\{(\w+)\}\}", lambda slot: values.get(slot[1], slot[0]), reply)


def _constrained(text: str, job: Job) -> str:
    """The text, or a value of the job's schema where the text is not JSON at all."""
    if job.json_schema is None:
        return text
    try:
        json.loads(text)
    except ValueError:
        return json.dumps(instance(job.json_schema))
    return text


def _sampling(job: Job) -> str:
    return (
        f"max_tokens={job.max_tokens} temperature={job.temperature} top_p={job.top_p} "
        f"repetition_penalty={job.repetition_penalty} frequency_penalty={job.frequency_penalty} "
        f"presence_penalty={job.presence_penalty} seed={job.seed} stop={len(job.stop)}"
    )
