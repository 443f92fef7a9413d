"""Supervised fine-tuning from top to bottom in one file: transformers and torch, no packing, no abstractions.

    python examples/flat_sft.py MODEL_FOLDER ROWS.jsonl [--steps 20] [--out ADAPTER_FOLDER]

Each line of ROWS.jsonl is {"messages": [{"role": "user", "content": ...}, {"role": "assistant", "content": ...}, ...]}.
This is what `tutelage train` computes, written down the plain way; tests/examples/test_flat_sft.py holds both to the
same losses. Read it from `main` at the bottom upwards.
"""

import argparse
import json
import math
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import nn
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast


class LoraLinear(nn.Module):
    """A frozen linear layer plus a trainable product of rank r: y = W x + b + (alpha / r) B A x."""

    def __init__(self, linear, rank, alpha, generator):
        super().__init__()
        self.linear, self.scale = linear, alpha / rank
        bound = 1 / math.sqrt(linear.in_features)
        self.a = nn.Parameter(torch.rand(rank, linear.in_features, generator=generator) * (2 * bound) - bound)
        self.b = nn.Parameter(torch.zeros(linear.out_features, rank))  # zero: training starts from the model as it is

    def forward(self, x):
        return self.linear(x) + (x @ self.a.T @ self.b.T) * self.scale


def add_lora(model, rank, alpha, seed):
    """Freeze the model and wrap every linear layer but the output head; returns the new layers by name."""
    model.requires_grad_(False)
    generator = torch.Generator().manual_seed(seed)
    names = [n for n, m in model.named_modules() if isinstance(m, nn.Linear) and m is not model.get_output_embeddings()]
    layers = {}
    for name in names:
        parent, _, child = name.rpartition(".")
        layers[name] = LoraLinear(model.get_submodule(name), rank, alpha, generator)
        setattr(model.get_submodule(parent), child, layers[name])
    return layers


def encode(tokenizer, messages, stop_ids):
    """Token ids of a conversation, and for each token whether it is trained.

    A turn is found as text: what the rendering up to and with it has more than the prompt that the model is given to
    answer. The whole text is tokenised once, and a token is trained if its characters lie in a turn of the assistant.
    """

    def render(some, prompt=False):
        return tokenizer.apply_chat_template(some, tokenize=False, add_generation_prompt=prompt)

    if any(token in message["content"] for token in tokenizer.all_special_tokens for message in messages):
        raise SystemExit("a row contains the text of a control token: `tutelage train` can learn from it, this cannot")
    text = render(messages)
    tokens = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    ids, offsets = tokens["input_ids"], tokens["offset_mapping"]
    trained = [False] * len(ids)
    for k, message in enumerate(messages):
        if message["role"] != "assistant":
            continue
        prompt, upto = render(messages[:k], prompt=True), render(messages[: k + 1])
        if not (upto.startswith(prompt) and text.startswith(upto)):
            raise SystemExit("this chat template rewrites earlier turns: `tutelage train` handles that, this does not")
        inside = [i for i, (start, stop) in enumerate(offsets) if start >= len(prompt) and stop <= len(upto)]
        ends = [i for i in inside if ids[i] in stop_ids]
        if not ends:
            raise SystemExit("the chat template does not end the assistant's turn: the model would never learn to stop")
        for i in inside:
            trained[i] = i <= ends[-1]  # what the template writes behind the end of a turn is never generated
    return torch.tensor(ids), torch.tensor(trained)


def loss_sum(model, ids, trained):
    """Sum over the trained tokens of -log p(token | the tokens before it)."""
    logits = model(input_ids=ids[None], use_cache=False).logits[0, :-1].float()
    losses = nn.functional.cross_entropy(logits, ids[1:], reduction="none")
    return losses[trained[1:]].sum()


def learning_rate(peak, warmup, step, total):
    """Linear warm-up over the first steps, then half a cosine down to 0."""
    rising = round(warmup * total)
    if step < rising:
        return peak * (step + 1) / rising
    return peak * 0.5 * (1 + math.cos(math.pi * (step - rising) / max(1, total - rising)))


def rows_of_step(step, rows, batch_size, seed):
    """Row numbers of optimiser step `step`: each epoch is a permutation that (seed, epoch) decides."""
    epoch, index = divmod(step, math.ceil(rows / batch_size))
    order = np.random.Generator(np.random.Philox(key=[seed, epoch])).permutation(rows)
    return order[index * batch_size : (index + 1) * batch_size]


def save(layers, base, rank, alpha, folder):
    """The adapter in PEFT's format: `tutelage chat FOLDER` and `peft` open it."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {f"base_model.model.{n}.lora_A.weight": layer.a.detach() for n, layer in layers.items()}
    tensors |= {f"base_model.model.{n}.lora_B.weight": layer.b.detach() for n, layer in layers.items()}
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    config = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "base_model_name_or_path": str(Path(base).resolve()), "r": rank,
              "lora_alpha": alpha, "bias": "none", "target_modules": sorted(layers)}  # fmt: skip
    (folder / "adapter_config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def main(argv=None):
    """Fine-tune and return the loss of every step."""
    parser = argparse.ArgumentParser(description="All of supervised fine-tuning in one file.")
    parser.add_argument("model", help="a folder with config.json, safetensors and tokenizer.json")
    parser.add_argument("rows", help="a JSONL file of `messages` rows")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--learning-rate", type=float, default=2e-4)
    parser.add_argument("--warmup", type=float, default=0.03)
    parser.add_argument("--max-grad-norm", type=float, default=1.0)
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--alpha", type=float, default=32.0)
    parser.add_argument("--max-tokens", type=int, default=1024)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args(argv)

    tokenizer = PreTrainedTokenizerFast.from_pretrained(options.model)  # AutoTokenizer may change the splitting rule
    model = AutoModelForCausalLM.from_pretrained(options.model, dtype=torch.float32).eval()  # eval: no dropout
    stops = model.generation_config.eos_token_id
    stop_ids = {tokenizer.eos_token_id, *([stops] if isinstance(stops, int) else stops or [])}
    lines = Path(options.rows).read_text(encoding="utf-8").splitlines()
    rows = [encode(tokenizer, json.loads(line)["messages"], stop_ids) for line in lines if line.strip()]
    rows = [(ids, trained) for ids, trained in rows if len(ids) <= options.max_tokens]

    layers = add_lora(model, options.rank, options.alpha, options.seed)
    parameters = [parameter for layer in layers.values() for parameter in (layer.a, layer.b)]
    adam = torch.optim.AdamW(parameters, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.0)
    losses = []
    for step in range(options.steps):
        batch = [rows[i] for i in rows_of_step(step, len(rows), options.batch_size, options.seed)]
        targets = sum(int(trained[1:].sum()) for _, trained in batch)  # of the whole step, and divided by once
        total = 0.0
        for ids, trained in batch:
            loss = loss_sum(model, ids, trained) / targets
            loss.backward()
            total += loss.item()
        if not math.isfinite(total):
            raise SystemExit(f"the loss of step {step + 1} is {total}: lower the learning rate")
        torch.nn.utils.clip_grad_norm_(parameters, options.max_grad_norm)
        adam.param_groups[0]["lr"] = learning_rate(options.learning_rate, options.warmup, step, options.steps)
        adam.step()
        adam.zero_grad()
        losses.append(total)
        print(f"step {step + 1:4d}  loss {total:.4f}  targets {targets}", flush=True)
    if options.out:
        save(layers, options.model, options.rank, options.alpha, options.out)
    return losses


if __name__ == "__main__":
    main()
