"""From a finished training job to an adapter in the registry: PEFT directory, GGUF form, and the end of the job.

    convert to GGUF ─► stage and rename the directory ─► one transaction: adapter row, GGUF row, job row

Killed before the transaction, the directory is an orphan that the same publication finds again, because it is named
by its content: the job was requeued, finds its finished output, and ends as it would have.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

from engine.config import Config
from engine.errors import ModelNotFoundError
from engine.inference.model_files import model_path
from engine.training.workplace import Workplace
from registry.db import Transaction
from registry.errors import AdapterRejected
from registry.files import run_to_end
from registry.models import Adapter, LoadableAdapter, NewAdapter
from registry.registry import Registry
from registry.safeload import AdapterLimits

log = logging.getLogger(__name__)


async def publish(
    registry: Registry,
    config: Config,
    place: Workplace,
    new: NewAdapter,
    then: Callable[[Transaction, Adapter, str], object],
) -> LoadableAdapter:
    """Publish the output of a job.

    Args:
        then: called in the transaction that lists the adapter, with why it has no GGUF form, or "".

    Raises:
        RegistryError: it cannot be listed; nothing was.
        LeaseLostError: raised by `then` where the job is not ours any more.
    """
    missing = await run_to_end(lambda: make_gguf(config, place))
    if missing:
        log.warning("adapter %s has no GGUF form: %s", new.id, missing)
    gguf = None if missing else place.gguf
    adapter = await registry.publish(place.output, new, gguf=gguf, then=lambda tx, adapter: then(tx, adapter, missing))
    return await registry.resolve_for_load(adapter.id)


def make_gguf(config: Config, place: Workplace) -> str:
    """Convert the output for llama.cpp, where the base model is a GGUF file. Blocks.

    Returns:
        "", or why there is no such form; the adapter is good for the other backends without it.
    """
    # gguf brings a second of imports, and an engine that trains nothing never needs it.
    from engine.inference.sidecar.lora_gguf import convert, read_base

    limits = AdapterLimits(config.registry.max_adapter_mb << 20, config.registry.max_rank)
    if config.model.path and Path(config.model.path).expanduser().is_dir():
        return "the base model is no GGUF file"
    place.gguf.unlink(missing_ok=True)
    try:
        convert(place.output, read_base(model_path(config)), limits, place.gguf)
    except (AdapterRejected, ModelNotFoundError) as error:
        return str(error)
    return ""
