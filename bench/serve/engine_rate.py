"""Tokens per second of the built-in engine itself, without HTTP: what transformers' own `generate` is compared with.

python bench/serve/engine_rate.py RUN [--precision bf16] [--tokens 64] [--rounds 5]

The tuned model (adapters stay adapters) and its base, one stream and eight, as `generate_peer.py` measures: greedy, after
the first token. Prints one JSON document and writes it to bench/results/serve-engine.json.
"""

import argparse
import json
import statistics
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch

from tutelage.data.types import Message
from tutelage.generate.sampling import Sampling
from tutelage.generate.streams import Batch, Job
from tutelage.serve.limits import Limits
from tutelage.serve.opening import open_models
from tutelage.serve.served import Served

RESULT = Path(__file__).parents[1] / "results" / "serve-engine.json"


def rate(model: Served, streams: int, tokens: int) -> float:
    prompt = model.template.prompt([Message("user", "What do you know about the river and the stone?")]).tolist()
    batch = Batch(model.engine.runner, slots=streams)
    for _ in range(streams):
        batch.add(Job(prompt, Sampling(temperature=0.0), frozenset(), tokens, model.adapter))
    batch.step()
    batch.step()  # those that waited for the prompt to be read
    start, count = time.perf_counter(), 0
    while batch.busy:
        count += sum(output.token is not None for output in batch.step())
    return count / (time.perf_counter() - start)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run")
    parser.add_argument("--precision", default="bf16", choices=["bf16", "fp32"])
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    dtype = {"bf16": torch.bfloat16, "fp32": torch.float32}[arguments.precision]

    def measured() -> dict[str, float | str]:
        models = open_models(
            [arguments.run], dtype=dtype, precision=arguments.precision, limits=Limits(), base=False, say=print
        )
        found: dict[str, float | str] = {"precision": arguments.precision}
        for model in models.values():
            if isinstance(model, Served):
                kind = "tuned" if model.adapter else "base"
                for streams in (1, 8):
                    rates = [rate(model, streams, arguments.tokens) for _ in range(arguments.rounds + 1)]
                    found[f"{kind}_{streams}"] = round(statistics.median(rates[1:]), 1)
        return found

    with ThreadPoolExecutor(1) as thread:  # as the server's engine: torch computes in one thread only
        found = thread.submit(measured).result()
    RESULT.write_text(json.dumps(found, indent=2) + "\n")
    print(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
