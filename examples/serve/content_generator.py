"""A content generator: several drafts per product, as JSON that fits a schema, written to a JSON Lines file.

tutelage serve runs/writer --port 8000
python examples/serve/content_generator.py products.csv drafts.jsonl --model writer --drafts 3
"""

import argparse
import csv
import json
from collections.abc import Iterator
from pathlib import Path

from openai import OpenAI

SCHEMA = {
    "type": "object",
    "properties": {
        "title": {"type": "string", "minLength": 1, "maxLength": 60}, "text": {"type": "string", "minLength": 1, "maxLength": 240},
    },
    "required": ["title", "text"], "additionalProperties": False,
}  # fmt: skip


def drafts(client: OpenAI, model: str, product: dict[str, str], count: int, seed: int) -> Iterator[dict[str, str]]:
    """So many drafts for one product: the same seed gives the same drafts."""
    facts = ", ".join(f"{key}: {value}" for key, value in product.items())
    answer = client.chat.completions.create(
        model=model, messages=[{"role": "user", "content": f"Write a title and a short text for this product. {facts}"}],
        n=count, seed=seed, temperature=0.8, top_p=0.95, max_tokens=400,
        response_format={"type": "json_schema", "json_schema": {"name": "draft", "schema": SCHEMA}},
    )  # fmt: skip
    for choice in answer.choices:
        if choice.finish_reason == "stop":  # one that was cut is no whole JSON
            yield json.loads(choice.message.content or "")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("products", type=Path, help="a CSV file with a header")
    parser.add_argument("out", type=Path)
    parser.add_argument("--url", default="http://127.0.0.1:8000/v1")
    parser.add_argument("--key", default="none", help="the server's key, where it has one")
    parser.add_argument("--model", required=True)
    parser.add_argument("--drafts", type=int, default=2)
    arguments = parser.parse_args()
    client = OpenAI(base_url=arguments.url, api_key=arguments.key)
    with (
        open(arguments.products, encoding="utf-8", newline="") as file,
        open(arguments.out, "w", encoding="utf-8") as out,
    ):
        for number, product in enumerate(csv.DictReader(file)):
            for draft in drafts(client, arguments.model, product, arguments.drafts, seed=number):
                out.write(json.dumps({**product, **draft}, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
