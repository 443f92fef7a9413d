"""A customer-support bot in the terminal: answers from a tuned model, streams, and knows when to hand over to a person.

tutelage serve runs/support --port 8000
python examples/serve/support_bot.py --model support
"""

import argparse
import sys
from collections.abc import Iterable

from openai import OpenAI

SYSTEM = "You are the support assistant of a small software company. Answer in at most three sentences."
HAND_OVER = ("refund", "lawyer", "complaint", "human", "person")
KEEP = 12  # messages of the conversation that are sent again; the server has read them before


def answer(client: OpenAI, model: str, history: list[dict[str, str]]) -> Iterable[str]:
    """Pieces of the answer to the last message of `history`, as they come."""
    messages = [{"role": "system", "content": SYSTEM}, *history[-KEEP:]]
    stream = client.chat.completions.create(model=model, messages=messages, temperature=0, max_tokens=160, stream=True)
    for chunk in stream:
        if chunk.choices and chunk.choices[0].delta.content:
            yield chunk.choices[0].delta.content


def needs_a_person(question: str) -> bool:
    """Questions that a model must not answer alone."""
    return any(word in question.lower() for word in HAND_OVER)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", default="http://127.0.0.1:8000/v1")
    parser.add_argument("--key", default="none", help="the server's key, where it has one")
    parser.add_argument("--model", required=True)
    arguments = parser.parse_args()
    client = OpenAI(base_url=arguments.url, api_key=arguments.key)
    history: list[dict[str, str]] = []
    for line in sys.stdin:
        question = line.strip()
        if not question:
            continue
        if needs_a_person(question):
            print("I am passing you on to a colleague.", flush=True)
            continue
        history.append({"role": "user", "content": question})
        pieces = []
        for piece in answer(client, arguments.model, history):
            pieces.append(piece)
            print(piece, end="", flush=True)
        print()
        history.append({"role": "assistant", "content": "".join(pieces)})


if __name__ == "__main__":
    main()
