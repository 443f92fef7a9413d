"""A classifier in a batch job: every line of a file gets a label, many lines a request; a full server is waited for.

tutelage serve runs/tickets --port 8000
python examples/serve/batch_classifier.py tickets.txt labels.csv --model tickets
"""

import argparse
import asyncio
import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from openai import AsyncOpenAI

AT_ONCE = 4  # requests on their way: the server computes together what waits


async def classify(client: AsyncOpenAI, model: str, texts: Sequence[str]) -> list[dict[str, Any]]:
    """What the server says of each text: `labels`, `score`, and `scores` of all labels."""
    answer = await client.post(
        "/classify", cast_to=dict[str, Any], body={"model": model, "input": list(texts), "truncate": True}
    )
    data: list[dict[str, Any]] = answer["data"]
    return data


async def run(arguments: argparse.Namespace) -> None:
    # The client itself waits and comes again where the server answers 429 with Retry-After.
    client = AsyncOpenAI(base_url=arguments.url, api_key=arguments.key, max_retries=20)
    lines = [line.strip() for line in arguments.texts.read_text(encoding="utf-8").splitlines() if line.strip()]
    parts = [lines[start : start + arguments.batch] for start in range(0, len(lines), arguments.batch)]
    room = asyncio.Semaphore(AT_ONCE)

    async def one(part: Sequence[str]) -> list[dict[str, Any]]:
        async with room:
            return await classify(client, arguments.model, part)

    found = [item for items in await asyncio.gather(*map(one, parts)) for item in items]
    unsure = 0
    with open(arguments.out, "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["text", "label", "score", "look_again"])
        for text, item in zip(lines, found, strict=True):
            again = item["label"] is not None and item["score"] < arguments.sure
            unsure += again
            score = "" if item["score"] is None else f"{item['score']:.4f}"
            writer.writerow([text, "|".join(item["labels"]), score, "yes" if again else ""])
    print(f"{len(found)} lines labelled; {unsure} of them are for a person to look at")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("texts", type=Path, help="one text per line")
    parser.add_argument("out", type=Path)
    parser.add_argument("--url", default="http://127.0.0.1:8000/v1")
    parser.add_argument("--key", default="none", help="the server's key, where it has one")
    parser.add_argument("--model", required=True)
    parser.add_argument("--batch", type=int, default=64, help="lines of one request")
    parser.add_argument("--sure", type=float, default=0.8, help="below this probability a person looks again")
    asyncio.run(run(parser.parse_args()))


if __name__ == "__main__":
    main()
