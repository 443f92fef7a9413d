"""The data sets of the task benchmarks, written in the formats that tutelage reads; `theirs` rows are the same ones."""

import csv
import json
import random
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
DATA = next((p / "shared" / "data" for p in ROOT.parents if (p / "shared" / "data").is_dir()), ROOT / "shared" / "data")


@dataclass(frozen=True)
class Set:
    """One comparison: files, the recipe's task, and hyperparameters that both sides use."""

    name: str
    train: Path
    test: Path
    task: dict[str, Any]
    epochs: float
    rate: float
    batch: int
    max_tokens: int
    model: str = "minilm-l6"
    method: Any = "full"
    dropout: float = 0.0  # ours, of hidden values and of attention's weights; the Trainer's are the model's own, 0.1


def write(path: Path, rows: Iterable[dict[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def some(rows: list[dict[str, Any]], most: int | None) -> list[dict[str, Any]]:
    return rows if most is None or most >= len(rows) else random.Random(0).sample(rows, most)


def banking77(data: Path, out: Path, most: int | None) -> Set:
    def rows(part: str) -> list[dict[str, Any]]:
        with open(data / f"classify/banking77/{part}.csv", encoding="utf-8", newline="") as file:
            return [{"text": row["text"], "label": row["category"]} for row in csv.DictReader(file)]

    train = some(rows("train"), most)
    known = {row["label"] for row in train}
    test = [row for row in some(rows("test"), most) if row["label"] in known]
    return Set("banking77", write(out / "b77_train.jsonl", train), write(out / "b77_test.jsonl", test),
               {"kind": "classify"}, 3, 2e-4, 32, 128)  # fmt: skip


def conll(path: Path) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    words: list[str] = []
    tags: list[str] = []
    for line in [*path.read_text(encoding="utf-8").split("\n"), ""]:
        if line.strip():
            word, _, tag = line.rstrip("\n").partition("\t")
            words.append(word.strip("\ufeff") or "?")
            tags.append(tag.strip().split("\t")[-1] or "O")
        elif words:
            rows.append({"tokens": words, "tags": tags})
            words, tags = [], []
    return rows


def wnut17(data: Path, out: Path, most: int | None) -> Set:
    train = some(conll(data / "tag/wnut17/wnut17train.conll"), most)
    test = some(conll(data / "tag/wnut17/emerging.test.annotated"), most)
    return Set("wnut17", write(out / "wnut_train.jsonl", train), write(out / "wnut_test.jsonl", test),
               {"kind": "tag"}, 3, 2e-4, 16, 128)  # fmt: skip


def xquad(data: Path, out: Path, most: int | None) -> Set:
    articles = json.loads((data / "extract/xquad_en/xquad.en.json").read_text(encoding="utf-8"))["data"]

    def rows(part: list[Any]) -> list[dict[str, Any]]:
        return [
            {
                "id": asked["id"],
                "context": paragraph["context"],
                "question": asked["question"],
                "answers": asked["answers"],
            }
            for article in part
            for paragraph in article["paragraphs"]
            for asked in paragraph["qas"]
        ]

    train, test = some(rows(articles[:20]), most), some(rows(articles[-4:]), most)
    return Set("xquad", write(out / "xquad_train.jsonl", train), write(out / "xquad_test.jsonl", test),
               {"kind": "extract", "stride": 128}, 6, 3e-4, 16, 384)  # fmt: skip


def snips(data: Path, out: Path, most: int | None) -> Set:
    def rows(part: str) -> list[dict[str, Any]]:
        found = []
        for path in sorted((data / "classify/snips").glob(f"{part}_*.json")):
            ((intent, items),) = json.loads(path.read_text(encoding="utf-8")).items()
            found += [{"text": "".join(p["text"] for p in item["data"]).strip(), "label": intent} for item in items]
        return found

    task = {"kind": "classify", "verbalised": True, "instruction": "What does this user want? {labels}\n\n{text}"}
    return Set("snips", write(out / "snips_train.jsonl", some(rows("train"), most)),
               write(out / "snips_test.jsonl", some(rows("validate"), most)), task, 2, 2e-4, 16, 256,
               "smollm2-135m", {"kind": "lora", "rank": 16, "alpha": 32})  # fmt: skip


def scitldr(data: Path, out: Path, most: int | None) -> Set:
    def rows(part: str) -> list[dict[str, Any]]:
        lines = (data / f"summarise/scitldr/{part}.jsonl").read_text(encoding="utf-8").splitlines()
        return [{"source": row["source"], "target": row["target"]} for row in map(json.loads, lines)]

    task = {
        "kind": "seq2seq",
        "max_target_tokens": 64,
        "instruction": "Summarise this abstract in one sentence.\n\n{source}",
    }
    return Set("scitldr", write(out / "scitldr_train.jsonl", some(rows("dev"), most)),
               write(out / "scitldr_test.jsonl", some(rows("test"), most or 200)), task, 1, 2e-4, 8, 512,
               "smollm2-135m", {"kind": "lora", "rank": 16, "alpha": 32})  # fmt: skip


def ntrex(data: Path, out: Path, most: int | None) -> Set:
    sides = [(data / f"translate/ntrex/ntrex.{side}").read_text(encoding="utf-8").split("\n") for side in ("en", "fr")]
    rows = [{"source": a.strip(), "target": b.strip()} for a, b in zip(*sides) if a.strip() and b.strip()]
    task = {"kind": "seq2seq", "max_target_tokens": 128, "instruction": "Translate into French.\n\n{source}"}
    return Set("ntrex", write(out / "ntrex_train.jsonl", some(rows[:-200], most)),
               write(out / "ntrex_test.jsonl", some(rows[-200:], most)), task, 1, 4e-4, 8, 384,
               "smollm2-135m", {"kind": "lora", "rank": 16, "alpha": 32})  # fmt: skip


SETS = {"banking77": banking77, "wnut17": wnut17, "xquad": xquad, "snips": snips, "scitldr": scitldr, "ntrex": ntrex}
