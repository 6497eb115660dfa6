"""What the engine itself says of the proof's adapters: whether one may be promoted, and what it does to plain text."""

from __future__ import annotations

import tempfile
from pathlib import Path

from benchmarks.learn_child import child, directory_of
from benchmarks.learn_lab import Lab
from engine.api_evolution import ImproveReport, TextDrift
from engine.api_learning import BASE
from engine.evolution.drift.spec import DriftSpec, Figures, read_word
from engine.evolution.drift.text import general_text, text_digest
from engine.evolution.merging.spec import Limits, ParentFiles
from engine.inference.base_weights import ensure_base_weights


async def drift(lab: Lab, adapter_id: str) -> TextDrift:
    """Perplexity and KL on the general text, as evidence has them, without the rest of the evidence."""
    adapter = await lab.client.adapter(adapter_id)
    if (known := lab.notes.drift(adapter.digest)) is not None:
        return known
    with lab.doing(f"drift {adapter_id}"), tempfile.TemporaryDirectory(prefix="rune-drift-") as directory:
        base = await ensure_base_weights(lab.config, lab.home, lambda line: None)
        text = general_text()
        registry = lab.config.registry
        spec = DriftSpec(
            base_directory=base.directory.absolute(),
            adapter=ParentFiles(id=adapter_id, directory=directory_of(lab.home, adapter.digest).absolute()),
            limits=Limits(max_bytes=registry.max_adapter_mb << 20, max_rank=registry.max_rank),
            text=text,
        )
        file = Path(directory) / "spec.json"
        file.write_text(spec.model_dump_json())
        said = await child("engine.evolution.drift", str(file))
        figures = read_word(said.splitlines()[-1].encode())
        assert isinstance(figures, Figures), "a child that ends well has measured"
        found = TextDrift(
            text_digest=text_digest(text),
            base_digest=base.digest,
            **figures.model_dump(include={"tokens", "base_perplexity", "adapter_perplexity", "kl"}),
        )
    lab.notes.keep_drift(adapter.digest, found)
    return found


def made_by(report: ImproveReport) -> str:
    """The adapter that the loop ended with: what it promoted last, else what it trained last, else none."""
    trained = [one.adapter_id for one in report.rounds if one.adapter_id is not None]
    promoted = [one.adapter_id for one in report.rounds if one.adapter_id is not None and one.promoted]
    return next(reversed(promoted), next(reversed(trained), BASE))
