"""Our scores of real predictions beside those of scikit-learn, seqeval, sacrebleu, rouge-score and torchmetrics' SQuAD script.

    tutelage evaluate RUN --data TEST --out DIR        # writes DIR/tuned.jsonl
    python bench/statistics/parity.py DIR/tuned.jsonl ...

Exit code 1 where a score differs by more than 1e-6 of its range. Answers with several references are compared where the other
side knows several.
"""

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import sacrebleu
import sklearn.metrics as sk
from rouge_score.rouge_scorer import RougeScorer
from seqeval import metrics as se
from torchmetrics.functional.text import squad

from tutelage.evaluate.files import read_predictions
from tutelage.metrics import METRICS, Prediction
from tutelage.metrics.statistics import value_of

MOST = 1e-6
Reference = Callable[[Sequence[Prediction]], float]


def pairs(rows: Sequence[Prediction]) -> tuple[list[str], list[str]]:
    """References and outputs of rows with one label."""
    return [str(one.reference) for one in rows], [str(one.output) for one in rows]


def tags(rows: Sequence[Prediction]) -> tuple[list[list[str]], list[list[str]]]:
    """References and outputs of tagged rows."""
    return [list(one.reference) for one in rows], [list(one.output) for one in rows]  # type: ignore[arg-type]


def answers(rows: Sequence[Prediction]) -> dict[str, float]:
    """The SQuAD script's two scores, in per cent."""
    given = [{"id": str(i), "prediction_text": one.text} for i, one in enumerate(rows)]
    right = [
        {"id": str(i), "answers": {"text": list(one.texts), "answer_start": [0] * len(one.texts)}}
        for i, one in enumerate(rows)
    ]
    return {name: float(value) for name, value in squad(given, right).items()}  # type: ignore[arg-type]


def rouge(rows: Sequence[Prediction], kind: str) -> float:
    """The mean F1 of one kind, the best of several references."""
    scorer = RougeScorer([kind])
    return sum(scorer.score_multi(list(one.texts), one.text)[kind].fmeasure for one in rows) / len(rows)


def corpus(rows: Sequence[Prediction]) -> tuple[list[str], list[list[str]]]:
    """Outputs, and one list of references: sacrebleu wants as many for every row."""
    return [one.text for one in rows], [[one.texts[0] for one in rows]]


LABELS: dict[str, Reference] = {
    "accuracy": lambda rows: sk.accuracy_score(*pairs(rows)),
    "mcc": lambda rows: sk.matthews_corrcoef(*pairs(rows)),
    **{f"f1_{average}": lambda rows, a=average: sk.f1_score(*pairs(rows), average=a, zero_division=0)  # type: ignore[misc]
       for average in ("micro", "macro", "weighted")},
}  # fmt: skip
TAGS: dict[str, Reference] = {
    "entity_f1": lambda rows: se.f1_score(*tags(rows)), "entity_precision": lambda rows: se.precision_score(*tags(rows)),
    "entity_recall": lambda rows: se.recall_score(*tags(rows)), "tag_accuracy": lambda rows: se.accuracy_score(*tags(rows)),
    "entity_f1_macro": lambda rows: se.f1_score(*tags(rows), average="macro"),
}  # fmt: skip
ANSWERS: dict[str, Reference] = {
    "exact_match": lambda rows: answers(rows)["exact_match"] / 100, "token_f1": lambda rows: answers(rows)["f1"] / 100,
}  # fmt: skip
TEXTS: dict[str, Reference] = {
    "bleu": lambda rows: sacrebleu.corpus_bleu(*corpus(rows)).score,
    "chrf": lambda rows: sacrebleu.corpus_chrf(*corpus(rows)).score,
    "ter": lambda rows: sacrebleu.corpus_ter(*corpus(rows)).score,
    **{f"rouge_{kind}": lambda rows, k=kind: rouge(rows, f"rouge{k.upper() if k == 'l' else k}") for kind in ("1", "2", "l")},  # type: ignore[misc]
}  # fmt: skip


def references_of(rows: Sequence[Prediction]) -> dict[str, Reference]:
    """The scores that fit these rows, by our names."""
    first = rows[0]
    if isinstance(first.output, tuple):
        return TAGS
    if first.scores:
        return LABELS
    one_each = all(len(one.texts) == 1 for one in rows)
    answered = all(one.texts for one in rows)
    return {**(ANSWERS if answered else {}), **(TEXTS if one_each else {})}


def main() -> int:
    """Compare every file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+", type=Path)
    worst = 0.0
    for file in parser.parse_args().files:
        rows = read_predictions(file)
        for name, theirs in references_of(rows).items():
            statistic = METRICS.get(name)(rows)
            mine, other = value_of(statistic), theirs(rows)
            apart = abs(mine - other) / statistic.about.high
            worst = max(worst, apart)
            print(f"{file.parent.name:<12} {len(rows):>6,} rows  {name:<16} {mine:.8f} {other:.8f}  {apart:.1e}")
    print(f"largest difference {worst:.1e} (wanted: {MOST:.0e})")
    return int(worst > MOST)


if __name__ == "__main__":
    sys.exit(main())
