"""A transformers model as the decode thread sees it: `TorchModel`, `TorchContext`, `TorchAdapter`.

The context keeps the keys and values of its sequences in buffers of its own, one row a sequence, so that answers of
different length are computed together: each token says where it stands, and the mask lets it see what stands before.
Not thread-safe: one thread owns them all.
"""

from __future__ import annotations

import gc
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from llguidance import LLTokenizer
from numpy.typing import NDArray
from peft import LoraConfig, PeftModel
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig
from transformers.cache_utils import Cache
from transformers.utils import logging

from engine.inference.sidecar.backend import BackendError
from engine.inference.sidecar.runtime import Entry

FULL_ATTENTION = "full_attention"
GROWTH = 256
"""Tokens by which a cache grows: rarely enough to cost nothing, and short answers do not pay for a long context."""


def compute_type(device: torch.device) -> torch.dtype:
    """bf16 on a GPU, float32 on a CPU: even one with bf16 units takes as long for a token (75 ms against 73, SmolLM2),
    and in bf16 an answer depends on who is served beside it."""
    return torch.float32 if device.type == "cpu" else torch.bfloat16


class TorchModel:
    """Weights, vocabulary, and the adapters that PEFT has put into the weights."""

    def __init__(self, directory: Path, four_bit: bool) -> None:
        """Load a Hugging Face directory.

        Raises:
            BackendError: it cannot be loaded, or its attention is not the usual one.
        """
        logging.disable_progress_bar()
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.dtype = compute_type(self.device)
        try:
            self.network = self._load(directory, four_bit)
            tokenizer: Any = AutoTokenizer.from_pretrained(directory, local_files_only=True, trust_remote_code=False)
        except (OSError, ValueError, RuntimeError) as error:
            raise BackendError(f"transformers cannot load {directory}: {error}") from error
        kinds = set(getattr(self.network.config, "layer_types", None) or [FULL_ATTENTION])
        if kinds != {FULL_ATTENTION}:
            raise BackendError(f"models with {', '.join(sorted(kinds))} are not supported; use vllm")
        self._tokenizer = tokenizer
        self._ends = _end_tokens(self.network, tokenizer)
        self._special = frozenset(tokenizer.all_special_ids) | self._ends
        self.vocabulary = LLTokenizer(tokenizer.backend_tokenizer.to_str(), eos_token=sorted(self._ends))
        self._pieces: dict[int, bytes] = {}
        self._peft: PeftModel | None = None
        self._selected: str | None = None

    def _load(self, directory: Path, four_bit: bool) -> Any:
        options: dict[str, Any] = {"dtype": self.dtype, "local_files_only": True, "trust_remote_code": False}
        if four_bit:
            options["quantization_config"] = BitsAndBytesConfig(
                load_in_4bit=True,
                bnb_4bit_quant_type="nf4",
                bnb_4bit_use_double_quant=True,
                bnb_4bit_compute_dtype=self.dtype,
            )
        factory: Any = AutoModelForCausalLM
        network = factory.from_pretrained(directory, attn_implementation="sdpa", use_safetensors=True, **options)
        return network.to(self.device).eval().requires_grad_(False)

    def shapes(self) -> dict[str, tuple[int, int]]:
        """(out, in) of the linear modules that an adapter may change, by dotted path."""
        head = self.network.get_output_embeddings()
        return {
            name: (module.out_features, module.in_features)
            for name, module in self.network.named_modules()
            if isinstance(module, nn.Linear) and module is not head
        }

    def chat_template(self) -> str | None:
        template = self._tokenizer.chat_template
        return template if isinstance(template, str) else None

    def tokenize(self, text: str, add_special: bool, parse_special: bool) -> list[int]:
        backend: Any = self._tokenizer.backend_tokenizer
        backend.encode_special_tokens = not parse_special
        return list(backend.encode(text, add_special_tokens=add_special).ids)

    def piece(self, token: int) -> bytes:
        known = self._pieces.get(token)
        if known is None:
            known = b"" if token in self._special else self.vocabulary.decode_bytes([token])
            self._pieces[token] = known
        return known

    def special_text(self, token: int) -> str:
        return str(self._tokenizer.convert_ids_to_tokens(token)) if token >= 0 else ""

    def bos(self) -> int:
        return _token(self._tokenizer.bos_token_id)

    def eos(self) -> int:
        return _token(self._tokenizer.eos_token_id)

    def is_end(self, token: int) -> bool:
        return token in self._ends

    def compute(self, tokens: Tensor, positions: Tensor, mask: Tensor, cache: Cache) -> Tensor:
        """The logits of each sequence's last token, shape (sequences, vocabulary)."""
        output = self.network(
            input_ids=tokens, position_ids=positions, attention_mask=mask, past_key_values=cache, use_cache=True,
            logits_to_keep=1,
        )  # fmt: skip
        return output.logits[:, -1].float()

    def add_adapter(self, name: str, file: Path) -> None:
        """Put a prepared adapter into the weights; what is selected stays so."""
        values: Mapping[str, Tensor] = load_file(file)
        facts = json.loads(_metadata(file)["facts"])
        # Whole paths, so that modules which the adapter does not change stay as they are.
        config = LoraConfig(
            r=facts["rank"], lora_alpha=facts["alpha"], use_rslora=facts["rslora"], target_modules=facts["modules"],
            bias="none", task_type="CAUSAL_LM", inference_mode=True,
        )  # fmt: skip
        try:
            if self._peft is None:
                self._peft = PeftModel(self.network, config, adapter_name=name, autocast_adapter_dtype=False)
            else:
                self._peft.add_adapter(name, config)
            self._fill(name, facts["modules"], values)
        except (KeyError, ValueError, RuntimeError):  # out of memory: half an adapter is none
            if self._peft is not None and name in self._peft.peft_config:
                self.remove_adapter(name)
            raise
        self.select(self._selected)  # PEFT switches to the new one, and an answer may be under way

    def _fill(self, name: str, modules: Sequence[str], values: Mapping[str, Tensor]) -> None:
        for module in modules:
            layer: Any = self.network.get_submodule(module)
            for side, parts in (("A", layer.lora_A), ("B", layer.lora_B)):
                parts[name].to(device=self.device, dtype=self.dtype)
                parts[name].weight.data.copy_(values[f"{module}.lora_{side}.weight"])

    def remove_adapter(self, name: str) -> None:
        """Take out an adapter that is not selected; after the last one the weights are as if there had been none."""
        assert self._peft is not None
        if len(self._peft.peft_config) == 1:
            self._peft.unload()
            self._peft = None
        else:
            self._peft.delete_adapter(name)
            self.select(self._selected)

    def select(self, name: str | None) -> None:
        """Compute with this adapter, or with none."""
        self._selected = name
        if self._peft is None:
            return
        tuner: Any = self._peft.base_model
        if name is None:
            tuner.disable_adapter_layers()
            return
        tuner.enable_adapter_layers()
        self._peft.set_adapter(name, inference_mode=True)

    def close(self) -> None:
        self._peft = None
        del self.network, self._tokenizer, self.vocabulary
        gc.collect()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()


class TorchAdapter:
    """An adapter in the weights of a model, under a name of its own."""

    def __init__(self, model: TorchModel, file: Path) -> None:
        """Load what `transformers_adapters.prepare` wrote.

        Raises:
            BackendError
        """
        self.name = file.stem
        self._model = model
        try:
            model.add_adapter(self.name, file)
        except (OSError, ValueError, RuntimeError) as error:
            raise BackendError(f"PEFT cannot load the adapter: {error}") from error

    def close(self) -> None:
        self._model.remove_adapter(self.name)


class SequenceCache(Cache):
    """Keys and values of all sequences: for each layer two buffers (sequences, heads, tokens, size).

    `rows` (rising) and `positions` (rows, new tokens) say where what comes next belongs; `seen` is how far the longest
    of these rows reaches.
    """

    def __init__(self, sequences: int, context_tokens: int) -> None:
        super().__init__(layers=[])
        self._shape = (sequences, context_tokens)
        self._buffers: list[tuple[Tensor, Tensor]] = []
        self.rows: Sequence[int] = ()
        self.positions = torch.empty(0, dtype=torch.long)
        self.seen = 0

    def update(self, key_states: Tensor, value_states: Tensor, layer_idx: int, *_: Any, **__: Any) -> Any:
        """Keep what is new; give all that the rows have, up to `seen`."""
        pair = self._room(layer_idx, key_states)
        rows, places = torch.tensor(self.rows, device=self.positions.device)[:, None], self.positions
        for buffer, states in zip(pair, (key_states, value_states), strict=True):
            buffer[rows, :, places] = states.transpose(1, 2)
        first, last = self.rows[0], self.rows[-1]
        # Neighbours are looked at where they are; others have to be copied together.
        which: Any = slice(first, last + 1) if last - first == len(self.rows) - 1 else self.rows
        return tuple(buffer[which, :, : self.seen] for buffer in pair)

    def get_seq_length(self, layer_idx: int = 0, *_: Any) -> int:
        return 0  # positions and mask are always given, so nobody derives them from here

    def _room(self, layer: int, like: Tensor) -> tuple[Tensor, Tensor]:
        """The buffers of a layer, with room for `seen` tokens."""
        sequences, most = self._shape
        have = self._buffers[layer][0].shape[2] if layer < len(self._buffers) else 0
        if have >= self.seen:
            return self._buffers[layer]
        tokens = min(most, -(-max(self.seen, 2 * have) // GROWTH) * GROWTH)
        # Zeros, not whatever is there: a masked NaN is a NaN all the same.
        grown = tuple(like.new_zeros((sequences, like.shape[1], tokens, like.shape[3])) for _ in range(2))
        if have:
            for new, old in zip(grown, self._buffers[layer], strict=True):
                new[:, :, :have] = old
            self._buffers[layer] = (grown[0], grown[1])
        else:
            self._buffers.append((grown[0], grown[1]))
        return self._buffers[layer]


class TorchContext:
    """Several sequences of one model."""

    def __init__(self, model: TorchModel, context_tokens: int, sequences: int) -> None:
        self._model = model
        self._cache = SequenceCache(sequences, context_tokens)
        self._logits = torch.empty(0)
        self._rows: dict[int, int] = {}

    def decode(self, entries: Sequence[Entry]) -> None:
        device = self._model.device
        sequences = sorted({entry.sequence for entry in entries})
        width = len(entries) // len(sequences)
        assert len(entries) == width * len(sequences), "one sequence, or one token of each"
        # A stable sort: the tokens of one sequence stay in their order.
        places = sorted(range(len(entries)), key=lambda place: entries[place].sequence)
        entries = [entries[place] for place in places]
        tokens = torch.tensor([entry.token for entry in entries], device=device).view(-1, width)
        positions = torch.tensor([entry.position for entry in entries], device=device).view(-1, width)
        cache = self._cache
        cache.rows, cache.positions = sequences, positions
        cache.seen = max(entry.position for entry in entries) + 1
        mask = torch.arange(cache.seen, device=device) <= positions[:, None, :, None]
        try:
            with torch.inference_mode():
                self._logits = self._model.compute(tokens, positions, mask, cache)
        except RuntimeError as error:  # out of memory, or the device is gone
            raise BackendError(f"transformers: {error}") from error
        self._rows = {place: at // width for at, place in enumerate(places)}

    def row(self, place: int) -> Tensor:
        """The logits (vocabulary,) of the last token of the sequence of the entry at `place`, on the device."""
        return self._logits[self._rows[place]]

    def logits(self, place: int) -> NDArray[np.float32]:
        return self.row(place).cpu().numpy()

    def keep(self, sequence: int, tokens: int) -> bool:
        return True  # what stands beyond is never looked at before it is written again

    def use_adapter(self, adapter: TorchAdapter | None) -> None:
        self._model.select(None if adapter is None else adapter.name)

    def close(self) -> None:
        del self._cache, self._logits


def _end_tokens(network: Any, tokenizer: Any) -> frozenset[int]:
    ends = network.generation_config.eos_token_id
    ends = ends if isinstance(ends, list) else [ends]
    return frozenset(int(token) for token in (*ends, tokenizer.eos_token_id) if token is not None)


def _token(token: int | None) -> int:
    return -1 if token is None else token


def _metadata(file: Path) -> dict[str, str]:
    from safetensors import safe_open

    with safe_open(file, "pt") as opened:
        return opened.metadata()
