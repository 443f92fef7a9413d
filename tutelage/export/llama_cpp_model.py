"""llama.cpp through llama-cpp-python's C functions: tokenise, and logits of every position that is asked for."""

import ctypes
import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tutelage.errors import ModelError, need

MOST_TOKENS = 4096  # of one pass; the context grows to what is asked, at least 512


@functools.cache
def _started() -> tuple[Any, Any]:
    """The library and its log callback, which must live as long as the process: llama.cpp may log at any time."""
    library = need("llama_cpp", extra="llama-cpp")
    silence = library.llama_log_callback(_nothing)
    library.llama_log_set(silence, ctypes.c_void_p(0))
    library.llama_backend_init()
    return library, silence


def llama_cpp() -> Any:
    """llama-cpp-python, silent and started once."""
    return _started()[0]


class LlamaCppModel:
    """A GGUF file opened by llama.cpp, computing attention in float32."""

    runner = "llama.cpp"

    def __init__(self, path: Path) -> None:
        self.library = llama_cpp()
        self.path = path
        parameters = self.library.llama_model_default_params()
        parameters.n_gpu_layers = 0
        self.model = self.library.llama_model_load_from_file(str(path).encode(), parameters)
        if not self.model:
            raise ModelError("llama.cpp cannot load this GGUF file", where=str(path))
        self.vocab = self.library.llama_model_get_vocab(self.model)
        self.size = int(self.library.llama_vocab_n_tokens(self.vocab))
        self.context: Any = None
        self.room = 0

    def _grow(self, tokens: int) -> None:
        if tokens <= self.room:
            return
        if self.context is not None:
            self.library.llama_free(self.context)
        self.room = max(512, 1 << (tokens - 1).bit_length())
        parameters = self.library.llama_context_default_params()
        parameters.n_ctx = parameters.n_batch = self.room
        parameters.n_ubatch = 512
        parameters.n_threads = parameters.n_threads_batch = torch.get_num_threads()
        parameters.flash_attn_type = self.library.LLAMA_FLASH_ATTN_TYPE_DISABLED  # it would round to float16
        parameters.type_k = parameters.type_v = self.library.GGML_TYPE_F32
        self.context = self.library.llama_init_from_model(self.model, parameters)
        if not self.context:
            raise ModelError("llama.cpp cannot make a context for this GGUF file", where=str(self.path))

    def logits(self, ids: Sequence[int], start: int) -> Tensor:
        """[len(ids) - start, vocabulary] float32: the logits behind each of ids[start:]."""
        self._grow(len(ids))
        library = self.library
        library.llama_memory_clear(library.llama_get_memory(self.context), True)
        batch = library.llama_batch_init(len(ids), 0, 1)
        try:
            batch.n_tokens = len(ids)
            for i, token in enumerate(ids):
                batch.token[i], batch.pos[i], batch.n_seq_id[i], batch.seq_id[i][0] = token, i, 1, 0
                batch.logits[i] = i >= start
            code = library.llama_decode(self.context, batch)
            if code:
                raise ModelError("llama.cpp cannot compute this GGUF file", where=str(self.path), why=f"code {code}")
            rows = [
                np.ctypeslib.as_array(library.llama_get_logits_ith(self.context, i), (self.size,)).copy()
                for i in range(start, len(ids))
            ]
        finally:
            library.llama_batch_free(batch)
        return torch.from_numpy(np.stack(rows))

    def ids_of(self, text: str, *, special: bool) -> list[int]:
        """The ids of `text` without a begin-of-text token; with `special`, control tokens in it are control tokens."""
        data = text.encode()
        room = len(data) + 16
        tokens = (self.library.llama_token * room)()
        count = self.library.llama_tokenize(self.vocab, data, len(data), tokens, room, False, special)
        if count < 0:
            raise ModelError("llama.cpp cannot tokenise this text", where=str(self.path), why=f"{text[:80]!r}")
        return list(tokens[:count])

    def template_text(self) -> str | None:
        """The chat template in the file."""
        text = self.library.llama_model_chat_template(self.model, None)
        return text.decode() if text else None

    def stop_ids(self) -> frozenset[int]:
        """The ids at which llama.cpp ends an answer: those that the file names, and those it knows by their text."""
        return frozenset(i for i in range(self.size) if self.library.llama_vocab_is_eog(self.vocab, i))

    def close(self) -> None:
        """Give the memory back."""
        if self.context is not None:
            self.library.llama_free(self.context)
        self.library.llama_model_free(self.model)
        self.context = self.model = None


def _nothing(level: int, text: bytes, data: Any) -> None:
    """llama.cpp's log goes nowhere: what matters comes back as a return code."""
