"""A chat becomes a prompt by the model's own Jinja template, in a sandbox: the template came with a model file."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NoReturn

from jinja2 import TemplateError
from jinja2.sandbox import ImmutableSandboxedEnvironment

from engine.inference.sidecar.backend import BadRequestError, Turn


class ChatTemplate:
    """A compiled template; `render` is what the model was trained on."""

    def __init__(self, source: str, bos: str, eos: str) -> None:
        """Compile it.

        Raises:
            BadRequestError: it is not valid Jinja.
        """
        environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
        environment.globals["raise_exception"] = _refuse  # pyright: ignore[reportArgumentType] # typed as builtins only
        self._tokens = {"bos_token": bos, "eos_token": eos}
        try:
            self._template = environment.from_string(source)
        except TemplateError as error:
            raise BadRequestError(f"the model's chat template is not valid: {error}") from error

    def render(self, turns: Sequence[Turn]) -> str:
        """The prompt, up to the point where the assistant speaks.

        Raises:
            BadRequestError: the template does not take this chat.
        """
        messages = [{"role": turn.role, "content": turn.content} for turn in turns]
        try:
            return self._template.render(messages=messages, add_generation_prompt=True, **self._tokens)
        except TemplateError as error:
            raise BadRequestError(f"the model's chat template refuses these messages: {error}") from error


def _refuse(message: str) -> NoReturn:
    raise TemplateError(message)
