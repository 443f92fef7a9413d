"""Tokens per second of transformers' own `generate` on one prompt, in the precision that is asked for.

python bench/serve/generate_peer.py MODEL_FOLDER [--precision bf16] [--tokens 64] [--rounds 5]

MODEL_FOLDER is a merged export, so that both sides run the same weights.
"""

import argparse
import json
import statistics
import time

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--precision", default="bf16", choices=["bf16", "fp32"])
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    dtype = {"bf16": torch.bfloat16, "fp32": torch.float32}[arguments.precision]
    tokenizer = AutoTokenizer.from_pretrained(arguments.model)
    model = AutoModelForCausalLM.from_pretrained(arguments.model, dtype=dtype).eval()
    messages = [{"role": "user", "content": "What do you know about the river and the stone?"}]
    ids = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    rates = []
    with torch.inference_mode():
        for _ in range(arguments.rounds + 1):
            start = time.perf_counter()
            model.generate(**ids, max_new_tokens=1, min_new_tokens=1, do_sample=False)
            middle = time.perf_counter()
            model.generate(**ids, max_new_tokens=arguments.tokens, min_new_tokens=arguments.tokens, do_sample=False)
            rates.append((arguments.tokens - 1) / (time.perf_counter() - middle - (middle - start)))
    print(json.dumps({"tokens_per_second": statistics.median(rates[1:]), "precision": arguments.precision}))


if __name__ == "__main__":
    main()
