"""The one scorer for every adapter: held-out loss in nats per target token, fp32, one row at a time.

    python bench/quality/score.py --model DIR --data heldout.jsonl ADAPTER… > scores.json

The base model is scored first. Ids and targets come from tutelage.encode, whoever trained the adapter. With
--plain, the same rows go through peft and transformers alone, as a check on this scorer.
"""

import argparse
import json
import math
import sys
from pathlib import Path

import torch
from peft import PeftModel

from tutelage.data.prepare import prepare
from tutelage.encode.contract import fit
from tutelage.encode.layout import make_layout
from tutelage.encode.types import Encoded
from tutelage.engine.backbone import make_backbone
from tutelage.methods.lora import attach
from tutelage.models.load import load_model
from tutelage.recipe import DataSpec
from tutelage.tasks import chat
from tutelage.train.material import open_template

MAX_TOKENS = 512  # as in training; longer rows lose their end


def encoded_rows(model: Path, data: Path, max_tokens: int = MAX_TOKENS) -> tuple[Encoded, ...]:
    """The rows of `data` as ids and targets; a row that is lost on the way is an error."""
    prepared = prepare(DataSpec.model_validate({"train": [str(data)]}), seed=0)
    fitted = fit(open_template(model).encode(prepared.train), max_tokens, "truncate")
    if prepared.dropped or fitted.dropped:
        raise SystemExit(f"rows were dropped: {[str(row) for row in (*prepared.dropped, *fitted.dropped)][:5]}")
    return fitted.rows


@torch.no_grad()
def losses(model: Path, adapter: Path | None, rows: tuple[Encoded, ...]) -> list[float]:
    """The summed loss of each row in nats, through tutelage's own model path."""
    backbone = make_backbone(load_model(model, dtype=torch.float32))
    if adapter is not None:
        attach(backbone.model, adapter)
    return [chat.loss(backbone, make_layout([row], share_prefix=False)).value for row in rows]


@torch.no_grad()
def plain_losses(model: Path, adapter: Path | None, rows: tuple[Encoded, ...]) -> list[float]:
    """The same through peft and transformers alone: all logits, torch's cross_entropy."""
    loaded = load_model(model, dtype=torch.float32)
    if adapter is not None:
        loaded = PeftModel.from_pretrained(loaded, str(adapter)).eval()
    sums = []
    for row in rows:
        ids = torch.from_numpy(row.ids.astype("int64"))
        logits = loaded(input_ids=ids[None], use_cache=False).logits[0, :-1].double()
        each = torch.nn.functional.cross_entropy(logits, ids[1:], reduction="none")
        sums.append(float((each * torch.from_numpy(row.weights[1:]).double()).sum()))
    return sums


def main() -> None:
    """Score the base model and every adapter; one JSON document on stdout."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("adapters", nargs="*", type=Path, metavar="ADAPTER", help="PEFT adapter folders")
    parser.add_argument("--model", required=True, type=Path, help="the base model's folder")
    parser.add_argument("--data", required=True, type=Path, help="held-out rows (JSON Lines with `messages`)")
    parser.add_argument("--plain", action="store_true", help="through peft and transformers alone")
    options = parser.parse_args()
    rows = encoded_rows(options.model, options.data)
    targets = [float(row.weights[1:].sum()) for row in rows]
    score = plain_losses if options.plain else losses
    result = {
        "rows": len(rows),
        "targets": math.fsum(targets),
        "cut": sum(row.cut for row in rows),
        "row_targets": targets,
    }
    scored = []
    for adapter in (None, *options.adapters):
        sums = score(options.model, adapter, rows)
        loss = math.fsum(sums) / math.fsum(targets)
        name = "base" if adapter is None else str(adapter)
        print(f"{name}: {loss:.5f} nats per target token", file=sys.stderr, flush=True)
        scored.append({"adapter": name, "loss": loss, "row_losses": [round(value, 5) for value in sums]})
    print(json.dumps({**result, "through": "peft" if options.plain else "tutelage", "scores": scored}))


if __name__ == "__main__":
    main()
