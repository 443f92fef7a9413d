"""An encoder's export: the trained model predicts first, the file is written, opened again, compared, and only then appears."""

from collections.abc import Callable
from pathlib import Path

from tutelage.export.artifact import Artifact, finish, refuse_occupied, stamp, workspace
from tutelage.export.card import facts_of
from tutelage.export.label_parity import enforce
from tutelage.export.onnx_file import open_for_onnx
from tutelage.export.prompts import hard_texts
from tutelage.methods.opening import Located

Say = Callable[[str], None]


def export_onnx(located: Located, out: Path, *, rows: int, texts: int, say: Say, data: str | None = None) -> Artifact:
    """Write the encoder as ONNX into the folder `out`, which appears only after the parity gate was passed."""
    facts = facts_of(located)
    refuse_occupied(out)
    opened, task = open_for_onnx(located, rows=rows, data=data, say=say)
    say("parity: the trained model predicts")
    trained = opened.trained()
    with workspace(out) as folder:
        say("writing onnx:fp32")
        opened.write(folder)
        say("parity: onnxruntime predicts")
        parity = opened.measure(folder, hard_texts(texts), trained)
        enforce(parity, f"{located.name} as onnx:fp32")
        return finish(folder, out, "onnx", "fp32", facts, parity, task, stamp(located))
