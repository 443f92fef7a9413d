"""A classifier in a batch job: every line of a file gets a label, many requests at a time; a full server is waited for.

tutelage serve runs/tickets --port 8000 --slots 8
python examples/serve/batch_classifier.py tickets.txt labels.csv --model tickets --labels billing technical other
"""

import argparse
import asyncio
import csv
import math
from pathlib import Path

from openai import AsyncOpenAI

QUESTION = "Which of these is this message about: {labels}? Answer with one of them.\n\n{text}"


async def classify(client: AsyncOpenAI, model: str, text: str, labels: list[str]) -> tuple[str, float]:
    """The label and its probability: the answer can be no other text, and its tokens' probabilities are multiplied."""
    answer = await client.chat.completions.create(
        model=model, messages=[{"role": "user", "content": QUESTION.format(labels=", ".join(labels), text=text)}],
        temperature=0, max_tokens=32, logprobs=True,
        response_format={"type": "json_schema", "json_schema": {"name": "label", "schema": {"enum": labels}}},
    )  # fmt: skip
    choice = answer.choices[0]
    logs = choice.logprobs.content if choice.logprobs is not None else None
    probability = math.exp(sum(entry.logprob for entry in logs or []))
    return (choice.message.content or "").strip().strip('"'), probability


async def run(arguments: argparse.Namespace) -> None:
    # The client itself waits and comes again where the server answers 429 with Retry-After.
    client = AsyncOpenAI(base_url=arguments.url, api_key=arguments.key, max_retries=20)
    lines = [line.strip() for line in arguments.texts.read_text(encoding="utf-8").splitlines() if line.strip()]
    room = asyncio.Semaphore(arguments.at_once)

    async def one(text: str) -> tuple[str, str, float]:
        async with room:
            label, probability = await classify(client, arguments.model, text, arguments.labels)
            return text, label, probability

    rows = await asyncio.gather(*(one(text) for text in lines))
    with open(arguments.out, "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["text", "label", "probability"])
        writer.writerows((text, label, f"{probability:.4f}") for text, label, probability in rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("texts", type=Path, help="one text per line")
    parser.add_argument("out", type=Path)
    parser.add_argument("--url", default="http://127.0.0.1:8000/v1")
    parser.add_argument("--key", default="none", help="the server's key, where it has one")
    parser.add_argument("--model", required=True)
    parser.add_argument("--labels", nargs="+", required=True)
    parser.add_argument("--at-once", type=int, default=16)
    asyncio.run(run(parser.parse_args()))


if __name__ == "__main__":
    main()
