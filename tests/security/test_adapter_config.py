"""Hostile adapter configs (A3), and what PEFT itself writes."""

from __future__ import annotations

import json
import time

import pytest

from registry.adapter_config import AdapterConfig, parse_config
from registry.errors import AdapterRejected
from registry.samples import sample_config


def config(**changes: object) -> bytes:
    return json.dumps({**sample_config(), **changes}).encode()


CONFIGS: dict[str, bytes] = {
    "auto_mapping": config(auto_mapping={"base_model_class": "x", "parent_library": "os"}),
    "peft_type IA3": config(peft_type="IA3"),
    "peft_type unknown": config(peft_type="__import__"),
    "no peft_type": json.dumps({"r": 4}).encode(),
    "r 0": config(r=0),
    "r 1e9": config(r=10**9),
    "r 4.0": config(r=4.0),
    "r true": config(r=True),
    "r text": config(r="4"),
    "alpha negative": config(lora_alpha=-1),
    "alpha 0": config(lora_alpha=0),
    "alpha NaN": config(lora_alpha=float("nan")),
    "alpha 1e999": config(lora_alpha=1).replace(b'"lora_alpha": 1', b'"lora_alpha": 1e999'),
    "base model a path": config(base_model_name_or_path="/etc/passwd"),
    "base model a relative path": config(base_model_name_or_path="../../x"),
    "base model an address": config(base_model_name_or_path="https://example.org/model"),
    "target_modules a pattern": config(target_modules=".*"),
    "target_modules a catastrophic pattern": config(target_modules="(a+)+$"),
    "target_modules a pattern in a list": config(target_modules=["(q|v)_proj"]),
    "target_modules empty": config(target_modules=[]),
    "target_modules given twice": config(target_modules=["q_proj", "q_proj"]),
    "an extra key": config(code="import os"),
    "modules_to_save": config(modules_to_save=["lm_head"]),
    "DoRA": config(use_dora=True),
    "rank_pattern": config(rank_pattern={"(a+)+$": 8}),
    "init_lora_weights that changes the base": config(init_lora_weights="pissa"),
    "layer_replication": config(layer_replication=[[0, 10**6]]),
    "10 MB": b" " * (10 << 20) + config(),
    "a key given twice": config()[:-1] + b', "r": 8}',
    "nested 50,000 deep": b'{"r":' + b"[" * 50_000,
    "not an object": b"[]",
    "not UTF-8": b'{"r": "\xff"}',
    "a number of 10,000 digits": config().replace(b'"r": 4', b'"r": ' + b"9" * 10_000),
    "bias all": config(bias="all"),
}


@pytest.mark.parametrize("name", CONFIGS)
def test_a3_hostile_configs_are_refused_quickly(name: str) -> None:
    assert len(CONFIGS) >= 25
    begin = time.process_time()
    with pytest.raises(AdapterRejected):
        parse_config(CONFIGS[name], max_rank=256)
    assert time.process_time() - begin < 1


def test_a3_refusals_name_the_key() -> None:
    for name, key in (("DoRA", "use_dora"), ("modules_to_save", "modules_to_save"), ("auto_mapping", "auto_mapping")):
        with pytest.raises(AdapterRejected, match=key):
            parse_config(CONFIGS[name], max_rank=256)


PEFT_0_21_2 = {
    "alora_invocation_tokens": None, "alpha_pattern": {}, "arrow_config": None, "auto_mapping": None,
    "base_model_name_or_path": "HuggingFaceTB/SmolLM2-135M-Instruct", "bias": "none", "corda_config": None,
    "ensure_weight_tying": False, "eva_config": None, "exclude_modules": None, "fan_in_fan_out": False,
    "inference_mode": True, "init_lora_weights": True, "kasa_config": None, "layer_replication": None,
    "layers_pattern": None, "layers_to_transform": None, "loftq_config": {}, "lora_alpha": 8, "lora_bias": False,
    "lora_dropout": 0.05, "lora_ga_config": None, "megatron_config": None, "megatron_core": "megatron.core",
    "modules_to_save": None, "monteclora_config": None, "peft_type": "LORA", "peft_version": "0.21.2",
    "qalora_group_size": 16, "r": 4, "rank_pattern": {}, "revision": None, "target_modules": ["q_proj", "v_proj"],
    "target_parameters": None, "task_type": "CAUSAL_LM", "trainable_token_indices": None, "use_bdlora": None,
    "use_dora": False, "use_qalora": False, "use_rslora": False, "velora_config": None,
}  # fmt: skip
"""What LoraConfig.save_pretrained of peft 0.21.2 wrote for a small Llama."""


def test_what_peft_writes_is_accepted_and_written_anew_as_facts() -> None:
    parsed = parse_config(json.dumps(PEFT_0_21_2).encode(), max_rank=256)
    assert parsed == AdapterConfig(4, 8.0, ("q_proj", "v_proj"), "HuggingFaceTB/SmolLM2-135M-Instruct")
    assert parse_config(parsed.to_json("a/b"), max_rank=256) == AdapterConfig(4, 8.0, ("q_proj", "v_proj"), "a/b")
    assert parsed.scaling == 2.0
