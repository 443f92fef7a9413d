"""The one scorer for every adapter and model: held-out loss in nats per target token, fp32, one row at a time.

    python bench/quality/score.py --model DIR --data heldout.jsonl [ADAPTER_OR_MODEL] > score.json

Without an adapter or tuned model the untouched one is scored. Ids and targets come from tutelage.encode, whoever trained.
With --plain, the same rows go through peft and transformers alone, as a check on this scorer.
"""

import argparse
import json
import math
import sys
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from harness.rows import encoded_rows

from tutelage.encode.layout import make_layout
from tutelage.encode.types import Encoded
from tutelage.engine.backbone import make_backbone
from tutelage.methods.lora import attach
from tutelage.methods.qlora import dequantise, load_base, read_quantisation
from tutelage.models.load import load_model
from tutelage.tasks import chat


def is_adapter(folder: Path) -> bool:
    """Whether a folder holds a PEFT adapter; else it is a whole model."""
    return (folder / "adapter_config.json").is_file()


def opened(model: Path, tuned: Path | None) -> Any:
    """The base of an adapter, quantised as it was under it; a whole tuned model; or the untouched one."""
    folder = model if tuned is None or is_adapter(tuned) else tuned
    how = read_quantisation(tuned) if tuned is not None else None
    return load_base(lambda dtype: load_model(folder, dtype=dtype), folder, torch.float32, how)


@torch.no_grad()
def losses(model: Path, tuned: Path | None, rows: tuple[Encoded, ...]) -> list[float]:
    """The summed loss of each row in nats, through tutelage's own model path."""
    adapter = tuned is not None and is_adapter(tuned)
    backbone = make_backbone(opened(model, tuned))
    if tuned is not None and adapter:
        attach(backbone.model, tuned)
    return [chat.loss(backbone, make_layout([row], share_prefix=False)).value for row in rows]


@torch.no_grad()
def plain_losses(model: Path, tuned: Path | None, rows: tuple[Encoded, ...]) -> list[float]:
    """The same through peft and transformers alone: all logits, torch's cross_entropy."""
    adapter = tuned is not None and is_adapter(tuned)
    loaded = opened(model, tuned).eval()
    dequantise(loaded)
    if adapter:
        loaded = PeftModel.from_pretrained(loaded, str(tuned)).eval()
    sums = []
    for row in rows:
        ids = torch.from_numpy(row.ids.astype("int64"))
        logits = loaded(input_ids=ids[None], use_cache=False).logits[0, :-1].double()
        each = torch.nn.functional.cross_entropy(logits, ids[1:], reduction="none")
        sums.append(float((each * torch.from_numpy(row.weights[1:]).double()).sum()))
    return sums


def main() -> None:
    """Score one model; one JSON document on stdout."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tuned", nargs="?", type=Path, metavar="ADAPTER_OR_MODEL", help="a PEFT adapter or a model")
    parser.add_argument("--model", required=True, type=Path, help="the base model's folder")
    parser.add_argument("--data", required=True, type=Path, help="held-out rows (JSON Lines with `messages`)")
    parser.add_argument("--plain", action="store_true", help="through peft and transformers alone")
    options = parser.parse_args()
    rows = encoded_rows(options.model, options.data)
    targets = [float(row.weights[1:].sum()) for row in rows]
    sums = (plain_losses if options.plain else losses)(options.model, options.tuned, rows)
    loss = math.fsum(sums) / math.fsum(targets)
    print(f"{options.tuned or 'untouched'}: {loss:.5f} nats per target token", file=sys.stderr, flush=True)
    result = {
        "scored": str(options.tuned or "untouched"), "through": "plain" if options.plain else "tutelage", "loss": loss,
        "rows": len(rows), "targets": math.fsum(targets), "cut": sum(row.cut for row in rows), "row_targets": targets,
        "row_losses": [round(value, 5) for value in sums],
    }  # fmt: skip
    print(json.dumps(result))


if __name__ == "__main__":
    main()
