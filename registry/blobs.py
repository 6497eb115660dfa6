"""Adapter directories on disk: named by digest, immutable, complete or absent.

    <root>/<digest>/adapter_model.safetensors     0444, copied byte for byte from what was checked (see `patterns`
                                                  for what is made plain instead)
                    adapter_config.json           0444, written anew from our own schema
                    adapter.gguf                  0444, derived; its digest is in the database
    <root>/.tmp-<id>/                             being written; deleted at start

Publishing: check and hash while copying into .tmp -> fsync(files) -> fsync(.tmp) -> rename -> fsync(root); the row
that names the directory is committed only after that. So a row always has its files, and files without a row are
harmless: publishing the same content finds them, and `Registry.gc` removes them when they are old.

Everything here blocks and runs in threads.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
from collections.abc import Generator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Protocol

from registry.adapter_config import MAX_CONFIG_BYTES, AdapterConfig, check_base_model
from registry.clock import Clock
from registry.crash import crash_point
from registry.errors import AdapterRejected
from registry.files import sync_directory
from registry.patterns import parse_patterned, write_plain
from registry.safeload import CHUNK_BYTES, AdapterLimits, Scan, check_pairs, open_regular, scan

WEIGHTS = "adapter_model.safetensors"
CONFIG = "adapter_config.json"
GGUF = "adapter.gguf"

_TEMPORARY = ".tmp-"
_DIGEST = re.compile(r"[0-9a-f]{64}")
_MAX_SOURCE_PATH = 4096
"""Linux's own limit of a path."""


class Disk(Protocol):
    """The effects whose order durability rests on; a test records them."""

    def write(self, descriptor: int, data: bytes) -> None:
        """Write all of `data`."""
        ...

    def fsync(self, descriptor: int) -> None:
        """Make the file's bytes durable."""
        ...

    def rename(self, source: Path, target: Path) -> None:
        """Give `source` the name `target`, atomically."""
        ...

    def fsync_directory(self, directory: Path) -> None:
        """Make the directory's names durable."""
        ...


class SystemDisk:
    """The real disk."""

    def write(self, descriptor: int, data: bytes) -> None:
        """Write all of `data`, however often the kernel takes only a part."""
        view = memoryview(data)
        while view:
            view = view[os.write(descriptor, view) :]

    def fsync(self, descriptor: int) -> None:
        """Make the file's bytes durable."""
        os.fsync(descriptor)

    def rename(self, source: Path, target: Path) -> None:
        """Give `source` the name `target`, atomically."""
        os.rename(source, target)

    def fsync_directory(self, directory: Path) -> None:
        """Make the directory's names durable."""
        sync_directory(directory)


@dataclass(frozen=True, slots=True)
class Blob:
    """What an adapter's files say."""

    digest: str
    weights: Scan
    config: AdapterConfig
    base_model_id: str


@dataclass(frozen=True, slots=True)
class Staged:
    """A checked, durable copy that has no name yet."""

    directory: Path
    blob: Blob


class BlobStore:
    """The directories under one root. Only `Registry` holds one."""

    def __init__(self, root: Path, limits: AdapterLimits, clock: Clock, disk: Disk | None = None) -> None:
        self.root = root
        self._limits = limits
        self._clock = clock
        self._disk: Disk = disk or SystemDisk()

    def directory(self, digest: str) -> Path:
        """Where the blob of that digest is or would be."""
        assert _DIGEST.fullmatch(digest), "a blob is named by its digest and by nothing else"
        return self.root / digest

    def stage(self, source: Path, base_model_id: str | None) -> Staged:
        """Check a PEFT directory and copy it, durably, into a temporary directory of ours.

        Raises:
            AdapterRejected: something about the directory, its config or its weights is not acceptable.
        """
        self.root.mkdir(mode=0o700, parents=True, exist_ok=True)
        temporary = self.root / f"{_TEMPORARY}{self._clock.hex_id(16)}"
        with open_directory(source) as directory:
            crash_point("publish.before_write")
            temporary.mkdir(mode=0o700)
            try:
                return Staged(temporary, self._copy(directory, temporary, base_model_id))
            except BaseException:
                shutil.rmtree(temporary)
                raise

    def _copy(self, source: int, temporary: Path, base_model_id: str | None) -> Blob:
        config, patterns = parse_patterned(_read_small(source, CONFIG), self._limits.max_rank)
        base = _one_base_model(base_model_id, config.base_model_id)
        descriptor = open_regular(WEIGHTS, source, foreign=True)
        try:
            with self._new_file(temporary / WEIGHTS) as target:
                write = partial(self._disk.write, target)
                if patterns:
                    weights, config = write_plain(descriptor, config, patterns, self._limits, write)
                else:
                    weights = scan(descriptor, self._limits, write)
                    check_pairs(weights.tensors, config)
                crash_point("publish.after_write")
        finally:
            os.close(descriptor)
        text = config.to_json(base)
        with self._new_file(temporary / CONFIG) as target:
            self._disk.write(target, text)
        self._disk.fsync_directory(temporary)
        crash_point("publish.after_fsync")
        return Blob(combined_digest(weights.sha256, hashlib.sha256(text).hexdigest()), weights, config, base)

    @contextmanager
    def _new_file(self, path: Path) -> Generator[int]:
        """A new file for writing; durable and read-only when the block ends."""
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            yield descriptor
            os.fchmod(descriptor, 0o444)
            self._disk.fsync(descriptor)
        finally:
            os.close(descriptor)

    def commit(self, staged: Staged) -> None:
        """Give a staged copy its name, durably. Files of that name that are damaged are replaced by it."""
        target = self.directory(staged.blob.digest)
        try:
            if target.exists():
                self._heal(staged.directory, target)
            else:
                self._disk.rename(staged.directory, target)
            crash_point("publish.after_rename")
            self._disk.fsync_directory(self.root)
        finally:
            self.discard(staged)
        crash_point("publish.after_dir_fsync")

    def _heal(self, copy: Path, target: Path) -> None:
        if not self.is_whole(target.name):
            for name in (WEIGHTS, CONFIG):
                self._disk.rename(copy / name, target / name)
            self._disk.fsync_directory(target)
        os.utime(target)  # gc counts the grace period from its last publication

    def discard(self, staged: Staged) -> None:
        """Remove what `stage` made, if it has not become a blob."""
        with suppress(FileNotFoundError):
            shutil.rmtree(staged.directory)

    def is_whole(self, digest: str) -> bool:
        """Whether both files are there and have, together, the digest that names their directory."""
        directory = self.directory(digest)
        try:
            return combined_digest(file_digest(directory / WEIGHTS), file_digest(directory / CONFIG)) == digest
        except (AdapterRejected, OSError):
            return False

    def add_gguf(self, digest: str, source: Path) -> tuple[str, int]:
        """Copy a converted file into the blob; gives its SHA-256 and its bytes.

        Raises:
            AdapterRejected: the source is no plain file, is too large, or is not GGUF.
        """
        temporary = self.root / f"{_TEMPORARY}{self._clock.hex_id(16)}"
        hasher = hashlib.sha256()
        size = 0
        descriptor = open_regular(source)
        try:
            with self._new_file(temporary) as target:
                while chunk := os.read(descriptor, CHUNK_BYTES):
                    if size == 0 and not chunk.startswith(b"GGUF"):
                        raise AdapterRejected(f"{source.name} is not a GGUF file")
                    size += len(chunk)
                    if size > self._limits.max_bytes:
                        raise AdapterRejected(f"{source.name} has more than {self._limits.max_bytes} bytes")
                    hasher.update(chunk)
                    self._disk.write(target, chunk)
            if size == 0:
                raise AdapterRejected(f"{source.name} is not a GGUF file")
            self._disk.rename(temporary, self.directory(digest) / GGUF)
        finally:
            os.close(descriptor)
            temporary.unlink(missing_ok=True)
        self._disk.fsync_directory(self.directory(digest))
        return hasher.hexdigest(), size

    def older_than(self, seconds: float) -> list[str]:
        """Digests of the blobs that were last published longer ago than that."""
        latest = self._clock.now().timestamp() - seconds
        return sorted(
            entry.name
            for entry in self._entries()
            if _DIGEST.fullmatch(entry.name) and entry.stat(follow_symlinks=False).st_mtime < latest
        )

    def remove(self, digest: str) -> None:
        """Take a blob away: first its name, then its files, so that it is never there in part."""
        trash = self.root / f"{_TEMPORARY}{self._clock.hex_id(16)}"
        with suppress(FileNotFoundError):
            self._disk.rename(self.directory(digest), trash)
            shutil.rmtree(trash)

    def delete_temporary(self) -> int:
        """Remove what a killed process left half-written; gives how many. Only while nobody publishes."""
        left = [entry for entry in self._entries() if entry.name.startswith(_TEMPORARY)]
        for entry in left:
            if entry.is_dir(follow_symlinks=False):
                shutil.rmtree(entry.path)
            else:
                os.unlink(entry.path)
        return len(left)

    def _entries(self) -> list[os.DirEntry[str]]:
        if not self.root.is_dir():
            return []
        with os.scandir(self.root) as entries:
            return list(entries)


def combined_digest(weights_sha256: str, config_sha256: str) -> str:
    """The name of a blob: SHA-256 over the names and digests of its two published files."""
    return hashlib.sha256(f"{CONFIG} {config_sha256}\n{WEIGHTS} {weights_sha256}\n".encode()).hexdigest()


def file_digest(path: Path) -> str:
    """SHA-256 of a plain file.

    Raises:
        AdapterRejected: it is missing, or a link.
    """
    with open(open_regular(path), "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


@contextmanager
def open_directory(path: Path) -> Generator[int]:
    """A descriptor of a directory reached without any link: each step is opened from the one before.

    Raises:
        AdapterRejected: the path is relative, has `..` or a control character, or a step is missing or a link.
    """
    descriptor = _walk(path)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _walk(path: Path) -> int:
    text = str(path)
    if not path.is_absolute() or len(text) > _MAX_SOURCE_PATH or ".." in path.parts or not text.isprintable():
        raise AdapterRejected(f"{text[:200]!r}: give an absolute path without '..'")
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
    descriptor = os.open(path.anchor, flags)
    for part in path.parts[1:]:
        try:
            step = os.open(part, flags, dir_fd=descriptor)
        except OSError as error:
            raise AdapterRejected(f"{text[:200]!r}: no directory there, or a link on the way to it") from error
        finally:
            os.close(descriptor)
        descriptor = step
    return descriptor


def _read_small(source: int, name: str) -> bytes:
    with open(open_regular(name, source, foreign=True), "rb") as stream:
        raw = stream.read(MAX_CONFIG_BYTES + 1)
    if len(raw) > MAX_CONFIG_BYTES:
        raise AdapterRejected(f"{name} has more than {MAX_CONFIG_BYTES} bytes")
    return raw


def _one_base_model(given: str | None, in_config: str | None) -> str:
    check_base_model(given)
    if given is not None and in_config is not None and given != in_config:
        raise AdapterRejected(f"the adapter was made for {in_config}, not for {given}")
    base = given or in_config
    if base is None:
        raise AdapterRejected("the adapter does not say its base model: give base_model_id")
    return base
