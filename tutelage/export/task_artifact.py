"""The export of a model with a task of its own (labels, entities, answers, rewritten texts) or an encoder: the trained model
predicts first, the files are written, opened again, compared, and only then appear."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

from tutelage.errors import UsageError
from tutelage.export.artifact import Artifact, finish, parse_kind, refuse_occupied, stamp, workspace
from tutelage.export.card import facts_of
from tutelage.export.label_parity import LabelParity, enforce
from tutelage.export.merged_task import open_for_merging
from tutelage.export.onnx_file import open_for_onnx
from tutelage.export.prompts import hard_texts
from tutelage.methods.opening import Located
from tutelage.models.load import family_of
from tutelage.models.safety import read_object
from tutelage.tasks.opening import read_task
from tutelage.taskspec import LABELLING

Say = Callable[[str], None]


class Opened(Protocol):
    """A trained model that is about to be written."""

    def trained(self) -> Any:
        """What it makes of the compared rows."""
        ...

    def write(self, folder: Path) -> None:
        """Its files."""
        ...

    def measure(self, folder: Path, texts: Sequence[str], trained: Any) -> LabelParity:
        """What the files say beside `trained`, and whether `texts` are read alike."""
        ...


def has_task(located: Located) -> bool:
    """Whether a model does something else than go on with texts: it has a head, or is no decoder."""
    spec = read_task(located.adapter or located.model)
    headed = spec is not None and spec.kind in LABELLING and not getattr(spec, "verbalised", False)
    return headed or family_of(read_object(located.model / "config.json")) != "decoder"


OPENERS: dict[str, Callable[..., tuple[Opened, str]]] = {"onnx": open_for_onnx, "merged": open_for_merging}


def export_task(
    located: Located, to: str, out: Path, *, rows: int, texts: int, say: Say, data: str | None = None
) -> Artifact:
    """Write the model as `to` into the folder `out`, which appears only after the parity gate was passed."""
    kind, precision = parse_kind(to)
    if kind not in OPENERS:
        raise UsageError(
            f"{kind} is for models that go on with texts", where=located.name, why="this model has a task of its own",
            fix="--to merged, --to onnx (encoders), or the run's model/ folder, which PEFT or transformers reads",
        )  # fmt: skip
    if precision != "fp32":
        raise UsageError(
            f"a model with a task of its own is written in fp32, not {precision}", where="to", fix=f"--to {kind}"
        )
    facts = facts_of(located)
    refuse_occupied(out)
    opened, task = OPENERS[kind](located, rows=rows, data=data, say=say)
    say("parity: the trained model predicts")
    trained = opened.trained()
    with workspace(out) as folder:
        say(f"writing {kind}:{precision}")
        opened.write(folder)
        say(f"parity: {kind} is opened and predicts")
        parity = opened.measure(folder, hard_texts(texts), trained)
        enforce(parity, f"{located.name} as {kind}:{precision}")
        return finish(folder, out, kind, precision, facts, parity, task, stamp(located))
