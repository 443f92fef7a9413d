"""Fixtures that more than one test file needs: tiny real models and tokenizers, made on the spot."""

import atexit
import json
import os
import shutil
import signal
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

import tutelage

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # no test may reach for a hub
if "TUTELAGE_ENCODED" not in os.environ:  # the rows of tests do not belong into the user's cache
    os.environ["TUTELAGE_ENCODED"] = tempfile.mkdtemp(prefix="tutelage-encoded-")
    atexit.register(shutil.rmtree, os.environ["TUTELAGE_ENCODED"], ignore_errors=True)
if (
    signal.getsignal(signal.SIGINT) is signal.SIG_IGN
):  # a shell's background job: Ctrl-C must mean what it means to users
    signal.signal(signal.SIGINT, signal.default_int_handler)

if (worker := os.environ.get("PYTEST_XDIST_WORKER")) and hasattr(os, "sched_setaffinity"):
    # A core for each worker and all that it starts: two on two cores, each with threads for both, wait for each other (a test
    # of selftest took 24 s and takes 3)
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {cores[int(worker.removeprefix("gw")) % len(cores)]})

CHATML = (
    "{% for message in messages %}{% if loop.first and message['role'] != 'system' %}"
    "{{ '<|im_start|>system\nYou are a small test assistant made of tiny parts.<|im_end|>\n' }}{% endif %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
CORPUS = [
    "The quick brown fox jumps over the lazy dog. Why is the sky blue? Because light scatters in the air.",
    "system user assistant You are a small test assistant made of tiny parts. What is water made of? Hydrogen and oxygen.",
    "1 2 3 4 5 6 7 8 9 10 apples and pears; plants need light, water and air to grow. Question and answer, yes or no?",
]


def make_tokenizer(folder: Path) -> None:
    """A byte-level BPE tokenizer with ChatML control tokens, saved into `folder`."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=420, special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False,
    )  # fmt: skip
    tokenizer.train_from_iterator(CORPUS, trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<|im_start|>", eos_token="<|im_end|>", pad_token="<|endoftext|>",
        unk_token="<|endoftext|>", chat_template=CHATML, model_max_length=512,
    )  # fmt: skip
    fast.save_pretrained(folder)


def make_model(folder: Path, kind: str = "llama", seed: int = 0) -> None:
    """A random causal model of two layers, saved into `folder` beside a tokenizer."""
    import torch
    from transformers import CONFIG_MAPPING, AutoModelForCausalLM

    shared = {
        "vocab_size": 512, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0, "max_position_embeddings": 512,
        "initializer_range": 0.15,
    }  # fmt: skip
    modern = {
        **shared, "hidden_size": 48, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4,
        "num_key_value_heads": 2, "head_dim": 12, "tie_word_embeddings": kind in ("llama", "gemma2"),
    }  # fmt: skip
    sizes = {
        "gpt2": {**shared, "n_embd": 48, "n_layer": 2, "n_head": 4, "n_positions": 512},
        "mistral": {**modern, "sliding_window": 9},
        "gemma2": {**modern, "sliding_window": 9, "query_pre_attn_scalar": 12},
    }
    torch.manual_seed(seed)
    config = CONFIG_MAPPING[kind](**sizes.get(kind, modern))
    model = AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for parameter in model.parameters():  # nothing is exactly 0 or 1, so that no gradient vanishes by chance
            parameter.add_(torch.randn_like(parameter) * 0.02)
    model.save_pretrained(folder)
    make_tokenizer(folder)


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """A function from an architecture to a folder with a tiny random model of it; made once each."""
    made: dict[str, Path] = {}

    def folder(kind: str = "llama") -> Path:
        if kind not in made:
            made[kind] = tmp_path_factory.mktemp(f"model-{kind}")
            make_model(made[kind], kind)
        return made[kind]

    return folder


QUESTIONS = [
    "Why is the sky blue?",
    "What is water made of?",
    "Do plants need light?",
    "How many apples?",
    "Yes or no?",
]


def chat_rows(count: int) -> list[dict[str, object]]:
    """Chat rows of very different lengths; every third has two assistant turns."""
    rows: list[dict[str, object]] = []
    for i in range(count):
        question = f"{QUESTIONS[i % len(QUESTIONS)]} {i}"
        answer = (
            " ".join(["Because light scatters in the air", "Hydrogen and oxygen", "yes"][i % 3 :] * (1 + i % 5))
            + f" {i}."
        )
        messages = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
        if i % 3 == 0:
            messages += [{"role": "user", "content": "And then?"}, {"role": "assistant", "content": f"Then {i} more."}]
        rows.append({"messages": messages})
    return rows


@pytest.fixture
def chat_file(tmp_path: Path) -> Callable[[int], Path]:
    """A function that writes a JSONL file with that many chat rows."""

    def write(count: int = 20) -> Path:
        path = tmp_path / "chat.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in chat_rows(count)), encoding="utf-8")
        return path

    return write


@pytest.fixture(scope="session")
def lora_run(model_folder: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run with an adapter and held-out rows. Do not write into it."""
    folder = tmp_path_factory.mktemp("lora-run")
    questions = ["Why is the sky blue?", "What is water made of?", "Do plants need light?", "How many apples?"]
    rows = [
        {
            "messages": [
                {"role": "user", "content": f"{questions[i % 4]} {i}"},
                {"role": "assistant", "content": f"Yes, {i}."},
            ]
        }
        for i in range(32)
    ]
    (folder / "chat.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    recipe = tutelage.make_recipe(
        {
            "model": str(model_folder("llama")), "data": {"train": str(folder / "chat.jsonl"), "validation": 0.25},
            "method": {"kind": "lora", "rank": 4, "alpha": 16}, "max_tokens": 300, "precision": "fp32",
            "forgetting": False, "threads": 1,
            "optim": {"steps": 6, "batch_size": 8, "learning_rate": 5e-3}, "out": str(folder / "run"),
        }
    )  # fmt: skip
    tutelage.train(recipe)
    return folder / "run"
