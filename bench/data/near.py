"""Near-duplicates: recall and precision against exact Jaccard, and speed beside a hand-written script.

    python bench/data/near.py accuracy --rows 20000
    python bench/data/near.py speed --rows 100000          (needs: pip install rensa==0.5.0 datasketch==2.0.0)

accuracy plants perturbed copies and compares every pair that shares two neighbouring words, in plain Python sets. A pair
counts as found where both rows came into one group; all pairs of a group count as claimed.
speed runs each contender on the same texts, from strings to the list of duplicates, in one process with one thread.
"""

import argparse
import json
import os
import random
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from itertools import pairwise

import numpy as np

from tutelage.data.quality import near
from tutelage.data.quality.keys import spaced, words

THRESHOLD = 0.8


def corpus(count: int, seed: int) -> list[str]:
    """Texts like Dolly's: 10 to 250 words of a natural frequency, a quarter of them perturbed copies."""
    draw = random.Random(seed)
    vocabulary = [f"w{i}" for i in range(40_000)]
    weights = np.cumsum(1 / np.arange(10, 40_010)).tolist()
    texts: list[list[str]] = []
    for _ in range(count):
        if texts and draw.random() < 0.25:
            text = list(draw.choice(texts))
            for _ in range(draw.randrange(0, 1 + len(text) // 9)):
                place = draw.randrange(len(text))
                kind = draw.randrange(3)
                if kind == 0:
                    text[place] = draw.choice(vocabulary)
                elif kind == 1 and len(text) > 5:
                    del text[place]
                else:
                    text.insert(place, draw.choice(vocabulary))
        else:
            text = draw.choices(vocabulary, cum_weights=weights, k=int(draw.triangular(10, 250, 60)))
        texts.append(text)
    return [" ".join(text) for text in texts]


def exact_pairs(texts: list[str]) -> set[tuple[int, int]]:
    """All pairs at the threshold, by the prefix filter (Chaudhuri et al. 2006), which misses none."""
    sets = []
    for text in texts:
        each = words(text)
        sets.append(set(pairwise(each)) or {(word,) for word in each})
    counts = Counter(item for each in sets for item in each)
    index: dict[tuple[str, ...], list[int]] = defaultdict(list)
    found: set[tuple[int, int]] = set()
    for row, each in enumerate(sets):
        ordered = sorted(each, key=lambda item: (counts[item], item))
        prefix = ordered[: len(ordered) - int(np.ceil(THRESHOLD * len(ordered))) + 1]
        for other in {other for item in prefix for other in index[item]}:
            if len(each & sets[other]) >= THRESHOLD * len(each | sets[other]):
                found.add((other, row))
        for item in prefix:
            index[item].append(row)
    return found


def ours(texts: list[str]) -> list[near.Pair]:
    parts = []
    for first in range(0, len(texts), 1000):
        chunk = [spaced(text) for text in texts[first : first + 1000]]
        parts.append(near.sketch(chunk, [""] * len(chunk), THRESHOLD))
    ends = np.cumsum(np.concatenate([np.diff(part.ends, prepend=0) for part in parts]))
    joined = [np.concatenate([getattr(part, name) for part in parts]) for name in ("shingles", "prompts", "bands")]
    return list(near.pairs(near.Sketches(joined[0], joined[1], ends, joined[2]), THRESHOLD))


def accuracy(rows: int) -> dict[str, float]:
    texts = corpus(rows, 7)
    exact, found = exact_pairs(texts), ours(texts)
    named = {(pair.first, pair.second) for pair in found}
    return {
        "rows": rows, "exact_pairs": len(exact), "found_pairs": len(named), "recall": len(exact & named) / len(exact),
        "precision": len(named & exact) / len(named),
    }  # fmt: skip


def with_rensa(texts: list[str]) -> int:
    from rensa import RMinHashDeduplicator

    found = RMinHashDeduplicator(threshold=THRESHOLD, num_perm=128, use_lsh=True)
    bigrams = ((str(i), [f"{a} {b}" for a, b in pairwise(each)]) for i, each in enumerate(map(words, texts)))
    return found.add_pairs(bigrams).count(False)


def with_rensa_words(texts: list[str]) -> int:
    from rensa import RMinHashDeduplicator

    found = RMinHashDeduplicator(threshold=THRESHOLD, num_perm=128, use_lsh=True)
    return found.add_pairs((str(i), text.lower().split()) for i, text in enumerate(texts)).count(False)


def with_datasketch(texts: list[str]) -> int:
    from datasketch import MinHash, MinHashLSH

    index, repeated = MinHashLSH(threshold=THRESHOLD, num_perm=128), 0
    for row, each in enumerate(map(words, texts)):
        sketch = MinHash(num_perm=128)
        sketch.update_batch([f"{a} {b}".encode() for a, b in pairwise(each)])
        repeated += bool(index.query(sketch))
        index.insert(str(row), sketch)
    return repeated


CONTENDERS: dict[str, Callable[[list[str]], int]] = {
    "tutelage": lambda texts: len(ours(texts)),
    "rensa, pairs of words": with_rensa,
    "rensa, single words": with_rensa_words,
    "datasketch, pairs of words": with_datasketch,
}


def speed(rows: int, repeat: int) -> dict[str, dict[str, float]]:
    texts, result = corpus(rows, 7), {}
    for name, contender in CONTENDERS.items():
        times, cpu, found = [], [], 0
        for _ in range(repeat):
            started, before = time.perf_counter(), time.process_time()
            found = contender(texts)
            times.append(time.perf_counter() - started)
            cpu.append(time.process_time() - before)
        result[name] = {
            "duplicates": found,
            "rows_per_second": rows / min(times),
            "rows_per_cpu_second": rows / min(cpu),
        }
        print(name, json.dumps(result[name]), flush=True)
    return result


def main() -> None:
    os.environ.setdefault("RAYON_NUM_THREADS", "1")
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=["accuracy", "speed"])
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--repeat", type=int, default=3)
    given = parser.parse_args()
    print(json.dumps(accuracy(given.rows) if given.what == "accuracy" else speed(given.rows, given.repeat), indent=2))


if __name__ == "__main__":
    main()
