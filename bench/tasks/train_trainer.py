"""The reference: transformers' Trainer on the same rows, in its own environment. Saves the model; writes times as JSON.

With `--plain` there is no dropout, the model is also saved before the first step, and each step's figures and the order of
the rows are written: what `same_steps.py` and `same_order.py` compare with ours.
"""

import argparse
import json
import time
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import (
    AutoModelForQuestionAnswering,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    DataCollatorForTokenClassification,
    DataCollatorWithPadding,
    Trainer,
    TrainingArguments,
)


class Rows(torch.utils.data.Dataset):  # type: ignore[type-arg]
    def __init__(self, rows: list[dict[str, Any]]) -> None:
        self.rows = rows
        self.read: list[int] = []

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        self.read.append(int(index))
        return self.rows[index]


def classify(rows: list[dict[str, Any]], tokenizer: Any, length: int) -> tuple[list[dict[str, Any]], list[str]]:
    names = sorted({row["label"] for row in rows})
    made = tokenizer([row["text"] for row in rows], truncation=True, max_length=length)
    return [
        {**{key: made[key][i] for key in made}, "labels": names.index(row["label"])} for i, row in enumerate(rows)
    ], names


def tag(rows: list[dict[str, Any]], tokenizer: Any, length: int) -> tuple[list[dict[str, Any]], list[str]]:
    names = sorted({tag for row in rows for tag in row["tags"]}, key=lambda tag: (tag != "O", tag[2:], tag))
    made = tokenizer([row["tokens"] for row in rows], is_split_into_words=True, truncation=True, max_length=length)
    examples = []
    for i, row in enumerate(rows):
        words, labels, before = made.word_ids(i), [], None
        for word in words:
            labels.append(-100 if word is None or word == before else names.index(row["tags"][word]))
            before = word
        examples.append({**{key: made[key][i] for key in made}, "labels": labels})
    return examples, names


def extract(rows: list[dict[str, Any]], tokenizer: Any, length: int) -> tuple[list[dict[str, Any]], list[str]]:
    made = tokenizer(
        [row["question"] for row in rows], [row["context"] for row in rows], truncation="only_second", max_length=length,
        stride=128, return_overflowing_tokens=True, return_offsets_mapping=True,
        return_token_type_ids=True,  # BERT's own tokenizer gives them, the class that reads tokenizer.json does not
    )  # fmt: skip
    examples = []
    for i, offsets in enumerate(made["offset_mapping"]):
        answer = rows[made["overflow_to_sample_mapping"][i]]["answers"][0]
        start, stop = answer["answer_start"], answer["answer_start"] + len(answer["text"])
        inside = [j for j, s in enumerate(made.sequence_ids(i)) if s == 1]
        first = last = 0
        if offsets[inside[0]][0] <= start and offsets[inside[-1]][1] >= stop:
            hit = [j for j in inside if offsets[j][0] < stop and offsets[j][1] > start]
            first, last = hit[0], hit[-1]
        keys = ("input_ids", "attention_mask", "token_type_ids")
        examples.append(
            {**{key: made[key][i] for key in keys if key in made}, "start_positions": first, "end_positions": last}
        )
    return examples, []


KINDS: dict[str, Any] = {
    "classify": (classify, AutoModelForSequenceClassification, DataCollatorWithPadding),
    "tag": (tag, AutoModelForTokenClassification, DataCollatorForTokenClassification),
    "extract": (extract, AutoModelForQuestionAnswering, DataCollatorWithPadding),
}


def main() -> None:
    parser = argparse.ArgumentParser()
    for name in ("model", "train", "kind", "out", "precision"):
        parser.add_argument(f"--{name}", required=True)
    for name, kind in (
        ("epochs", float),
        ("rate", float),
        ("batch", int),
        ("seed", int),
        ("length", int),
        ("steps", int),
    ):
        parser.add_argument(f"--{name}", type=kind, default=-1)
    parser.add_argument("--accumulate", type=int, default=1)
    parser.add_argument("--plain", action="store_true")
    given = parser.parse_args()
    rows = [json.loads(line) for line in Path(given.train).read_text(encoding="utf-8").splitlines()]
    tokenizer = transformers.PreTrainedTokenizerFast.from_pretrained(given.model)
    encode, auto, collator = KINDS[given.kind]
    examples, names = encode(rows, tokenizer, given.length)
    torch.manual_seed(given.seed)
    labels = {"id2label": dict(enumerate(names)), "label2id": {n: i for i, n in enumerate(names)}} if names else {}
    dropout = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0} if given.plain else {}
    model = auto.from_pretrained(given.model, **labels, **dropout)
    if given.plain:
        model.save_pretrained(Path(given.out) / "start")
        tokenizer.save_pretrained(Path(given.out) / "start")
    arguments = TrainingArguments(
        output_dir=given.out, num_train_epochs=given.epochs, learning_rate=given.rate, seed=given.seed,
        per_device_train_batch_size=given.batch, lr_scheduler_type="linear", weight_decay=0.0, max_steps=given.steps,
        bf16=given.precision == "bf16", use_cpu=True, save_strategy="no", report_to=[],
        gradient_accumulation_steps=given.accumulate, logging_steps=1 if given.plain else 10**9, dataloader_pin_memory=False,
    )  # fmt: skip
    data = Rows(examples)
    trainer = Trainer(model, arguments, train_dataset=data, data_collator=collator(tokenizer))
    start = time.perf_counter()
    trainer.train()
    seconds = time.perf_counter() - start
    model.save_pretrained(Path(given.out) / "model")
    tokenizer.save_pretrained(Path(given.out) / "model")
    done = trainer.state.global_step * given.batch
    done = min(done, round(len(examples) * given.epochs)) if given.steps < 0 else done
    times: dict[str, Any] = {"seconds": seconds, "rows": done, "rows_per_second": done / seconds}
    if given.plain:
        times["steps"] = [
            [each["loss"], each["grad_norm"]] for each in trainer.state.log_history if "grad_norm" in each
        ]
        times["order"] = data.read
    (Path(given.out) / "times.json").write_text(json.dumps(times))


if __name__ == "__main__":
    main()
