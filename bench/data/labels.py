"""Wrong labels on banking77 with a quarter of the training labels flipped: what is found, and what cleaning brings back.

    python bench/data/labels.py --data ../shared/data/classify/banking77 --encoder minilm-l6

Three seeds, pooled. "plain" ranks all rows by the out-of-fold probability of their own label and takes as many as were flagged.
The classifier that is trained on noisy, cleaned and clean labels is the same linear model on the same vectors.
"""

import argparse
import csv
import json
from pathlib import Path

import numpy as np
from sklearn.linear_model import LogisticRegression

from tutelage.curate.embed import embed
from tutelage.curate.labels import SHARPNESS, STEPS, judge, out_of_fold
from tutelage.models.fetch import fetch
from tutelage.models.ref import parse_ref

NOISE = 0.25


def rows_of(path: Path) -> tuple[list[str], list[str]]:
    with open(path, encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    return [row["text"] for row in rows], [row["category"] for row in rows]


def vectors_of(texts: list[str], encoder: Path, cache: Path) -> np.ndarray:
    if not cache.is_file():
        np.save(cache, embed(texts, encoder, print))
    return np.load(cache)


def accuracy(x: np.ndarray, y: np.ndarray, test_x: np.ndarray, test_y: np.ndarray) -> float:
    return float(LogisticRegression(C=SHARPNESS, max_iter=STEPS).fit(x, y).score(test_x, test_y))


def one_seed(seed: int, x: np.ndarray, y: np.ndarray, test_x: np.ndarray, test_y: np.ndarray) -> dict[str, float]:
    draw = np.random.default_rng(seed)
    flipped = draw.random(len(y)) < NOISE
    noisy = np.where(flipped, (y + draw.integers(1, y.max() + 1, len(y))) % (y.max() + 1), y)
    found, probabilities = judge(x, noisy, seed=seed)
    plain = np.argsort(out_of_fold(x, noisy, seed=seed)[np.arange(len(y)), noisy])[: len(found)]
    keep = np.ones(len(y), bool)
    keep[found] = False
    relabelled = noisy.copy()
    relabelled[found] = probabilities.argmax(1)[found]
    return {
        "flipped": int(flipped.sum()), "flagged": len(found), "right": int(flipped[found].sum()),
        "plain_right": int(flipped[plain].sum()),
        "clean": accuracy(x, y, test_x, test_y), "noisy": accuracy(x, noisy, test_x, test_y),
        "dropped": accuracy(x[keep], noisy[keep], test_x, test_y), "relabelled": accuracy(x, relabelled, test_x, test_y),
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--encoder", default="minilm-l6")
    parser.add_argument("--cache", type=Path, default=Path("/tmp"))
    parser.add_argument("--seeds", type=int, default=3)
    given = parser.parse_args()
    encoder = Path(given.encoder) if Path(given.encoder).is_dir() else fetch(parse_ref(given.encoder), say=print).path
    (texts, labels), (test_texts, test_labels) = (rows_of(given.data / f"{part}.csv") for part in ("train", "test"))
    names = {name: index for index, name in enumerate(sorted(set(labels)))}
    x = vectors_of(texts, encoder, given.cache / "banking77-train.npy")
    test_x = vectors_of(test_texts, encoder, given.cache / "banking77-test.npy")
    y, test_y = (np.array([names[label] for label in each]) for each in (labels, test_labels))
    runs = []
    for seed in range(given.seeds):
        runs.append(one_seed(seed, x, y, test_x, test_y))
        print(json.dumps(runs[-1]), flush=True)
    total = {key: sum(run[key] for run in runs) for key in runs[0]}
    loss = total["clean"] - total["noisy"]
    result = {
        "precision": total["right"] / total["flagged"], "recall": total["right"] / total["flipped"],
        "plain_precision": total["plain_right"] / total["flagged"], "plain_recall": total["plain_right"] / total["flipped"],
        **{key: total[key] / len(runs) for key in ("clean", "noisy", "dropped", "relabelled")},
        "recovered_by_dropping": (total["dropped"] - total["noisy"]) / loss,
        "recovered_by_relabelling": (total["relabelled"] - total["noisy"]) / loss,
    }  # fmt: skip
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
