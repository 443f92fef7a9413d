"""One command per comparison of serving: speed, memory, first token, overload, disconnects, long use.

python bench/serve/run.py streams RUN        64 streams x 20 rounds: none dropped, none mixed, memory flat (fp32)
python bench/serve/run.py speed RUN          single stream and 8 at once beside transformers' generate (bf16), memory
python bench/serve/run.py first RUN          time to first token behind a known 512-token system prompt
python bench/serve/run.py overload RUN       ten times what fits, 30 s: only 200 and 429, /health quick, recovered
python bench/serve/run.py disconnect RUN     300 clients that go at random points: all slots free within 1 s

Each prints one JSON document and writes it to bench/results/serve-NAME.json. `--url` measures a server that runs
already (any that speaks OpenAI's API, e.g. `transformers serve`), under `--model`.
"""

import argparse
import asyncio
import atexit
import contextlib
import json
import os
import random
import re
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx

HERE = Path(__file__).parent
WORDS = [
    "sky",
    "water",
    "plant",
    "apple",
    "light",
    "river",
    "stone",
    "cloud",
    "engine",
    "paper",
    "glass",
    "winter",
    "signal",
]


def question(number: int) -> str:
    generator = random.Random(number)
    return f"{number}: what do you know about {' and '.join(generator.sample(WORDS, 3))}?"


def anonymous_mib(pid: int) -> float:
    text = Path(f"/proc/{pid}/status").read_text()
    match = re.search(r"RssAnon:\s+(\d+)", text)
    return int(match[1]) / 1024 if match else 0.0


class Server:
    """`tutelage serve` as a process, or a server that runs already."""

    def __init__(self, arguments: argparse.Namespace, *options: str) -> None:
        self.process: subprocess.Popen[bytes] | None = None
        self.url, self.model = arguments.url, arguments.model
        if self.url is None:
            port = random.randint(20000, 40000)
            self.url = f"http://127.0.0.1:{port}"
            self.model = self.model or Path(arguments.run).name
            command = [sys.executable, "-m", "tutelage", "serve", arguments.run, "--port", str(port), *options]
            command += ["--engine", arguments.engine]
            self.process = subprocess.Popen(command)
            atexit.register(self.process.kill)  # whatever happens here
        end = time.monotonic() + 300
        while True:
            try:
                if httpx.get(f"{self.url}/health", timeout=5).status_code < 500:
                    return
            except httpx.HTTPError:
                pass
            if time.monotonic() > end:
                raise SystemExit("the server does not answer")
            time.sleep(0.2)

    def memory(self) -> float | None:
        return anonymous_mib(self.process.pid) if self.process else None

    def stop(self) -> float:
        start = time.monotonic()
        if self.process:
            self.process.send_signal(signal.SIGTERM)
            self.process.wait(60)
        return time.monotonic() - start


def body(server: Server, text: str, tokens: int, **more: Any) -> dict[str, Any]:
    messages = [{"role": "user", "content": text}]
    return {"model": server.model, "messages": messages, "temperature": 0, "max_tokens": tokens, **more}


async def streamed(client: httpx.AsyncClient, server: Server, asked: dict[str, Any]) -> tuple[str, int, float, float]:
    """(text, tokens, seconds to the first token, seconds in all); text "" where the stream broke off."""
    start, first, pieces, ended, tokens = time.perf_counter(), 0.0, [], False, 0
    asked = {**asked, "stream": True, "stream_options": {"include_usage": True}}
    async with client.stream("POST", f"{server.url}/v1/chat/completions", json=asked) as answer:
        if answer.status_code != 200:
            raise SystemExit(f"{answer.status_code}: {await answer.aread()!r}")
        async for line in answer.aiter_lines():
            ended = ended or line == "data: [DONE]"
            if not line.startswith("data: {"):
                continue
            event = json.loads(line[6:])
            if event.get("usage"):
                tokens = event["usage"]["completion_tokens"]
            for choice in event["choices"]:
                if choice["delta"].get("content"):
                    first = first or time.perf_counter() - start
                    pieces.append(choice["delta"]["content"])
    return "".join(pieces) if ended else "", tokens or len(pieces), first, time.perf_counter() - start


def many(limit: int = 200) -> httpx.AsyncClient:
    limits = httpx.Limits(max_connections=limit, max_keepalive_connections=limit)
    return httpx.AsyncClient(timeout=600, limits=limits)


async def streams(arguments: argparse.Namespace) -> dict[str, Any]:
    """Every answer of every round must be the one that its question gets alone."""
    server = Server(arguments, "--precision", "fp32", "--slots", str(arguments.at_once), "--seconds", "600")
    asked = [body(server, question(i), arguments.tokens) for i in range(arguments.at_once)]
    async with many() as client:
        alone = [(await streamed(client, server, each))[0] for each in asked]
        memory, different, dropped = [], 0, 0
        for _ in range(arguments.rounds):
            answers = await asyncio.gather(*(streamed(client, server, each) for each in asked))
            dropped += sum(text == "" for text, *_ in answers)
            different += sum(text != solo for (text, *_), solo in zip(answers, alone))
            memory.append(server.memory())
    seconds = server.stop()
    return {
        "streams": arguments.at_once, "rounds": arguments.rounds, "dropped": dropped, "different": different,
        "memory_mib": {"first": memory[0], "after_3": memory[min(2, len(memory) - 1)], "last": memory[-1]},
        "drain_seconds": seconds,
    }  # fmt: skip


async def speed(arguments: argparse.Namespace) -> dict[str, Any]:
    """Tokens per second of one stream, and of eight together; the median of the rounds."""
    server = Server(arguments, "--precision", arguments.precision)
    async with many() as client:
        await streamed(client, server, body(server, "Hello", 8))
        single, eight = [], []
        for number in range(arguments.rounds):
            _, tokens, first, total = await streamed(client, server, body(server, question(number), arguments.tokens))
            single.append((tokens - 1) / (total - first))
            start = time.perf_counter()
            asked = [body(server, question(100 + number * 8 + i), arguments.tokens) for i in range(8)]
            answers = await asyncio.gather(*(streamed(client, server, each) for each in asked))
            eight.append(sum(tokens for _, tokens, *_ in answers) / (time.perf_counter() - start))
        peak = server.memory()
    server.stop()
    return {
        "single_tokens_per_second": statistics.median(single), "eight_tokens_per_second": statistics.median(eight),
        "anonymous_mib": peak, "precision": arguments.precision,
    }  # fmt: skip


async def first(arguments: argparse.Namespace) -> dict[str, Any]:
    """A system prompt of about 512 tokens, new each time (cold), then known (warm)."""
    server = Server(arguments)
    cold, warm = [], []
    async with many() as client:
        await streamed(client, server, body(server, "Hello", 8))
        for number in range(arguments.rounds):
            generator = random.Random(number)
            system = {"role": "system", "content": " ".join(generator.choices(WORDS, k=480))}
            for times, text in ((cold, "What now?"), (warm, "And then?")):
                asked = {**body(server, "", 4), "messages": [system, {"role": "user", "content": text}]}
                times.append((await streamed(client, server, asked))[2])
    server.stop()
    return {"cold_seconds": statistics.median(cold), "warm_seconds": statistics.median(warm),
            "ratio": statistics.median(warm) / statistics.median(cold)}  # fmt: skip


async def overload(arguments: argparse.Namespace) -> dict[str, Any]:
    """Ten times as many clients as slots and queue hold, each coming again at once."""
    server = Server(arguments, "--slots", "4", "--queue", "8")
    statuses: dict[int, int] = {}
    end = time.monotonic() + arguments.seconds

    async def client_loop(client: httpx.AsyncClient, number: int) -> None:
        while time.monotonic() < end:
            answer = await client.post(f"{server.url}/v1/chat/completions", json=body(server, question(number), 24))
            statuses[answer.status_code] = statuses.get(answer.status_code, 0) + 1
            if answer.status_code == 429:
                await asyncio.sleep(0.2)

    probe = [sys.executable, str(HERE / "health.py"), f"{server.url}/health", str(arguments.seconds)]
    prober = await asyncio.create_subprocess_exec(*probe, stdout=subprocess.PIPE)
    async with many(400) as client:
        await asyncio.gather(*(client_loop(client, i) for i in range(120)))
        start = time.monotonic()
        answer = await client.post(f"{server.url}/v1/chat/completions", json=body(server, "Hello", 1))
        recovered = time.monotonic() - start
    health = json.loads((await prober.communicate())[0])
    server.stop()
    return {"statuses": statuses, "health_p99_ms": 1000 * statistics.quantiles(health, n=100)[98],
            "recovered_seconds": recovered, "status_then": answer.status_code}  # fmt: skip


async def disconnect(arguments: argparse.Namespace) -> dict[str, Any]:
    """Clients that hang up after a random time, half of them streaming; then the gauges must be zero."""
    server = Server(arguments)
    generator = random.Random(0)

    async def leaves(client: httpx.AsyncClient, number: int) -> None:
        asked = body(server, question(number), 400, stream=bool(number % 2))
        post = client.post(f"{server.url}/v1/chat/completions", json=asked)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(post, generator.uniform(0.0, 1.0))

    for start in range(0, 300, 30):
        async with many() as client:
            await asyncio.gather(*(leaves(client, start + i) for i in range(30)))
    began = time.monotonic()
    while time.monotonic() - began < 30:
        text = httpx.get(f"{server.url}/metrics").text
        if "tutelage_streams_running 0" in text and "tutelage_streams_waiting 0" in text:
            break
        time.sleep(0.02)
    free = time.monotonic() - began
    server.stop()
    return {"clients": 300, "all_free_after_seconds": free}


COMPARISONS: dict[str, Callable[[argparse.Namespace], Any]] = {
    "streams": streams, "speed": speed, "first": first, "overload": overload, "disconnect": disconnect,
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("comparison", choices=sorted(COMPARISONS))
    parser.add_argument("run", nargs="?", default="runs/quickstart")
    parser.add_argument("--url", help="a server that runs already")
    parser.add_argument("--model", help="the model's name there")
    parser.add_argument("--precision", default="bf16")
    parser.add_argument("--engine", default="torch", help="tutelage serve's: torch, llama.cpp or vllm")
    parser.add_argument("--at-once", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--name", help="of the result file, where it is not the comparison's")
    arguments = parser.parse_args()
    result = {
        "comparison": arguments.comparison,
        "cores": os.cpu_count(),
        **asyncio.run(COMPARISONS[arguments.comparison](arguments)),
    }
    folder = HERE.parent / "results"
    folder.mkdir(exist_ok=True)
    (folder / f"serve-{arguments.name or arguments.comparison}.json").write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
