"""Wrong tags found in wnut17 with tags flipped at random: precision and recall, against plain self-confidence.

python bench/data/tags.py TRAIN_FILE [--rows 3393] [--share 0.05] [--seeds 3] [--encoder minilm-l6]
"""

import argparse
import json
from pathlib import Path

import numpy as np
import torch

from tutelage.curate.judge import examples_of
from tutelage.curate.labels import out_of_fold
from tutelage.curate.tags import embed_words, find_tag_issues
from tutelage.data.rows import Tagged
from tutelage.models.fetch import fetch
from tutelage.models.ref import parse_ref


def flipped(rows, share, seed):
    """The rows with a share of the tags replaced by another one that occurs, and the places of those."""
    draw = np.random.default_rng(seed)
    names = sorted({tag for row in rows for tag in row.tags})
    found, places = [], set()
    for number, row in enumerate(rows):
        tags = list(row.tags)
        for word in np.flatnonzero(draw.random(len(tags)) < share).tolist():
            tags[word] = str(draw.choice([name for name in names if name != tags[word]]))
            places.add((number, word))
        found.append(Tagged(row.words, tuple(tags), row.at))
    return found, places


def by_confidence(rows, folder, count, seed):
    """The `count` words with the least probable tags, by one round of out-of-fold probabilities."""
    vectors, places = embed_words(rows, folder, print)
    names = sorted({tag for row in rows for tag in row.tags})
    tags = np.array([names.index(rows[row].tags[word]) for row, word in places.tolist()])
    given = out_of_fold(vectors, tags, seed=seed, groups=places[:, 0])[np.arange(len(tags)), tags]
    return {tuple(places[i].tolist()) for i in np.argsort(given)[:count]}


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("file")
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--share", type=float, default=0.05)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--encoder", default="minilm-l6")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    folder = Path(asked.encoder) if Path(asked.encoder).is_dir() else fetch(parse_ref(asked.encoder), say=print).path
    clean = examples_of([asked.file], "tagged")[1][: asked.rows]
    number = {row.at: place for place, row in enumerate(clean)}
    sums = np.zeros(5)
    for seed in range(asked.seeds):
        rows, wrong = flipped(clean, asked.share, seed)
        listed = {(number[each.issue.at], each.word - 1) for each in find_tag_issues(rows, folder, print, seed=seed)}
        plain = by_confidence(rows, folder, len(listed), seed)
        sums += [len(wrong), len(listed), len(listed & wrong), len(plain), len(plain & wrong)]
        print(json.dumps({"seed": seed, "flipped": len(wrong), "flagged": len(listed), "right": len(listed & wrong)}))
    total, listed, right, plain, plain_right = sums
    print(json.dumps({
        "rows": len(clean), "precision": right / listed, "recall": right / total,
        "self_confidence_precision": plain_right / plain, "self_confidence_recall": plain_right / total,
    }))  # fmt: skip
