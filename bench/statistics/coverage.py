"""How often 95 % intervals cover the truth, and how often two equal models are called different.

    python bench/statistics/coverage.py [--trials 1000] [--rows 100 300] [--seed 0] [--json FILE]

Each family is a population of 20,000 simulated rows, scored once by the real metric. A trial draws rows from it with
replacement, so the truth is the population's score, and asks `estimate` for an interval as `tutelage evaluate` does.
For `compare` two systems have each row's two outputs in random order: they are equal, and only their errors differ.
Acceptance: 93 to 97 % cover, and at most 7 % are called different.
"""

import argparse
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from tutelage.data.types import At
from tutelage.metrics import METRICS, Likelihood, Prediction, difference, estimate
from tutelage.metrics.statistics import Statistic, Summed, Weighted, value_of

POPULATION = 20_000
WORDS = [f"{a}{b}{c}" for a in "bdfgklmnprst" for b in "aeiou" for c in ("", "n", "r", "s")]
TYPES = ("PER", "LOC", "ORG", "DATE")


@dataclass(frozen=True)
class Family:
    """A metric with two outputs for every row of a population, and the number of rows that share a document."""

    name: str
    first: Statistic
    second: Statistic
    per_group: int = 1


def one(index: int, reference: object, output: object, likelihood: Likelihood | None = None) -> Prediction:
    return Prediction(At("simulated", index + 1), "", reference, output, likelihood=likelihood)  # type: ignore[arg-type]


def labels(rng: np.random.Generator, size: int, classes: int, right: float) -> list[list[Prediction]]:
    """Classes with sizes as 1, 1/2, 1/3, ...; both systems err more on the same hard rows."""
    share = 1 / np.arange(1, classes + 1)
    truth = rng.choice(classes, size=size, p=share / share.sum())
    hard = rng.normal(size=size)
    systems = []
    for _ in range(2):
        hit = hard + rng.normal(size=size) < np.sqrt(2) * _normal_quantile(right)
        given = np.where(hit, truth, rng.integers(classes, size=size))
        systems.append([one(i, f"c{t}", f"c{g}") for i, (t, g) in enumerate(zip(truth, given))])
    return systems


def entities(rng: np.random.Generator, size: int) -> list[list[Prediction]]:
    """Sentences with 0 to 5 entities; a system misses one, cuts it or gets its type wrong, more so in hard sentences."""
    systems: list[list[Prediction]] = [[], []]
    for index in range(size):
        count = int(rng.poisson(1.2))
        hard = float(rng.beta(1.2, 2.0))
        kinds = [str(rng.choice(TYPES)) for _ in range(count)]
        right = [tag for kind in kinds for tag in (f"B-{kind}", f"I-{kind}", "O")] or ["O"]
        for system in systems:
            given: list[str] = []
            for kind in kinds:
                if rng.random() > hard:
                    given += [f"B-{kind}", f"I-{kind}", "O"]
                else:
                    other = str(rng.choice(TYPES))
                    errors = (["O", "O", "O"], [f"B-{kind}", "O", "O"], [f"B-{other}", f"I-{other}", "O"])
                    given += errors[int(rng.integers(3))]
            given = given or (["B-PER"] if rng.random() < 0.05 else ["O"])
            system.append(one(index, tuple(right), tuple(given)))
    return systems


def answers(rng: np.random.Generator, size: int) -> list[list[Prediction]]:
    """Short answers: half of them exactly right, a fifth nothing in common, the rest a word too many or too few."""
    systems: list[list[Prediction]] = [[], []]
    for index in range(size):
        right = [str(w) for w in rng.choice(WORDS, size=int(rng.integers(1, 5)))]
        for system in systems:
            kind = rng.random()
            other = [str(rng.choice(WORDS))]
            given = (
                right if kind < 0.5 else other if kind < 0.7 else right[1:] + other if kind < 0.85 else right + other
            )
            system.append(one(index, " ".join(right), " ".join(given)))
    return systems


def sentences(rng: np.random.Generator, size: int) -> list[list[Prediction]]:
    """Sentences of 3 to 40 words; a system changes or drops words, more so in hard sentences."""
    systems: list[list[Prediction]] = [[], []]
    for index in range(size):
        right = [str(w) for w in rng.choice(WORDS, size=int(3 + rng.gamma(2.0, 6.0)))]
        hard = float(rng.beta(1.5, 3.5))
        for system in systems:
            given = [str(rng.choice(WORDS)) if rng.random() < hard else word for word in right]
            system.append(one(index, " ".join(right), " ".join(w for w in given if rng.random() > hard / 4)))
    return systems


def losses(rng: np.random.Generator, size: int) -> list[list[Prediction]]:
    """Answers of 5 to 200 tokens whose loss per token varies by the row and, more for short ones, by the token."""
    tokens = (5 + rng.gamma(1.5, 30.0, size=size)).astype(int)
    level = rng.lognormal(0.5, 0.5, size=size)
    systems = []
    for _ in range(2):
        nats = level * rng.gamma(tokens * 0.5, 2.0)
        rows = [Likelihood(float(x), int(n), 4 * int(n)) for x, n in zip(nats, tokens)]
        systems.append([one(i, "", "", row) for i, row in enumerate(rows)])
    return systems


def documents(rng: np.random.Generator, size: int, per_group: int) -> list[list[Prediction]]:
    """Questions of which `per_group` in a row share a document and its difficulty."""
    share = np.repeat(rng.beta(3.0, 1.5, size=size // per_group), per_group)
    return [[one(i, "yes", "yes" if hit else "no") for i, hit in enumerate(rng.random(size) < share)] for _ in range(2)]


def families(seed: int, size: int = POPULATION) -> list[Family]:
    """The populations, scored by the real metrics."""
    rng = np.random.default_rng(seed)

    def family(name: str, metric: str, systems: list[list[Prediction]], per_group: int = 1) -> Family:
        first, second = (METRICS.get(metric)(rows) for rows in systems)
        return Family(name, first, second, per_group)

    three, many = labels(rng, size, 3, 0.85), labels(rng, size, 8, 0.8)
    likely = losses(rng, size)
    return [
        family("accuracy (0.9)", "accuracy", three),
        family("accuracy (0.98)", "accuracy", labels(rng, size, 3, 0.97)),
        family("macro F1, 3 classes", "f1_macro", three),
        family("macro F1, 8 classes", "f1_macro", many),
        family("MCC, 8 classes", "mcc", many),
        family("entity F1", "entity_f1", entities(rng, size)),
        family("token F1", "token_f1", answers(rng, size)),
        family("BLEU", "bleu", sentences(rng, size // 4)),
        family("mean loss", "loss", likely),
        family("perplexity", "perplexity", likely),
        family("accuracy, 5 rows a document", "accuracy", documents(rng, size, 5), per_group=5),
    ]


def picked(statistic: Statistic, index: np.ndarray) -> Statistic:
    """The statistic of the rows at `index`."""
    if isinstance(statistic, Weighted):
        raise TypeError("a statistic of weights has no rows to pick")
    return replace(statistic, rows=statistic.rows[index])


def drawn(rng: np.random.Generator, family: Family, rows: int) -> tuple[np.ndarray, list[str]]:
    """Row numbers of a sample, by whole documents, with the names of their documents."""
    size = family.per_group
    groups = rng.integers(len(family.first) // size, size=max(1, rows // size))
    index = (groups[:, None] * size + np.arange(size)).ravel()
    return index, [str(number) for number in np.repeat(np.arange(len(groups)), size)] if size > 1 else []


def coverage(family: Family, rows: int, trials: int, seed: int, resamples: int) -> float:
    """The share of trials whose interval holds the population's score."""
    rng = np.random.default_rng([seed, rows, 1])
    truth, covered = value_of(family.first), 0
    for trial in range(trials):
        index, groups = drawn(rng, family, rows)
        found = estimate(picked(family.first, index), groups, seed=trial, resamples=resamples)
        covered += found.low <= truth <= found.high
    return covered / trials


def called_different(family: Family, rows: int, trials: int, seed: int) -> float:
    """The share of trials in which `difference` does not say that it cannot tell two equal systems apart."""
    rng = np.random.default_rng([seed, rows, 2])
    wrong = 0
    for _ in range(trials):
        index, groups = drawn(rng, family, rows)
        swap = np.repeat(rng.random(len(index) // family.per_group) < 0.5, family.per_group)
        first, second = picked(family.first, index), picked(family.second, index)
        assert isinstance(first, Summed)
        assert isinstance(second, Summed)
        mixed = [np.where(swap[:, None] == side, first.rows, second.rows) for side in (True, False)]
        found = difference(replace(first, rows=mixed[0]), replace(second, rows=mixed[1]), groups)
        wrong += found.verdict != "cannot tell"
    return wrong / trials


def _normal_quantile(p: float) -> float:
    from statistics import NormalDist

    return NormalDist().inv_cdf(p)


def run(trials: int, sizes: Sequence[int], seed: int, resamples: int, wanted: str = "") -> list[dict[str, object]]:
    found: list[dict[str, object]] = []
    print(f"{'score':30} {'rows':>5} {'covered':>8} {'called different':>17} {'seconds':>8}")
    for family in families(seed):
        if wanted not in family.name:
            continue
        for rows in sizes:
            start = time.perf_counter()
            held = coverage(family, rows, trials, seed, resamples)
            wrong = called_different(family, rows, trials, seed)
            fine = 0.93 <= held <= 0.97 and wrong <= 0.07
            found.append({"score": family.name, "rows": rows, "covered": held, "called_different": wrong, "ok": fine})
            seconds = time.perf_counter() - start
            print(
                f"{family.name:30} {rows:5} {held:8.1%} {wrong:17.1%} {seconds:8.1f} {'' if fine else '  <--'}",
                flush=True,
            )
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=1000)
    parser.add_argument("--rows", type=int, nargs="+", default=[100, 300])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--resamples", type=int, default=2000)
    parser.add_argument("--only", default="", help="families whose name holds this")
    parser.add_argument("--json", help="write the table here")
    given = parser.parse_args()
    found = run(given.trials, given.rows, given.seed, given.resamples, given.only)
    if given.json:
        with open(given.json, "w", encoding="utf-8") as file:
            json.dump(found, file, indent=2)
    return 0 if all(row["ok"] for row in found) else 1


if __name__ == "__main__":
    raise SystemExit(main())
