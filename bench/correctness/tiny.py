"""A tiny Llama with a tokenizer trained on the spot, and rows that tell the tools apart; all written for this check."""

import json
import random
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

SYSTEM = "You are a helpful AI assistant named SmolLM, trained by Hugging Face"  # what the template inserts
TEMPLATE = (
    "{% for message in messages %}{% if loop.first and message['role'] != 'system' %}{{ '<|im_start|>system\n"
    + SYSTEM
    + "<|im_end|>\n' }}{% endif %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
WORDS = (
    "river", "stone", "lamp", "green", "seven", "quiet", "engine", "paper", "north", "apple", "window", "cloud", "bread",
    "silver", "ladder", "garden",
)  # fmt: skip
MARKS = {"system": "SmolLM", "user": "zebra", "assistant": "quartz"}  # words that only one role says
LENGTHS = (2, 60, 5, 33, 1, 48, 9, 21)  # words in the answers of one step


def make(folder: Path) -> None:
    """The model's folder and the files of rows, in `folder`."""
    (folder / "model").mkdir(parents=True, exist_ok=True)
    rows = [row(number, 3 + number, length) for number, length in enumerate(LENGTHS)]
    write(folder / "eight.jsonl", rows)
    write(folder / "many.jsonl", [row(100 + i, 3 + i % 7, 2 + i % 11) for i in range(64)])
    # One answer runs over the limit, and one question alone is longer than it.
    write(folder / "long.jsonl", [*[row(i, 3, 4) for i in range(6)], row(6, 3, 300), row(7, 300, 4)])
    tokenizer = make_tokenizer(rows)
    tokenizer.save_pretrained(folder / "model")
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=512, hidden_size=48, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=1024, bos_token_id=1, eos_token_id=2, pad_token_id=0,
        initializer_range=0.15, tie_word_embeddings=True,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder / "model")


def row(seed: int, asked: int, answered: int) -> list[dict[str, str]]:
    """A question and an answer of so many words, and the word that marks each."""
    draw = random.Random(seed)
    question = " ".join([MARKS["user"], *draw.choices(WORDS, k=asked)])
    answer = " ".join([*draw.choices(WORDS, k=answered), MARKS["assistant"]])
    return [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]


def write(path: Path, rows: list[list[dict[str, str]]]) -> None:
    """JSON Lines with `messages`."""
    path.write_text("".join(json.dumps({"messages": messages}) + "\n" for messages in rows), encoding="utf-8")


def make_tokenizer(rows: list[list[dict[str, str]]]) -> PreTrainedTokenizerFast:
    """Byte-level BPE with ChatML's control tokens."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=480, special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"], show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )  # fmt: skip
    texts = [message["content"] for messages in rows for message in messages]
    tokenizer.train_from_iterator([*texts, SYSTEM, "system user assistant"] * 4, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<|im_start|>", eos_token="<|im_end|>", pad_token="<|endoftext|>",
        unk_token="<|endoftext|>", chat_template=TEMPLATE, model_max_length=1024,
    )  # fmt: skip
