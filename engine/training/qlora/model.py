"""The base model with its LoRA: loaded from a directory, in NF4 or as it is, nothing fetched, no code of it run."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from engine.config import TrainSection
from engine.errors import TrainingError
from engine.training.qlora.data import Tokenizer
from engine.training.spec import TrainSpec
from registry.adapter_config import AdapterConfig, parse_config
from registry.errors import AdapterRejected
from registry.safeload import AdapterLimits, load_tensors

ALL_LINEAR = "all-linear"
"""Value of `train.targets`; anything else is a list of module names with commas between them."""
MAX_WARM_START_BYTES = 8 << 30
"""Of the adapter to begin with: rank 512 on a model of 8 billion weights has 5 GB."""
MAX_RANK = 512
_LAYER = re.compile(r"[A-Za-z_]+\.([0-9]+)\..+")
"""`layers.12.mlp.up_proj` in a module's path."""


@dataclass(frozen=True)
class Learner:
    """A model that can be trained."""

    model: Any
    parameters: Mapping[str, nn.Parameter]
    """The trained ones, float32, by the names of a PEFT file."""
    targets: tuple[str, ...]
    """Names of the modules that have a LoRA, as the adapter's config lists them."""
    device: torch.device
    dtype: torch.dtype

    @property
    def compute(self) -> str:
        """`cpu/float32` and the like."""
        return f"{self.device.type}/{str(self.dtype).removeprefix('torch.')}"

    def tensors(self) -> dict[str, Tensor]:
        """A copy of the adapter's weights in the machine's memory."""
        return {name: value.detach().cpu().clone() for name, value in self.parameters.items()}

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Replace the adapter's weights.

        Raises:
            TrainingError: the names or shapes are not those of this adapter.
        """
        own = {name: tuple(value.shape) for name, value in self.parameters.items()}
        given = {name: tuple(value.shape) for name, value in tensors.items()}
        if own != given:
            name = min(dict(own.items() ^ given.items()))
            raise TrainingError(
                f"The weights to begin with do not fit: {given.get(name)} at {name}, not {own.get(name)}."
            )
        with torch.no_grad():
            for name, parameter in self.parameters.items():
                parameter.copy_(tensors[name])

    def train(self, mode: bool) -> None:
        """Dropout on or off."""
        self.model.train(mode)


def load_tokenizer(spec: TrainSpec) -> Tokenizer:
    """The base model's tokenizer.

    Raises:
        TrainingError: it is not in the directory, or has no chat template.
    """
    from transformers import AutoTokenizer

    try:
        tokenizer: Any = AutoTokenizer.from_pretrained(spec.base_directory, local_files_only=True)
    except (OSError, ValueError) as error:
        raise TrainingError(f"The base model's tokenizer cannot be loaded: {error}") from error
    return tokenizer


def choose_compute(wanted: Literal["auto", "bfloat16", "float32"]) -> tuple[torch.device, torch.dtype]:
    """Where to compute, and in what: bfloat16 only where there are units for it; emulated it is 27 times slower."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if wanted != "auto":
        return device, torch.bfloat16 if wanted == "bfloat16" else torch.float32
    if device.type == "cuda":
        return device, torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float32
    flags = torch.cpu.get_capabilities()
    units = flags.get("avx512_bf16") or flags.get("amx_bf16")
    return device, torch.bfloat16 if units else torch.float32


def load_learner(spec: TrainSpec) -> Learner:
    """The base model with a LoRA: fresh from torch's random numbers, or with the weights of `spec.warm_start`.

    Raises:
        TrainingError: the model cannot be loaded, has no such modules, or the warm start does not fit.
    """
    device, dtype = choose_compute(spec.compute)
    base = _load_base(spec, device, dtype)
    targets = _targets(base, spec.recipe)
    model = _with_lora(base, spec.recipe, targets)
    parameters = {
        name.replace(".default.", "."): parameter
        for name, parameter in model.named_parameters()
        if parameter.requires_grad
    }
    learner = Learner(model, parameters, targets, device, dtype)
    if spec.warm_start is not None:
        learner.load(_warm_start(spec))
    return learner


def _load_base(spec: TrainSpec, device: torch.device, dtype: torch.dtype) -> Any:
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    options: dict[str, Any] = {}
    if spec.recipe.method == "qlora":
        options["quantization_config"] = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=dtype,
        )
    try:
        model: Any = AutoModelForCausalLM.from_pretrained(
            spec.base_directory,
            dtype=dtype,
            device_map={"": str(device)},
            local_files_only=True,
            use_safetensors=True,
            **options,
        )
    except (OSError, ValueError) as error:
        raise TrainingError(f"The base model cannot be loaded: {error}") from error
    model.requires_grad_(False)
    for module in model.modules():
        # On a CPU with AVX512-BF16, bitsandbytes repacks the weights at the first evaluation into a form without a
        # backward pass. This attribute is its only switch.
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False
    return model


def _targets(model: Any, recipe: TrainSection) -> tuple[str, ...]:
    """Names by which the adapter's config lists the linear modules, the output layer excepted, that get a LoRA.

    A name stands for every module whose dotted path ends in it: `up_proj`, or `layers.12.mlp.up_proj`.
    """
    output = model.get_output_embeddings()
    linear = [name for name, module in model.named_modules() if isinstance(module, nn.Linear) and module is not output]
    if not linear:
        raise TrainingError("The base model has no linear layers to adapt.")
    kinds = sorted({name.rpartition(".")[2] for name in linear})
    wanted = kinds if recipe.targets.strip() == ALL_LINEAR else [name.strip() for name in recipe.targets.split(",")]
    for name in wanted:
        if not any(_is_meant(path, name) for path in linear):
            raise TrainingError(f"train.targets names {name!r}; the base model has {', '.join(kinds)}.")
    if not recipe.first_layer:
        return tuple(sorted(set(wanted)))
    chosen = [path for path in linear if any(_is_meant(path, name) for name in wanted)]
    upper = [match[0] for path in chosen if (match := _LAYER.search(path)) and int(match[1]) >= recipe.first_layer]
    if not upper:
        raise TrainingError(f"train.first_layer is {recipe.first_layer}; the base model has no layer from there on.")
    return tuple(sorted(upper))


def _is_meant(path: str, name: str) -> bool:
    return path == name or path.endswith(f".{name}")


def _with_lora(base: Any, recipe: TrainSection, targets: tuple[str, ...]) -> Any:
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(
        r=recipe.rank,
        lora_alpha=recipe.alpha,  # type: ignore[arg-type] # annotated int, and a float works: it is only divided
        lora_dropout=recipe.dropout,
        target_modules=list(targets),
        bias="none",
        task_type="CAUSAL_LM",
    )
    return get_peft_model(base, config)


def _warm_start(spec: TrainSpec) -> dict[str, Tensor]:
    """Weights of another adapter. Read by the registry's rules: bytes of a stranger are never given to PEFT."""
    assert spec.warm_start is not None
    try:
        config = parse_config((spec.warm_start / "adapter_config.json").read_bytes(), MAX_RANK)
        arrays = load_tensors(
            spec.warm_start / "adapter_model.safetensors", AdapterLimits(MAX_WARM_START_BYTES, MAX_RANK)
        )
    except (AdapterRejected, OSError) as error:
        raise TrainingError(f"The adapter to begin with cannot be read: {error}") from error
    if config.rank != spec.recipe.rank:
        raise TrainingError(f"The adapter to begin with has rank {config.rank}, and the recipe {spec.recipe.rank}.")
    prefix = "base_model.model."
    # Its own scale is folded into B, so that it begins where the other adapter ended whatever alpha is now.
    factor = config.scaling / (spec.recipe.alpha / spec.recipe.rank)
    tensors: dict[str, Tensor] = {}
    for name, array in arrays.items():
        tensor = torch.from_numpy(array).float()
        tensors[prefix + name.removeprefix(prefix)] = tensor * factor if ".lora_B." in name else tensor
    return tensors


def adapter_config(spec: TrainSpec, learner: Learner) -> bytes:
    """adapter_config.json of what is published, in the registry's own form."""
    recipe = spec.recipe
    return AdapterConfig(recipe.rank, recipe.alpha, learner.targets, spec.base_model_id).to_json(spec.base_model_id)
