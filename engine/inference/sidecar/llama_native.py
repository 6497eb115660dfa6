"""llama.cpp's C API as three small objects: `Model`, `Context`, `Lora`. All ctypes calls but sampling are here.

Not thread-safe: one thread owns them all. Each frees its memory in `close`, and a model outlives what belongs to it.
"""

from __future__ import annotations

import atexit
import ctypes
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import llama_cpp._utils as _opened
import llama_cpp.llama_cpp as _api
import numpy as np
from numpy.typing import NDArray

from engine.inference.sidecar.backend import BackendError
from engine.inference.sidecar.runtime import Entry

api: Any = _api
"""The bindings' annotations contradict what ctypes takes and gives, so they are not used."""

for _null in (_opened.outnull_file, _opened.errnull_file):
    atexit.register(_null.close)  # the bindings open both when they are imported and never close them

PIECE_BYTES = 256
"""Room for one token's text; longer ones are asked for again with the size that llama.cpp names."""
LEVEL_WARNING, LEVEL_ERROR = 3, 4
"""Of ggml's log."""
META_BYTES = 1 << 16
"""Room for one metadata value: a chat template has some kilobytes."""


@api.llama_log_callback
def _log(level: int, text: bytes | None, _user_data: object) -> None:
    """Warnings and errors go to standard error, which is the log file; llama.cpp's debug lines are thousands."""
    if level in (LEVEL_WARNING, LEVEL_ERROR) and text:
        sys.stderr.write(text.decode(errors="replace"))


class Lora:
    """An adapter that llama.cpp has loaded for a model."""

    def __init__(self, model: Model, path: Path) -> None:
        """Load the GGUF file at `path`.

        Raises:
            BackendError: llama.cpp refuses it; its log says why.
        """
        handle = api.llama_adapter_lora_init(model.handle, str(path).encode())
        if not handle:
            raise BackendError("llama.cpp cannot load the adapter; see the log")
        self.handle = handle

    def close(self) -> None:
        """Free it; it must not be set in a context any more."""
        api.llama_adapter_lora_free(self.handle)


class Model:
    """Weights and vocabulary."""

    def __init__(self, path: Path) -> None:
        """Load a GGUF file.

        Raises:
            BackendError: it cannot be loaded.
        """
        api.llama_log_set(_log, None)
        api.llama_backend_init()
        handle = api.llama_model_load_from_file(str(path).encode(), api.llama_model_default_params())
        if not handle:
            raise BackendError(f"llama.cpp cannot load {path}; see the log")
        self.handle = handle
        self.vocab = api.llama_model_get_vocab(handle)
        self.vocab_size: int = api.llama_vocab_n_tokens(self.vocab)
        self.trained_context: int = api.llama_model_n_ctx_train(handle)
        self._pieces: dict[int, bytes] = {}

    def close(self) -> None:
        """Free the weights."""
        api.llama_model_free(self.handle)

    def metadata(self, key: str) -> str | None:
        """A text value of the file's metadata."""
        buffer = ctypes.create_string_buffer(META_BYTES)
        size = api.llama_model_meta_val_str(self.handle, key.encode(), buffer, META_BYTES)
        return None if size < 0 else buffer.value.decode(errors="replace")

    def chat_template(self) -> str | None:
        """The Jinja template that the file carries; None if it has none."""
        template = api.llama_model_chat_template(self.handle, None)
        return template.decode() if template else None

    def tokenize(self, text: str, add_special: bool, parse_special: bool) -> list[int]:
        """Token ids; special tokens written in `text` count as such only with `parse_special`."""
        data = text.encode()
        # No token is shorter than a byte; a few more for those that the model adds at the ends.
        room = len(data) + 8
        buffer = (api.llama_token * room)()
        count = api.llama_tokenize(self.vocab, data, len(data), buffer, room, add_special, parse_special)
        if count < 0:
            raise BackendError(f"llama.cpp cannot tokenize {len(data)} bytes ({count})")
        return list(buffer[:count])

    def piece(self, token: int) -> bytes:
        """The bytes of a token; empty for control tokens. May be a part of a character."""
        known = self._pieces.get(token)
        if known is None:
            known = self._pieces[token] = self._read_piece(token, special=False)
        return known

    def special_text(self, token: int) -> str:
        """The name of a control token, such as `<|im_start|>`; empty for no token (-1)."""
        return self._read_piece(token, special=True).decode(errors="replace") if token >= 0 else ""

    def _read_piece(self, token: int, special: bool) -> bytes:
        room = PIECE_BYTES
        while True:
            buffer = ctypes.create_string_buffer(room)
            size = api.llama_token_to_piece(self.vocab, token, buffer, room, 0, special)
            if size >= 0:
                return buffer.raw[:size]
            room = -size

    def bos(self) -> int:
        """The token that begins a text, or -1."""
        return api.llama_vocab_bos(self.vocab)

    def eos(self) -> int:
        """The token that ends a text, or -1."""
        return api.llama_vocab_eos(self.vocab)

    def is_end(self, token: int) -> bool:
        """Whether the model ends its answer with this token."""
        return api.llama_vocab_is_eog(self.vocab, token)


class Context:
    """The KV cache and the computation of a model, for several sequences."""

    def __init__(
        self,
        model: Model,
        context_tokens: int,
        sequences: int,
        batch_tokens: int,
        threads: int,
        *,
        float32_cache: bool = False,
    ) -> None:
        """Reserve memory for `sequences` of `context_tokens` each.

        Args:
            float32_cache: keep keys and values in float32, not float16: for a comparison of numbers.

        Raises:
            BackendError: there is not enough memory.
        """
        params = api.llama_context_default_params()
        params.n_ctx = context_tokens * sequences
        params.n_seq_max = sequences
        params.n_batch = params.n_ubatch = batch_tokens
        params.n_threads = params.n_threads_batch = threads
        params.no_perf = True
        if float32_cache:
            params.type_k = params.type_v = api.GGML_TYPE_F32
            params.flash_attn_type = 0
        handle = api.llama_init_from_model(model.handle, params)
        if not handle:
            raise BackendError("llama.cpp cannot make a context: not enough memory? See the log")
        self.handle = handle
        self.sequence_tokens: int = api.llama_n_ctx_seq(handle)
        self._vocab_size = model.vocab_size
        self._memory = api.llama_get_memory(handle)
        self._batch = api.llama_batch_init(batch_tokens, 0, 1)
        self._room = batch_tokens

    def close(self) -> None:
        """Free the cache."""
        api.llama_batch_free(self._batch)
        api.llama_free(self.handle)

    def decode(self, entries: Sequence[Entry]) -> None:
        """Compute a batch; logits are then found by place in the batch.

        Raises:
            BackendError: llama.cpp failed; the sequences of the batch are in no certain state.
        """
        assert 0 < len(entries) <= self._room, "a batch larger than was reserved"
        batch: Any = self._batch
        batch.n_tokens = len(entries)
        for place, entry in enumerate(entries):
            batch.token[place] = entry.token
            batch.pos[place] = entry.position
            batch.n_seq_id[place] = 1
            batch.seq_id[place][0] = entry.sequence
            batch.logits[place] = entry.logits
        status = api.llama_decode(self.handle, batch)
        if status != 0:
            raise BackendError(f"llama_decode failed with status {status}; see the log")

    def logits(self, place: int) -> NDArray[np.float32]:
        """The logits (vocabulary,) of the batch's entry at `place`; a view that the next decode overwrites."""
        pointer = api.llama_get_logits_ith(self.handle, place)
        return np.ctypeslib.as_array(pointer, shape=(self._vocab_size,))

    def keep(self, sequence: int, tokens: int) -> bool:
        """Forget a sequence from position `tokens` on. False: this kind of memory cannot; then all is forgotten."""
        if api.llama_memory_seq_rm(self._memory, sequence, tokens, -1):
            return True
        api.llama_memory_seq_rm(self._memory, sequence, -1, -1)
        return False

    def use_adapter(self, adapter: Lora | None) -> None:
        """Compute with this adapter, or with none, from the next decode on."""
        handles = (api.llama_adapter_lora_p_ctypes * 1)(adapter.handle if adapter else None)
        scales = (ctypes.c_float * 1)(1.0)
        if api.llama_set_adapters_lora(self.handle, handles, int(adapter is not None), scales) != 0:
            raise BackendError("llama.cpp cannot select the adapter; see the log")
