"""`--to onnx`: an encoder with its head, or with its pooling, for onnxruntime; label names and tokenizer beside it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer

from tutelage.encode.tokens import Tokens
from tutelage.errors import UsageError
from tutelage.export.label_parity import MOST_DIFFERENCE, LabelParity, same_outputs, widest
from tutelage.export.onnx_graph import INPUTS, Graph, GraphScores, Vectors, write_graph
from tutelage.export.prompts import BUILT_IN, hard_texts, held_out_rows
from tutelage.methods.opening import Located
from tutelage.models.encoder import Pooling, load_encoder, pooling_of
from tutelage.models.load import family_of, load_tokenizer
from tutelage.models.safety import read_object
from tutelage.runs import TASK, write_json
from tutelage.tasks.opening import OpenedTask, open_for_task, read_task

FILE = "model.onnx"
Say = Callable[[str], None]


@dataclass(frozen=True)
class Labelling:
    """A model with a head, and the rows that it is compared on."""

    opened: OpenedTask
    kind: str
    rows: Sequence[Any]
    held_out: bool

    def write(self, folder: Path) -> None:
        """The graph, the config with the label names, the task and the tokenizer."""
        task, model = self.opened.task, self.opened.backbone.model
        model.set_attn_implementation("sdpa")
        write_graph(model, self.kind, folder / FILE, typed=_typed(model.config))
        model.config.save_pretrained(folder)
        write_json(folder / TASK, task.spec.model_dump(mode="json"))
        _save_tokenizer(task.tokenizer, model.config, folder)

    def measure(self, folder: Path, texts: Sequence[str], trained: Any) -> LabelParity:
        """What the file predicts beside what `trained` said before."""
        graph = Graph(folder / FILE)
        scores = GraphScores(graph, self.kind)
        task, plan = self.opened.task, replace(self.opened.plan, share_prefix=False)
        theirs = task.predict(scores, self.rows, plan)
        layouts = task.layouts(task.fit(self.rows).rows, plan)
        difference = max(widest(a, scores.scores(layout)) for a, layout in zip(trained.scores, layouts, strict=True))
        return LabelParity(
            graph.runner, len(theirs), self.held_out, same_outputs(trained.predictions, theirs), difference,
            len(texts),
            _same_texts(task.tokenizer, folder, texts),
        )  # fmt: skip

    def trained(self) -> "LabelScores":
        """What the trained model makes of the rows."""
        opened, plan = self.opened, replace(self.opened.plan, share_prefix=False)
        layouts = opened.task.layouts(opened.task.fit(self.rows).rows, plan)
        with torch.no_grad():
            scores = [opened.backbone.scores(layout).cpu() for layout in layouts]
        return LabelScores(opened.predict(self.rows), scores)


@dataclass(frozen=True)
class LabelScores:
    """The trained model's predictions and the scores behind them, one tensor a layout."""

    predictions: list[Any]
    scores: list[torch.Tensor]


@dataclass(frozen=True)
class Embedding:
    """An encoder with its pooling."""

    body: Any
    tokenizer: Any
    pooling: Pooling
    limit: int

    def write(self, folder: Path) -> None:
        """The graph, the config and the tokenizer."""
        typed = _typed(self.body.config)
        write_graph(Vectors(self.body, self.pooling).eval(), "embed", folder / FILE, typed=typed)
        self.body.config.save_pretrained(folder)
        _save_tokenizer(self.tokenizer, self.body.config, folder)

    def measure(self, folder: Path, texts: Sequence[str], trained: Any) -> LabelParity:
        """The file's vectors beside those of `trained`, several texts at a time."""
        graph = Graph(folder / FILE)
        rows = self._rows()
        given = [{"input_ids": row, "token_type_ids": np.zeros_like(row)} for row in rows]
        found = [v for a in range(0, len(rows), 16) for v in graph.run(given[a : a + 16])["sentence_embedding"]]
        differences = [widest(a, torch.from_numpy(b)) for a, b in zip(trained, found, strict=True)]
        same = sum(difference <= MOST_DIFFERENCE for difference in differences)
        compared = _same_texts(self.tokenizer, folder, texts)
        return LabelParity(graph.runner, len(rows), True, same, max(differences), len(texts), compared)

    def trained(self) -> list[torch.Tensor]:
        """The encoder's own vectors, each text alone."""
        found = []
        with torch.no_grad():
            for row in self._rows():
                ids = torch.from_numpy(row)[None]
                states = self.body(input_ids=ids, attention_mask=torch.ones_like(ids)).last_hidden_state
                found.append(self.pooling.pool(states, torch.ones_like(ids))[0])
        return found

    def _rows(self) -> list[Any]:
        tokens = Tokens.of(self.tokenizer, {}, self.limit)
        texts = [*(text for pair in BUILT_IN for text in pair), *hard_texts(80)]
        return [np.asarray(tokens.cut((text,)).ids, dtype=np.int64) for text in texts]


def open_for_onnx(located: Located, *, rows: int, data: str | None, say: Say) -> tuple[Labelling | Embedding, str]:
    """The model with its task and what it is compared on; what is no encoder is refused."""
    spec = read_task(located.adapter or located.model)
    if family_of(read_object(located.model / "config.json")) != "encoder":
        raise UsageError("ONNX export is for encoders", where=located.name, why="this model is none", fix="--to merged")
    if located.adapter is not None and located.run is None:
        raise UsageError("an adapter alone has no task", where=located.name, fix="name the run folder")
    if spec is None or spec.kind == "text":
        return _embedding(located), "embed"
    opened = open_for_task(str(located.run or located.model), precision="fp32", say=say)
    found, held_out = held_out_rows(located, spec, rows, data, say)
    return Labelling(opened, spec.kind, found, held_out), spec.kind


def _embedding(located: Located) -> Embedding:
    pooling = pooling_of(located.model)
    limit = min(pooling.most_tokens, Tokens.of(load_tokenizer(located.tokenizer), _config(located), 1 << 30).limit)
    if located.adapter is None:
        body, tokenizer = load_encoder(located.model)
        return Embedding(body, tokenizer, pooling, limit)
    opened = open_for_task(str(located.run), precision="fp32")
    opened.backbone.model.set_attn_implementation("sdpa")
    return Embedding(opened.backbone.model.base_model, opened.task.tokenizer, pooling, limit)


def _config(located: Located) -> dict[str, Any]:
    return read_object(located.model / "config.json")


def _save_tokenizer(tokenizer: Any, config: Any, folder: Path) -> None:
    """The tokenizer, which then gives exactly the graph's inputs."""
    tokenizer.save_pretrained(folder)
    path = folder / "tokenizer_config.json"
    write_json(path, read_object(path) | {"model_input_names": list(INPUTS[: 3 if _typed(config) else 2])})


def _typed(config: Any) -> bool:
    return int(getattr(config, "type_vocab_size", 0) or 0) > 1


def _same_texts(tokenizer: Any, folder: Path, texts: Sequence[str]) -> int:
    written = Tokenizer.from_file(str(folder / "tokenizer.json"))
    own = tokenizer.backend_tokenizer
    return sum(own.encode(text).ids == written.encode(text).ids for text in texts)
