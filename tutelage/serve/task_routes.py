"""The routes of models that label, mark, answer, rewrite or embed."""

import asyncio
import json
import time
from collections.abc import Callable, Sequence
from typing import Any

from tutelage.serve.classifying import ClassifyRequest, ClassifyResponse
from tutelage.serve.embedding import EmbeddingRequest, EmbeddingResponse
from tutelage.serve.extracting import ExtractRequest, ExtractResponse
from tutelage.serve.marking import TagRequest, TagResponse
from tutelage.serve.rewriting import Seq2SeqRequest, Seq2SeqResponse
from tutelage.serve.served_task import ServedTask
from tutelage.serve.server import Server
from tutelage.serve.task_engine import Work
from tutelage.serve.task_shapes import TaskRequest, TaskResponse, answer
from tutelage.serve.web import FastAPI, JSONResponse, Request, Response


def add_task_routes(app: FastAPI, server: Server) -> None:
    """One route a task. Their answers are described and not validated again: vectors are long."""

    @app.post("/v1/embeddings", response_model=None, responses=_described(EmbeddingResponse))
    async def embeddings(body: EmbeddingRequest, request: Request) -> Response:
        """A vector for each text."""
        return await _answer(server, request, server.task(body.model, "embed"), body, body.rows())

    @app.post("/v1/classify", response_model=None, responses=_described(ClassifyResponse))
    async def classify(body: ClassifyRequest, request: Request) -> Response:
        """The label, the labels or the score of each text."""
        return await _answer(server, request, server.task(body.model, "classify"), body, body.rows())

    @app.post("/v1/tag", response_model=None, responses=_described(TagResponse))
    async def tag(body: TagRequest, request: Request) -> Response:
        """The entities in each text."""
        return await _answer(server, request, server.task(body.model, "tag"), body, body.rows())

    @app.post("/v1/extract", response_model=None, responses=_described(ExtractResponse))
    async def extract(body: ExtractRequest, request: Request) -> Response:
        """The answer to each question, out of its context."""
        return await _answer(server, request, server.task(body.model, "extract"), body, body.rows())

    @app.post("/v1/seq2seq", response_model=None, responses=_described(Seq2SeqResponse))
    async def seq2seq(body: Seq2SeqRequest, request: Request) -> Response:
        """What the model writes for each text."""
        return await _answer(server, request, server.task(body.model, "seq2seq"), body, body.rows())


def _described(response: type[TaskResponse]) -> dict[int | str, dict[str, Any]]:
    return {200: {"model": response}}


async def _answer(
    server: Server, request: Request, model: ServedTask, body: TaskRequest, rows: Sequence[Any]
) -> Response:
    started = time.monotonic()
    gone: list[asyncio.Future[None]] = []

    def opened(work: Work) -> None:
        gone.append(asyncio.ensure_future(close_when_gone(request, lambda: model.engine.cancel(work))))

    try:
        outcomes = await model.engine.results(rows, opened)
    finally:
        for waiting in gone:
            waiting.cancel()
    whole = answer(model.name, outcomes)
    server.metrics.answered(whole["usage"]["prompt_tokens"], whole["usage"]["completion_tokens"], 0, None)
    if server.log is not None:
        said: dict[str, Any] = {"model": model.name, "seconds": round(time.monotonic() - started, 3)}
        said |= body.model_dump(include={"input"}) | ({"answer": whole["data"]} if model.task != "embed" else {})
        server.log(json.dumps(said))
    return JSONResponse(whole)


async def close_when_gone(request: Request, close: Callable[[], None]) -> None:
    """Free what a client that has gone was waiting for, whether its answer is streamed or not."""
    while (await request.receive())["type"] != "http.disconnect":
        pass
    close()
