"""What training knows of the base model before it is unpacked for it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine.config import Config
from engine.errors import TrainingError
from engine.inference.base_weights import base_weights_if_ready
from engine.inference.model_files import model_path
from engine.training.estimate import ModelShape, read_shape


@dataclass(frozen=True)
class BaseModel:
    """Enough of it for an estimate."""

    shape: ModelShape
    digest: str
    """Empty where it was never unpacked, so nothing was ever trained on it."""


def look_at_base(config: Config, home: Path) -> BaseModel:
    """The base model as it is configured. Blocks; reads headers, and the whole file once for its digest.

    Raises:
        ModelNotFoundError: there is none.
        TrainingError: it does not say its size.
    """
    ready = base_weights_if_ready(config, home)
    if ready is not None:
        return BaseModel(read_shape(ready.directory), ready.digest)
    return BaseModel(_gguf_shape(model_path(config)), "")


def _gguf_shape(path: Path) -> ModelShape:
    import gguf  # numpy and a second of imports, only where the model is not unpacked yet

    try:
        reader = gguf.GGUFReader(path)
        architecture = str(_field(reader, "general.architecture"))

        def number(key: str) -> int:
            return int(_field(reader, f"{architecture}.{key}"))

        hidden, heads = number("embedding_length"), number("attention.head_count")
        head = hidden // heads
        names = {tensor.name: tensor.shape for tensor in reader.tensors}
        return ModelShape(
            vocabulary=int(names["token_embd.weight"][1]),
            hidden=hidden,
            intermediate=number("feed_forward_length"),
            layers=number("block_count"),
            query=heads * head,
            key=number("attention.head_count_kv") * head,
            tied="output.weight" not in names,
        )
    except (OSError, ValueError, KeyError, IndexError, TypeError) as error:
        raise TrainingError(f"{path.name} does not say its size: {error}") from error


def _field(reader: Any, key: str) -> Any:
    field = reader.get_field(key)
    if field is None:
        raise KeyError(key)
    return field.contents()
