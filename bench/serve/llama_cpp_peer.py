"""Tokens per second of plain llama-cpp-python on one prompt: the peer of `tutelage serve --engine llama.cpp`.

python bench/serve/llama_cpp_peer.py FILE.gguf [--tokens 64] [--rounds 5]
"""

import argparse
import json
import os
import statistics
import time

import llama_cpp


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file")
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    model = llama_cpp.Llama(arguments.file, n_ctx=2048, n_threads=os.cpu_count(), verbose=False)
    ids = model.tokenize(b"What do you know about the river and the stone?")
    rates = []
    for _ in range(arguments.rounds + 1):
        model.reset()
        stream = model.generate(ids, temp=0.0, reset=False)
        next(stream)
        start = time.perf_counter()
        for _ in range(arguments.tokens):
            next(stream)
        rates.append(arguments.tokens / (time.perf_counter() - start))
    print(json.dumps({"tokens_per_second": statistics.median(rates[1:]), "file": arguments.file}))


if __name__ == "__main__":
    main()
