"""llama.cpp as the runner of a batch: many sequences in one context, a beginning shared by copying references to its cells."""

import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tutelage.errors import ModelError
from tutelage.export.llama_cpp_model import LlamaCppModel
from tutelage.generate.runner import Chunk

MOST_SEQUENCES = 256  # llama.cpp's own limit
CONTEXT = 2048  # tokens of one sequence: cells for all slots are held from the start


class CellState:
    """One sequence of the context; its cells are free once nobody holds it."""

    def __init__(self, number: int, left: list[int]) -> None:
        self.number = number
        self.ids: list[int] = []
        self._leave = weakref.finalize(self, left.append, number)

    @property
    def room(self) -> int:
        """Tokens that memory is held for."""
        return len(self.ids)

    def rest(self) -> None:
        """A sequence holds no more cells than tokens."""

    def drop(self) -> None:
        """Hold nothing any more."""
        self.ids = []
        self._leave()


class LlamaCppRunner:
    """A GGUF file as a Runner. `keep` cells are held beside those of the slots, for beginnings that come again."""

    def __init__(self, path: Path, *, slots: int, keep: int, threads: int | None = None) -> None:
        self.model = LlamaCppModel(path)
        self.library = self.model.library
        trained = int(self.library.llama_model_n_ctx_train(self.model.model))
        self.context: int | None = min(trained, CONTEXT)
        self.cells = self.context * slots + keep
        parameters = self.library.llama_context_default_params()
        parameters.n_ctx, parameters.n_batch, parameters.n_ubatch = self.cells, 2048, 512
        parameters.n_seq_max, parameters.kv_unified = MOST_SEQUENCES, True
        parameters.n_threads = parameters.n_threads_batch = threads or torch.get_num_threads()
        self.handle = self.library.llama_init_from_model(self.model.model, parameters)
        if not self.handle:
            raise ModelError(
                "llama.cpp cannot make a context of this size", where=str(path), why=f"{self.cells} tokens"
            )
        self.memory = self.library.llama_get_memory(self.handle)
        self.free = list(range(MOST_SEQUENCES))
        self.left: list[int] = []  # sequences that nobody holds any more, cleared before the next pass

    def begin(self, older: CellState | None, shared: int) -> CellState:
        self._clear()
        if not self.free:
            raise ModelError("no sequence is free in llama.cpp", why=f"at most {MOST_SEQUENCES} are held at a time")
        state = CellState(self.free.pop(), self.left)
        if older is not None and shared:
            self.library.llama_memory_seq_cp(self.memory, older.number, state.number, 0, shared)
            state.ids = older.ids[:shared]
        return state

    def _clear(self) -> None:
        while self.left:
            number = self.left.pop()
            self.library.llama_memory_seq_rm(self.memory, number, -1, -1)
            self.free.append(number)

    def forward(self, chunks: Sequence[Chunk]) -> Tensor:
        self._clear()
        count = sum(len(chunk.ids) for chunk in chunks)
        batch = self.library.llama_batch_init(count, 0, 1)
        try:
            batch.n_tokens = count
            ends, at = [], 0
            for chunk in chunks:
                for place, token in enumerate(chunk.ids, len(chunk.state.ids)):
                    batch.token[at], batch.pos[at] = token, place
                    batch.n_seq_id[at], batch.seq_id[at][0], batch.logits[at] = 1, chunk.state.number, 0
                    at += 1
                batch.logits[at - 1] = 1
                ends.append(at - 1)
            code = self.library.llama_decode(self.handle, batch)
            if code:
                raise ModelError("llama.cpp could not compute a step", why=f"llama_decode returned {code}")
            rows = [self._row(end) for end in ends]
        finally:
            self.library.llama_batch_free(batch)
        for chunk in chunks:
            chunk.state.ids.extend(chunk.ids)
        return torch.from_numpy(np.stack(rows))

    def _row(self, place: int) -> Any:
        return np.ctypeslib.as_array(self.library.llama_get_logits_ith(self.handle, place), (self.model.size,))
