"""Wrong answers among instruction pairs: a tenth of the answers are swapped, and ranked by a chat model's surprise.

    python bench/data/surprise.py --data ../shared/data/bench/dolly_train.jsonl --rows 200

Three seeds, pooled. "flagged" are the rows of `data check --labels`; "by loss alone" ranks all rows by the model's loss on the
answer, and takes as many. The area under the ROC curve is that of the ratio.
"""

import argparse
import json
import random
from dataclasses import replace
from pathlib import Path

import numpy as np
from sklearn.metrics import roc_auc_score

from tutelage.curate.judge import rows_of
from tutelage.curate.surprise import measure
from tutelage.data.types import Conversation
from tutelage.methods.opening import open_model

WRONG = 0.1


def swapped(rows: list[Conversation], seed: int, count: int) -> tuple[list[Conversation], np.ndarray]:
    """`count` of the rows, a tenth of which have the answer of another one of that tenth, and which those are."""
    draw = random.Random(seed)
    chosen = draw.sample(rows, count)
    wrong = draw.sample(range(count), round(WRONG * count))
    result = list(chosen)
    for i, j in zip(wrong, wrong[1:] + wrong[:1]):
        result[i] = replace(chosen[i], messages=(*chosen[i].messages[:-1], chosen[j].messages[-1]))
    return result, np.isin(np.arange(count), wrong)


def one_seed(rows: list[Conversation], seed: int, count: int, model: str) -> dict[str, float]:
    mixed, wrong = swapped(rows, seed, count)
    places = {row.at: i for i, row in enumerate(mixed)}
    found = list(measure(mixed, open_model(model), print))
    ratio, loss = np.zeros(count), np.zeros(count)
    for each in found:
        ratio[places[each.at]], loss[places[each.at]] = each.ratio, each.loss
    flagged = ratio >= 1
    plain = np.argsort(-loss)[: flagged.sum()]
    return {
        "judged": len(found), "wrong": int(wrong.sum()), "flagged": int(flagged.sum()),
        "right": int(wrong[flagged].sum()), "right_by_loss_alone": int(wrong[plain].sum()),
        "roc_auc": float(roc_auc_score(wrong, ratio)), "roc_auc_of_loss_alone": float(roc_auc_score(wrong, loss)),
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=Path("../shared/data/bench/dolly_train.jsonl"))
    parser.add_argument("--rows", type=int, default=200)
    parser.add_argument("--model", default="smollm2-135m")
    given = parser.parse_args()
    rows = rows_of([str(given.data)], None).conversations
    seeds = [one_seed(rows, seed, given.rows, given.model) for seed in range(3)]
    total = {key: sum(seed[key] for seed in seeds) for key in ("wrong", "flagged", "right", "right_by_loss_alone")}
    summary = {
        **total, "precision": total["right"] / total["flagged"], "recall": total["right"] / total["wrong"],
        "precision_by_loss_alone": total["right_by_loss_alone"] / total["flagged"],
        **{key: float(np.mean([seed[key] for seed in seeds])) for key in ("roc_auc", "roc_auc_of_loss_alone")},
    }  # fmt: skip
    print(json.dumps({"seeds": seeds, "pooled": summary}, indent=2))


if __name__ == "__main__":
    main()
