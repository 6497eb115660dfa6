"""What the registry makes of an adapter whose modules have ranks and alphas of their own."""

from __future__ import annotations

from pathlib import Path

from registry.blobs import BlobStore
from registry.clock import SystemClock
from registry.safeload import AdapterLimits


def made_plain(directory: Path, root: Path) -> Path:
    """Publish the files under `root` as an import does; gives their directory."""
    store = BlobStore(root, AdapterLimits(1 << 24, 64), SystemClock())
    staged = store.stage(directory, None)
    store.commit(staged)
    return store.directory(staged.blob.digest)
