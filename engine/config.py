"""config.toml -> frozen models.

Every default lives once, in the `config.toml` that ships with the program. RUNE_HOME/config.toml, then RUNE_BACKEND
(of `inference.backend`), then `-c key=value` override single keys; an unknown key is an error that names the nearest
valid one.
"""

from __future__ import annotations

import difflib
import os
import tomllib
from collections.abc import Iterable, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from engine.api_device import BackendName
from engine.api_evolution import MergeMethod, TierName
from engine.api_training import TrainMethod
from engine.errors import ConfigError

BACKEND_VARIABLE = "RUNE_BACKEND"
"""Environment variable that stands for `inference.backend`: for one shell, where a file or an option is too much."""

PRESETS = "presets"
"""The one section whose keys are the user's to name."""


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class ModelSection(_Section):
    path: str
    base_id: str = Field(min_length=1, max_length=200)
    context_tokens: int = Field(ge=256, le=1_048_576)


class InferenceSection(_Section):
    backend: BackendName
    script: str
    threads: int = Field(ge=0, le=1024)
    parallel: int = Field(ge=1, le=256)
    start_timeout_s: float = Field(gt=0, le=3600)
    request_timeout_s: float = Field(gt=0, le=86400)
    connect_retries: int = Field(ge=0, le=20)
    max_adapters: int = Field(ge=1, le=256)


class VllmSection(_Section):
    python: str
    kv_cache_mib: int = Field(ge=64, le=1 << 20)
    max_loras: int = Field(ge=1, le=64)
    max_rank: Literal[8, 16, 32, 64, 128, 256, 320, 512]
    sleep_level: Literal[0, 1, 2]
    start_timeout_s: float = Field(gt=0, le=7200)


class TransformersSection(_Section):
    four_bit: bool


class OllamaSection(_Section):
    url: str = Field(pattern=r"^http://(127\.0\.0\.1|localhost|\[::1\])(:[0-9]{1,5})?/?$")
    model: str


class DeviceSection(_Section):
    gpu: str = Field(pattern=r"^(GPU-[0-9a-fA-F-]{1,64})?$")
    drain_s: float = Field(ge=0, le=3600)
    sleep_s: float = Field(gt=0, le=3600)
    settle_s: float = Field(gt=0, le=600)
    margin_mib: int = Field(ge=0, le=1 << 20)
    trainer_grace_s: float = Field(gt=0, le=600)
    heartbeat_s: float = Field(gt=0, le=3600)
    oracle_tokens: int = Field(ge=1, le=256)
    oracle_logprob: float = Field(gt=0, le=10)
    start_tries: int = Field(ge=1, le=100)


class TrainSection(_Section):
    """A recipe. A preset is one of these with some keys replaced."""

    method: TrainMethod
    rank: int = Field(ge=1, le=512)
    alpha: float = Field(gt=0, le=4096)
    dropout: float = Field(ge=0, lt=1)
    targets: str = Field(min_length=1, max_length=100_000)
    first_layer: int = Field(ge=0, le=1000)
    epochs: int = Field(ge=1, le=1000)
    max_steps: int = Field(ge=0, le=1_000_000)
    batch_size: int = Field(ge=1, le=4096)
    micro_batch: int = Field(ge=1, le=4096)
    max_tokens: int = Field(ge=16, le=131072)
    learning_rate: float = Field(gt=0, le=1)
    warmup_ratio: float = Field(ge=0, lt=1)
    weight_decay: float = Field(ge=0, le=1)
    held_out: float = Field(ge=0, le=0.9)
    evaluate_every: int = Field(ge=1, le=1_000_000)
    patience: int = Field(ge=1, le=10_000)
    checkpoint_every: int = Field(ge=1, le=1_000_000)
    per_task: int = Field(ge=1, le=100_000)
    max_grad_norm: float = Field(gt=0, le=1000)
    explode: float = Field(gt=1, le=1000)
    threads: int = Field(ge=0, le=1024)
    kill_switch: bool
    kill_benchmark: str = Field(max_length=100)
    kill_samples: int = Field(ge=1, le=10_000)
    kill_cadence: int = Field(ge=1, le=1_000_000)
    kill_delta: float = Field(gt=0, lt=1)


class GenerationSection(_Section):
    max_tokens: int = Field(ge=1, le=131072)
    temperature: float = Field(ge=0, le=2)
    fresh_temperature: float = Field(ge=0, le=2)
    top_p: float = Field(gt=0, le=1)
    repetition_penalty: float = Field(ge=0.5, le=2)
    seed: int = Field(ge=0, lt=2**31)


class PipelineSection(_Section):
    max_attempts: int = Field(ge=1, le=100)
    decompose_iterations: int = Field(ge=0, le=100)
    plan_iterations: int = Field(ge=0, le=100)
    code_iterations: int = Field(ge=0, le=100)
    integrate_iterations: int = Field(ge=0, le=100)
    repair_iterations: int = Field(ge=0, le=100)
    budget_seconds: float = Field(gt=0)
    budget_tokens: int = Field(ge=1)
    templates: str
    sessions_at_once: int = Field(ge=1, le=64)


class EvaluationSection(_Section):
    """How adapters are measured and when a gain counts as proven."""

    at_once: int = Field(ge=0, le=256)
    max_tokens: int = Field(ge=1, le=32768)
    e_threshold: float = Field(gt=1)
    batch_tasks: int = Field(ge=1, le=10_000)
    max_loss: float = Field(ge=0, le=1)
    max_perplexity_rise: float = Field(ge=0, le=100)
    perplexity_tier: TierName
    bootstrap: int = Field(ge=100, le=1_000_000)


class EvolutionSection(_Section):
    """When adapters are merged, pruned and put to use."""

    enabled: bool
    every_s: float = Field(ge=1)
    merge_at: int = Field(ge=2, le=1000)
    parents: int = Field(ge=2, le=64)
    prune_below: float = Field(ge=0, le=1)
    min_evaluations: int = Field(ge=1, le=1000)
    pass_weight: float = Field(ge=0, le=1)
    method: MergeMethod
    density: float = Field(gt=0, le=1)
    select: bool
    select_similarity: float = Field(ge=0, le=1)
    explorer_programs: int = Field(ge=1, le=10_000_000)
    suites: dict[str, str]
    """Task type -> the suite that decides about its adapters."""


class SandboxSection(_Section):
    min_level: Literal["strict", "landlock", "none"]
    timeout_s: float = Field(gt=0, le=3600)
    memory_mb: int = Field(ge=64, le=1_048_576)
    processes: int = Field(ge=1, le=4096)
    open_files: int = Field(ge=16, le=65536)
    file_mb: int = Field(ge=1, le=65536)
    scratch_mb: int = Field(ge=1, le=65536)
    output_bytes: int = Field(ge=1024, le=1 << 30)
    bwrap: str


class RegistrySection(_Section):
    max_adapter_mb: int = Field(ge=1, le=65536)
    max_rank: int = Field(ge=1, le=4096)
    snapshots: int = Field(ge=1, le=100)
    snapshot_minutes: float = Field(gt=0)


class EngineSection(_Section):
    shutdown_s: float = Field(gt=0, le=600)
    event_queue: int = Field(ge=10, le=10_000_000)
    tcp: str


class UiSection(_Section):
    refresh_hz: float = Field(gt=0, le=60)
    stream_lines: int = Field(ge=10, le=100_000)


class Config(_Section):
    """The whole configuration, validated and frozen."""

    model: ModelSection
    inference: InferenceSection
    vllm: VllmSection
    transformers: TransformersSection
    ollama: OllamaSection
    device: DeviceSection
    train: TrainSection
    presets: dict[str, dict[str, Any]]
    """Name -> the keys of `train` that it replaces; `recipe` gives the whole."""
    generation: GenerationSection
    pipeline: PipelineSection
    evaluation: EvaluationSection
    evolution: EvolutionSection
    sandbox: SandboxSection
    registry: RegistrySection
    engine: EngineSection
    ui: UiSection

    @model_validator(mode="after")
    def _presets_are_recipes(self) -> Config:
        for name in self.presets:
            self.recipe(name)
        return self

    def recipe(self, preset: str) -> TrainSection:
        """The training recipe of that name.

        Raises:
            ConfigError: there is no such preset, or a key of it is not valid.
        """
        if preset not in self.presets:
            raise ConfigError(f"There is no preset {preset!r}.{_nearest(preset, list(self.presets))}")
        try:
            return TrainSection.model_validate({**self.train.model_dump(), **self.presets[preset]})
        except ValidationError as error:
            first = error.errors()[0]
            key = ".".join(str(part) for part in first["loc"])
            raise ConfigError(f"[presets.{preset}] {key} = {first['input']!r}: {first['msg']}.") from error


def home_directory() -> Path:
    """RUNE_HOME, or ~/.rune. Does not create it."""
    return Path(os.environ.get("RUNE_HOME") or Path.home() / ".rune").expanduser().absolute()


def program_version() -> str:
    """The installed version of rune-tui. Reads the disk."""
    try:
        return version("rune-tui")
    except PackageNotFoundError:
        return "0+checkout"


def defaults_path() -> Path:
    """The config.toml that ships with the program: inside the package when installed, beside it in a checkout."""
    installed = Path(__file__).with_name("config.toml")
    return installed if installed.exists() else Path(__file__).parent.parent / "config.toml"


def load_config(
    user_file: Path | None = None, overrides: Iterable[str] = (), environment: Mapping[str, str] = os.environ
) -> Config:
    """Defaults, then the user's file if it exists, then RUNE_BACKEND, then `section.key=value` overrides.

    Args:
        user_file: None means RUNE_HOME/config.toml.
        overrides: the value is read as TOML, and as plain text where that fails (`model.path=/x.gguf`).

    Raises:
        ConfigError: unknown key, bad value or bad TOML; names the place.
    """
    defaults = tomllib.loads(defaults_path().read_text(encoding="utf-8"))
    merged: dict[str, dict[str, Any]] = {section: dict(keys) for section, keys in defaults.items()}
    path = user_file or home_directory() / "config.toml"
    if path.exists():
        _merge(merged, _read(path), str(path))
    if backend := environment.get(BACKEND_VARIABLE):
        merged["inference"]["backend"] = backend
    for override in overrides:
        _merge(merged, _parse_override(override), f"-c {override}")
    try:
        return Config.model_validate(merged)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        sources = f"{path}, {BACKEND_VARIABLE} or -c"
        raise ConfigError(f"{place} = {first['input']!r}: {first['msg']}. Correct it in {sources}.") from error


def _read(path: Path) -> Mapping[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not valid TOML: {error}") from error


def _parse_override(text: str) -> Mapping[str, Any]:
    key, equals, value = text.partition("=")
    section, dot, name = key.strip().partition(".")
    if not equals or not dot:
        raise ConfigError(f"-c {text}: write section.key=value, for instance generation.temperature=0.7")
    try:
        parsed = tomllib.loads(f"value = {value.strip()}")["value"]
    except tomllib.TOMLDecodeError:
        parsed = value.strip()
    return {section: {name: parsed}}


def _merge(target: dict[str, dict[str, Any]], new: Mapping[str, Any], place: str) -> None:
    valid = [f"{section}.{key}" for section, keys in target.items() for key in keys]
    for section, keys in new.items():
        if section not in target or not isinstance(keys, dict):
            raise ConfigError(f"{place}: unknown section [{section}].{_nearest(section, list(target))}")
        for key, value in keys.items():
            if section == PRESETS:  # a user names presets of their own; what is in them is checked as a recipe
                target[section][key] = {**target[section].get(key, {}), **value} if isinstance(value, dict) else value
                continue
            if key not in target[section]:
                raise ConfigError(f"{place}: unknown key {section}.{key}.{_nearest(f'{section}.{key}', valid)}")
            target[section][key] = value


def _nearest(name: str, valid: list[str]) -> str:
    close = difflib.get_close_matches(name, valid, n=1, cutoff=0.0)
    return f" Did you mean {close[0]}?" if close else ""
