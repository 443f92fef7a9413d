"""A model as an ONNX graph with free batch size and length, and such a graph run by onnxruntime."""

import logging
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from tutelage.encode.types import Layout
from tutelage.errors import ModelError, need
from tutelage.models.encoder import Pooling

INPUTS = ("input_ids", "attention_mask", "token_type_ids")
LARGE = 1 << 30  # bytes of weights from which they go into a file of their own: one message holds at most 2 GiB
OUTPUTS = {
    "classify": ("logits",), "tag": ("logits",), "extract": ("start_logits", "end_logits"),
    "embed": ("last_hidden_state", "sentence_embedding"),
}  # fmt: skip


class Outputs(nn.Module):
    """The model with its inputs in a fixed order and its outputs as plain tensors."""

    def __init__(self, model: Any, names: Sequence[str], outputs: Sequence[str]) -> None:
        super().__init__()
        self.model = model
        self.names = tuple(names)
        self.outputs = tuple(outputs)

    def forward(self, *given: Tensor) -> tuple[Tensor, ...]:
        out = self.model(**dict(zip(self.names, given)))
        return tuple(out[name] for name in self.outputs)


class Vectors(nn.Module):
    """An encoder's body with its pooling behind it."""

    def __init__(self, body: Any, pooling: Pooling) -> None:
        super().__init__()
        self.body = body
        self.pooling = pooling

    def forward(self, **given: Tensor) -> dict[str, Tensor]:
        states = self.body(**given).last_hidden_state
        return {"last_hidden_state": states, "sentence_embedding": self.pooling.pool(states, given["attention_mask"])}


def write_graph(model: Any, kind: str, path: Path, *, typed: bool) -> None:
    """Write `model` (fp32, eval mode, transformers' own attention) for the task `kind`; batch and length stay free."""
    for package in ("onnx", "onnxscript"):  # torch's exporter needs both
        need(package, extra="onnx")
    names, outputs = INPUTS[: 3 if typed else 2], OUTPUTS[kind]
    ids = torch.arange(22).reshape(2, 11) % 7 + 5
    mask = torch.ones_like(ids)
    mask[1, 7:] = 0
    axes = {0: torch.export.Dim("batch"), 1: torch.export.Dim("length")}
    given = (ids, mask, torch.zeros_like(ids))[: len(names)]
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        logging.getLogger("torch.onnx").setLevel(logging.ERROR)
        try:
            program = torch.onnx.export(
                Outputs(model, names, outputs).eval(), given, input_names=names, output_names=outputs, dynamo=True,
                dynamic_shapes=(tuple(axes for _ in names),), verbose=False,
            )  # fmt: skip
        except Exception as error:  # the exporter's errors have no common base
            why = " ".join(f"{type(error).__name__}: {error}".split())[:300]
            raise ModelError("this architecture cannot be written as ONNX", where=str(path.name), why=why) from error
    assert program is not None
    size = sum(parameter.numel() * parameter.element_size() for parameter in model.parameters())
    program.save(path, external_data=size >= LARGE)


class Graph:
    """An ONNX file opened by onnxruntime, on the processor."""

    def __init__(self, path: Path) -> None:
        runtime = need("onnxruntime", extra="onnx")
        options = runtime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        self.runner = f"onnxruntime {runtime.__version__}"
        self.session = runtime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        self.names = [item.name for item in self.session.get_inputs()]
        self.outputs = [item.name for item in self.session.get_outputs()]

    def run(self, rows: Sequence[Mapping[str, NDArray[np.int64]]]) -> dict[str, NDArray[np.float32]]:
        """The outputs for rows of `input_ids` (and `token_type_ids`), padded to the longest: [B, ...] each."""
        longest = max(len(row["input_ids"]) for row in rows)
        given = {name: np.zeros((len(rows), longest), dtype=np.int64) for name in self.names}
        for number, row in enumerate(rows):
            length = len(row["input_ids"])
            for name in self.names:
                given[name][number, :length] = 1 if name == "attention_mask" else row[name]
        return dict(zip(self.outputs, self.session.run(self.outputs, given)))


class GraphScores:
    """A graph with a head, in place of a backbone: what a task's `predict` asks."""

    def __init__(self, graph: Graph, kind: str) -> None:
        self.graph = graph
        self.kind = kind

    def scores(self, layout: Layout, *, fast: bool = True) -> Tensor:
        """[M, C]: the head's outputs at the layout's sources; segments that hold one are rows of one padded batch."""
        sources = layout.sources.cpu().numpy()
        bounds = [
            (one.start, one.stop) for one in layout.segments if ((sources >= one.start) & (sources < one.stop)).any()
        ]
        types = layout.types if layout.types is not None else torch.zeros_like(layout.ids)
        rows = [
            {"input_ids": layout.ids[a:b].cpu().numpy(), "token_type_ids": types[a:b].cpu().numpy()} for a, b in bounds
        ]
        out = self.graph.run(rows)
        values = np.stack([out[name] for name in OUTPUTS[self.kind]], -1)
        values = values if self.kind == "extract" else values[..., 0]
        places = np.zeros((len(layout.ids), values.shape[-1]), dtype=np.float32)
        for (a, b), found in zip(bounds, values):
            places[a:b] = found if self.kind == "classify" else found[: b - a]  # one value a row, or one a token
        return torch.from_numpy(places[sources])
