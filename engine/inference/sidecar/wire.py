"""The bodies of the house protocol: what comes in is validated here, what goes out is built here.

Names and shapes are those of vLLM's OpenAI server. An unknown field is refused, not ignored: an option that is
accepted has an effect.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from engine.inference.sidecar.backend import BadRequestError, Job, Piece, TokenLogprob, Turn

MAX_TEXT = 4_000_000
"""Characters of one message: far beyond any context, and small enough to parse without harm."""
MAX_MESSAGES = 1000
MAX_STOPS = 16
MAX_TOP_LOGPROBS = 20
MAX_SCHEMA_BYTES = 65536
"""A schema becomes a grammar, whose size grows with it."""

Text = Annotated[str, Field(max_length=MAX_TEXT)]
Name = Annotated[str, Field(min_length=1, max_length=200)]


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ChatMessage(_Body):
    role: Literal["system", "user", "assistant"]
    content: Text


class JsonSchema(_Body):
    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)
    name: str = ""
    description: str | None = None
    schema_: dict[str, Any] = Field(alias="schema")
    strict: bool | None = None


class ResponseFormat(_Body):
    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = None


class StreamOptions(_Body):
    include_usage: bool = False


class _Sampling(_Body):
    model: Name
    max_tokens: int | None = Field(default=None, ge=1)
    temperature: float = Field(default=1.0, ge=0, le=10)
    top_p: float = Field(default=1.0, gt=0, le=1)
    repetition_penalty: float = Field(default=1.0, gt=0, le=10)
    frequency_penalty: float = Field(default=0.0, ge=-2, le=2)
    presence_penalty: float = Field(default=0.0, ge=-2, le=2)
    seed: int | None = Field(default=None, ge=0, lt=2**32 - 1)
    stop: str | list[str] | None = None
    stream: bool = False
    stream_options: StreamOptions | None = None
    response_format: ResponseFormat | None = None
    n: Literal[1] = 1

    @property
    def include_usage(self) -> bool:
        return self.stream_options is not None and self.stream_options.include_usage

    def _job(self, prompt: tuple[Turn, ...] | str, base: str, max_tokens: int | None, logprobs: int | None) -> Job:
        return Job(
            prompt=prompt,
            max_tokens=max_tokens,
            adapter=None if self.model == base else self.model,
            temperature=self.temperature,
            top_p=self.top_p,
            repetition_penalty=self.repetition_penalty,
            frequency_penalty=self.frequency_penalty,
            presence_penalty=self.presence_penalty,
            seed=self.seed,
            stop=_stops(self.stop),
            json_schema=_schema(self.response_format),
            top_logprobs=logprobs,
        )


class ChatRequest(_Sampling):
    messages: list[ChatMessage] = Field(min_length=1, max_length=MAX_MESSAGES)
    max_completion_tokens: int | None = Field(default=None, ge=1)
    logprobs: bool = False
    top_logprobs: int = Field(default=0, ge=0, le=MAX_TOP_LOGPROBS)

    def job(self, base: str) -> Job:
        turns = tuple(Turn(message.role, message.content) for message in self.messages)
        limit = self.max_completion_tokens or self.max_tokens
        return self._job(turns, base, limit, self.top_logprobs if self.logprobs else None)


class CompletionRequest(_Sampling):
    prompt: Text
    logprobs: int | None = Field(default=None, ge=0, le=MAX_TOP_LOGPROBS)

    def job(self, base: str) -> Job:
        # 16 is the protocol's default for text completions.
        return self._job(self.prompt, base, self.max_tokens or 16, self.logprobs)


class LoadAdapter(_Body):
    lora_name: Name
    lora_path: Annotated[str, Field(min_length=1, max_length=4096)]
    gguf_sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")] | None = None
    """Ours, not vLLM's: digest of the GGUF form that was published in the directory."""


class UnloadAdapter(_Body):
    lora_name: Name


def _stops(stop: str | list[str] | None) -> tuple[str, ...]:
    stops = (stop,) if isinstance(stop, str) else tuple(stop or ())
    if len(stops) > MAX_STOPS or not all(stops):
        raise BadRequestError(f"stop: at most {MAX_STOPS} strings, none of them empty")
    return stops


def _schema(wanted: ResponseFormat | None) -> Mapping[str, Any] | None:
    if wanted is None or wanted.type == "text":
        return None
    if wanted.type == "json_object":
        return {"type": "object"}
    if wanted.json_schema is None:
        raise BadRequestError("response_format.json_schema is missing")
    schema = wanted.json_schema.schema_
    if len(json.dumps(schema)) > MAX_SCHEMA_BYTES:
        raise BadRequestError(f"response_format: the schema is larger than {MAX_SCHEMA_BYTES} bytes")
    return schema


def usage(prompt_tokens: int, completion_tokens: int) -> dict[str, int]:
    total = prompt_tokens + completion_tokens
    return {"prompt_tokens": prompt_tokens, "completion_tokens": completion_tokens, "total_tokens": total}


def error(status: int, kind: str, message: str) -> dict[str, Any]:
    """vLLM's error body."""
    return {"error": {"message": message, "type": kind, "param": None, "code": status}}


def chat_logprobs(logprobs: Sequence[TokenLogprob]) -> dict[str, Any]:
    def entry(token: str, logprob: float) -> dict[str, Any]:
        return {"token": token, "logprob": logprob, "bytes": list(token.encode())}

    return {
        "content": [
            entry(item.token, item.logprob) | {"top_logprobs": [entry(token, value) for token, value in item.top]}
            for item in logprobs
        ]
    }


def text_logprobs(logprobs: Sequence[TokenLogprob]) -> dict[str, Any]:
    return {
        "tokens": [item.token for item in logprobs],
        "token_logprobs": [item.logprob for item in logprobs],
        "top_logprobs": [dict(item.top) for item in logprobs],
        "text_offset": [sum(len(earlier.token) for earlier in logprobs[:at]) for at in range(len(logprobs))],
    }


def chat_choice(text: str, piece: Piece, want_logprobs: bool) -> dict[str, Any]:
    """The one choice of a whole chat answer."""
    return {
        "index": 0,
        "message": {"role": "assistant", "content": text},
        "logprobs": chat_logprobs(piece.logprobs) if want_logprobs else None,
        "finish_reason": piece.finish,
    }


def chat_delta(piece: Piece, want_logprobs: bool, first: bool) -> dict[str, Any]:
    """The one choice of a streamed chat chunk."""
    role = {"role": "assistant"} if first else {}
    return {
        "index": 0,
        "delta": role | {"content": piece.text},
        "logprobs": chat_logprobs(piece.logprobs) if want_logprobs else None,
        "finish_reason": piece.finish,
    }


def text_choice(text: str, piece: Piece, want_logprobs: bool) -> dict[str, Any]:
    """The one choice of a text completion, whole or streamed."""
    return {
        "index": 0,
        "text": text,
        "logprobs": text_logprobs(piece.logprobs) if want_logprobs else None,
        "finish_reason": piece.finish,
    }
