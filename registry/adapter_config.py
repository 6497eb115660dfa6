"""adapter_config.json by our own strict schema.

PEFT's own reader is never given a stranger's file: it imports the module that `auto_mapping` names, compiles a
`target_modules` string as a regular expression, and reads `base_model_name_or_path` from anywhere. Here a config is
five facts; keys that mean anything else are refused by name, and keys that mean nothing are dropped. What is stored
is written anew from the facts.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass

from registry.errors import AdapterRejected
from registry.strict_json import is_integer, parse_object

MAX_CONFIG_BYTES = 64 << 10
"""PEFT 0.21 writes 1.1 kB; a list of 1,000 module names fits."""
MAX_TARGET_MODULES = 1000
"""A 100-layer model has 700 linear modules."""
MAX_ALPHA = 1e6
"""Far above any use; keeps alpha / r finite in half precision's neighbourhood."""

_MODULE = re.compile(r"[A-Za-z0-9_.]{1,200}")
_BASE_MODEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}(?:/[A-Za-z0-9][A-Za-z0-9._-]{0,95})?")
_MEANINGFUL = frozenset({"peft_type", "r", "lora_alpha", "target_modules", "base_model_name_or_path", "use_rslora"})

_INERT: Mapping[str, tuple[object, ...]] = {
    "bias": ("none",),
    "fan_in_fan_out": (False,),
    "init_lora_weights": (True, False, "gaussian"),
    "inference_mode": (True, False),
    "megatron_core": ("megatron.core",),
    "task_type": ("CAUSAL_LM",),
}
"""Keys that may say these things, because saying them changes nothing when a finished adapter is applied."""

_REFUSED: Mapping[str, str] = {
    "auto_mapping": "it names code to import",
    "modules_to_save": "whole modules are not LoRA",
    "use_dora": "DoRA is not supported by every backend",
    "rank_pattern": "one rank for all modules is required here: import the adapter, which makes it plain",
    "alpha_pattern": "one alpha for all modules is required here: import the adapter, which makes it plain",
    "layer_replication": "it changes the base model",
    "trainable_token_indices": "embeddings are not LoRA",
}
"""Keys worth a reason; any other unknown key is refused without one."""


@dataclass(frozen=True, slots=True)
class AdapterConfig:
    """What an adapter_config.json may say."""

    rank: int
    alpha: float
    target_modules: tuple[str, ...]
    """Sorted plain names; a module of the base model is meant if its dotted path ends in one of them."""
    base_model_id: str | None
    use_rslora: bool = False

    @property
    def scaling(self) -> float:
        """The factor on B @ A: alpha / r, or alpha / sqrt(r) for rsLoRA."""
        return self.alpha / (math.sqrt(self.rank) if self.use_rslora else self.rank)

    def to_json(self, base_model_id: str) -> bytes:
        """The file that is stored: the same facts give the same bytes."""
        facts = {
            "base_model_name_or_path": base_model_id,
            "bias": "none",
            "fan_in_fan_out": False,
            "inference_mode": True,
            "lora_alpha": int(self.alpha) if self.alpha.is_integer() else self.alpha,
            "lora_dropout": 0.0,
            "peft_type": "LORA",
            "r": self.rank,
            "target_modules": list(self.target_modules),
            "task_type": "CAUSAL_LM",
            "use_dora": False,
            "use_rslora": self.use_rslora,
        }
        return json.dumps(facts, indent=2, sort_keys=True, allow_nan=False).encode() + b"\n"


def parse_config(raw: bytes, max_rank: int) -> AdapterConfig:
    """Read an adapter_config.json.

    Raises:
        AdapterRejected: names the key and why.
    """
    if len(raw) > MAX_CONFIG_BYTES:
        raise AdapterRejected(f"adapter_config.json has {len(raw)} bytes; {MAX_CONFIG_BYTES} are allowed")
    values = parse_object(raw, "adapter_config.json")
    for key, value in values.items():
        if key not in _MEANINGFUL:
            _check_inert(key, value)
    if values.get("peft_type") != "LORA":
        raise _refusal("peft_type", "only LORA is supported")
    return AdapterConfig(
        rank=_rank(values.get("r"), max_rank),
        alpha=_alpha(values.get("lora_alpha")),
        target_modules=_target_modules(values.get("target_modules")),
        base_model_id=check_base_model(values.get("base_model_name_or_path")),
        use_rslora=_boolean("use_rslora", values.get("use_rslora")),
    )


def check_base_model(value: object) -> str | None:
    """A base model's name, as data: `owner/name` or `name`, never a path or an address.

    Raises:
        AdapterRejected: it is anything else.
    """
    if value is None:
        return None
    if not isinstance(value, str) or _BASE_MODEL.fullmatch(value) is None or ".." in value:
        raise _refusal("base_model_name_or_path", "write the base model's name as owner/name, not a path or an address")
    return value


def _check_inert(key: str, value: object) -> None:
    if value is None or value is False or value in ({}, []):
        return
    if key in _REFUSED:
        raise _refusal(key, _REFUSED[key])
    allowed = _INERT.get(key, ())
    if any(value is choice or (isinstance(value, str) and value == choice) for choice in allowed):
        return
    if key == "lora_dropout" and _is_number(value) and 0 <= float(str(value)) < 1:
        return
    if key in ("peft_version", "revision") and isinstance(value, str) and len(value) <= 100:
        return
    if key == "qalora_group_size" and is_integer(value):
        return
    reason = f"it may only be {' or '.join(map(repr, allowed))}" if allowed else "unknown keys are refused"
    raise _refusal(key, reason)


def _rank(value: object, max_rank: int) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= max_rank:
        raise _refusal("r", f"the rank is a whole number from 1 to {max_rank}")
    return value


def _alpha(value: object) -> float:
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 < value <= MAX_ALPHA:
        raise _refusal("lora_alpha", f"alpha is a number above 0 and at most {MAX_ALPHA:g}")
    return float(value)


def _target_modules(value: object) -> tuple[str, ...]:
    if not isinstance(value, list) or not 1 <= len(value) <= MAX_TARGET_MODULES:
        raise _refusal("target_modules", f"it is a list of 1 to {MAX_TARGET_MODULES} module names, never a pattern")
    names = [name for name in value if isinstance(name, str) and _MODULE.fullmatch(name)]
    if len(names) != len(value) or len(set(names)) != len(names):
        raise _refusal("target_modules", "its names are of letters, digits, '_' and '.', each once")
    return tuple(sorted(names))


def _boolean(key: str, value: object) -> bool:
    if value is not None and not isinstance(value, bool):
        raise _refusal(key, "it is true or false")
    return bool(value)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _refusal(key: str, reason: str) -> AdapterRejected:
    return AdapterRejected(f"adapter_config.json: {key[:100]!r}: {reason}")
