"""One scorer for both sides: predictions of a saved model, a value per test row, and paired bootstrap intervals."""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np

from tutelage.data.prepare import prepare
from tutelage.metrics.types import Prediction
from tutelage.recipe import DataSpec
from tutelage.tasks import TASKS
from tutelage.tasks.extract import Extractor
from tutelage.tasks.opening import open_for_task
from tutelage.tasks.schemes import spans
from tutelage.taskspec import TASKS as SPECS

RESAMPLES = 2000


def normalised(text: str) -> list[str]:
    """SQuAD's normalisation: lower case, no punctuation, no articles."""
    kept = "".join(c for c in text.lower() if c.isalnum() or c.isspace())
    return [word for word in kept.split() if word not in ("a", "an", "the")]


def token_f1(output: str, answers: tuple[str, ...]) -> float:
    def one(answer: str) -> float:
        ours, theirs = normalised(output), normalised(answer)
        if not ours or not theirs:
            return float(ours == theirs)
        both = sum(min(ours.count(word), theirs.count(word)) for word in set(ours))
        return 2 * both / (len(ours) + len(theirs)) if both else 0.0

    return max((one(answer) for answer in answers), default=float(not output))


def row_values(task: str, predictions: list[Prediction]) -> np.ndarray:
    """[rows, k]: what the score is a function of. classify: right. extract: F1. tag: hits, predicted, true entities."""
    if task == "classify":
        return np.array([[float(p.output == p.reference)] for p in predictions])
    if task == "extract":
        return np.array([[token_f1(p.text, p.texts)] for p in predictions])
    found = []
    for p in predictions:
        ours, true = set(spans(tuple(p.output))), set(spans(tuple(p.reference)))  # type: ignore[arg-type]
        found.append([len(ours & true), len(ours), len(true)])
    return np.array(found, dtype=float)


def score(values: np.ndarray) -> float:
    """In percent."""
    if values.shape[1] == 1:
        return 100 * float(values.mean())
    hits, ours, true = values.sum(0)
    return 200 * hits / max(1.0, ours + true)


def difference(ours: list[np.ndarray], theirs: list[np.ndarray]) -> dict[str, float]:
    """Mean score difference over seeds with a 95 % interval: test rows are resampled, the same ones for both sides."""
    draw = np.random.default_rng(0)
    rows = len(ours[0])

    def gap(at: np.ndarray) -> float:
        return float(np.mean([score(v[at]) for v in ours]) - np.mean([score(v[at]) for v in theirs]))

    gaps = sorted(gap(draw.integers(0, rows, rows)) for _ in range(RESAMPLES))
    return {"value": gap(np.arange(rows)), "low": gaps[int(0.025 * RESAMPLES)], "high": gaps[int(0.975 * RESAMPLES)]}


def predictions_of(model: str, test: str, task: dict[str, Any], length: int) -> list[Prediction]:
    spec = SPECS[task["kind"]].model_validate(task)
    accepts = TASKS.get(task["kind"]).accepts(spec)
    rows = prepare(DataSpec(train=[test]), seed=0, accepts=lambda source: accepts).train
    opened = open_for_task(model, task=None if (Path(model) / "manifest.json").is_file() else spec, max_tokens=length)
    assert task["kind"] != "extract" or isinstance(opened.task, Extractor)
    return opened.predict(rows)


def with_labels(model: Path, task: dict[str, Any]) -> dict[str, Any]:
    """The task with the label order of a model that the Trainer saved."""
    if (model / "task.json").is_file() or task["kind"] == "extract" or not (model / "config.json").is_file():
        return task
    names = json.loads((model / "config.json").read_text())["id2label"]
    return {**task, "labels": [names[str(i)] for i in range(len(names))]}


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", required=True)
    parser.add_argument("--test", required=True)
    parser.add_argument("--task", required=True)
    parser.add_argument("--length", type=int, required=True)
    parser.add_argument("--out", required=True)
    given = parser.parse_args()
    task = with_labels(Path(given.model), json.loads(given.task))
    found = predictions_of(given.model, given.test, task, given.length)
    values = row_values(task["kind"], found)
    np.save(given.out, values)
    print(json.dumps({"score": score(values), "rows": len(values)}))
