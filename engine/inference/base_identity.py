"""What answers where no adapter does, told by its content: part of the key of everything that is measured.

A path would say too much and too little. A model that was moved is the same model, and what was measured of it holds;
another file under the old name is another one, and nothing holds.
"""

from __future__ import annotations

from pathlib import Path

from engine.api_device import BackendName
from engine.config import Config
from engine.errors import ModelNotFoundError
from engine.inference.base_weights import base_digest, file_digest
from engine.inference.model_files import EMBEDDED_SHA256


def base_identity(config: Config, backend: str) -> str:
    """What that backend serves; "" for the embedded model, as it stands in keys from before they went by content.

    An Ollama server's models are its own: one is known by its name there. Reads a model's files the first time that a
    process asks; call it in a thread.

    Raises:
        ModelNotFoundError: there is no model, or it cannot be read.
    """
    try:
        match backend:
            case BackendName.OLLAMA:
                return f"ollama {config.ollama.model}"
            case BackendName.SCRIPTED:
                return _script(config.inference.script)
            case BackendName.TRANSFORMERS if config.transformers.four_bit:
                return f"{_weights(config)} in 4 bits".lstrip()
            case _:
                return _weights(config)
    except OSError as error:
        raise ModelNotFoundError(f"The base model cannot be read: {error}") from error


def _weights(config: Config) -> str:
    digest = base_digest(config)
    return "" if digest == EMBEDDED_SHA256 else digest


def _script(script: str) -> str:
    return f"script {file_digest(Path(script).expanduser())}" if script else ""
