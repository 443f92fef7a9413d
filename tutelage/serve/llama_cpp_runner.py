"""llama.cpp as the runner of a batch: many sequences in one context, which holds those that grow and nothing else.

Attention there runs over all cells up to the last one in use, whosever they are: with 8,192 cells of finished sequences among
them one stream of SmolLM2-135M fell from 170 to 139 tokens/s. So a sequence that rests is copied out, and its cells are free.
"""

import ctypes
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
    """One sequence: `number` in the context while it grows, `resting` as llama.cpp writes it when it does not."""

    def __init__(self, runner: "LlamaCppRunner", number: int) -> None:
        self.runner = runner
        self.number = number
        self.ids: list[int] = []
        self.resting: Any = None
        self._leave = weakref.finalize(self, runner.left.append, number)

    @property
    def room(self) -> int:
        """Tokens that memory is held for."""
        return len(self.ids)

    def rest(self) -> None:
        """Nothing is added for now: give up the cells."""
        self.resting = self.runner.written(self.number)
        self._leave()

    def drop(self) -> None:
        """Hold nothing any more."""
        self.ids, self.resting = [], None
        self._leave()


class LlamaCppRunner:
    """A GGUF file as a Runner, of which `slots` sequences grow at a time."""

    def __init__(self, path: Path, *, slots: int, threads: int | None = None) -> None:
        self.model = LlamaCppModel(path)
        self.library = self.model.library
        trained = int(self.library.llama_model_n_ctx_train(self.model.model))
        self.context: int | None = min(trained, CONTEXT)
        cells = self.context * slots
        parameters = self.library.llama_context_default_params()
        parameters.n_ctx, parameters.n_batch, parameters.n_ubatch = cells, 2048, 512
        parameters.n_seq_max, parameters.kv_unified = slots, True
        parameters.n_threads = parameters.n_threads_batch = threads or torch.get_num_threads()
        self.handle = self.library.llama_init_from_model(self.model.model, parameters)
        if not self.handle:
            raise ModelError(
                "llama.cpp cannot make a context of this size",
                where=str(path),
                why=f"{cells} tokens of {slots} streams",
                fix=f"serve with fewer --slots; llama.cpp takes {MOST_SEQUENCES} at most",
            )
        self.memory = self.library.llama_get_memory(self.handle)
        self.free = list(range(slots))
        self.left: list[int] = []  # sequences that nobody holds any more, cleared before the next pass

    def begin(self, older: CellState | None, shared: int) -> CellState:
        self._clear()
        state = CellState(self, self.free.pop())
        if older is None or not shared:
            return state
        if older.resting is None:
            self.library.llama_memory_seq_cp(self.memory, older.number, state.number, 0, shared)
        else:
            self._read(older.resting, state.number)
            self.library.llama_memory_seq_rm(self.memory, state.number, shared, -1)
        state.ids = older.ids[:shared]
        return state

    def written(self, number: int) -> Any:
        """The sequence's keys and values as bytes."""
        size = int(self.library.llama_state_seq_get_size(self.handle, number))
        data = (ctypes.c_uint8 * size)()
        if self.library.llama_state_seq_get_data(self.handle, data, size, number) != size:
            raise ModelError("llama.cpp could not write down a sequence", why=f"{size} bytes were expected")
        return data

    def _read(self, data: Any, number: int) -> None:
        if self.library.llama_state_seq_set_data(self.handle, data, len(data), number) != len(data):
            raise ModelError("llama.cpp could not take up a sequence again", why="no cells were found for it")

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
