"""The HTTP API: OpenAI's routes over the served models."""

import asyncio
import json
import sys
import time
from collections.abc import AsyncIterator, Callable, MutableMapping
from contextlib import asynccontextmanager, suppress
from typing import Any

from tutelage import __version__
from tutelage.errors import TutelageError
from tutelage.serve import page
from tutelage.serve.answers import Piece, Wanted, answer_room, begin_all
from tutelage.serve.answers import Request as Answering
from tutelage.serve.guard import App, Receive, Scope, Send
from tutelage.serve.json_rule import json_rule
from tutelage.serve.metrics import Metrics
from tutelage.serve.openai_shapes import ChatShape, Shape, TextShape
from tutelage.serve.problems import ApiError, invalid
from tutelage.serve.schema import ChatRequest, CompletionRequest
from tutelage.serve.served import Served
from tutelage.serve.server import Model, Server
from tutelage.serve.task_routes import add_task_routes, close_when_gone
from tutelage.serve.web import (
    FastAPI,
    HTTPException,
    JSONResponse,
    PlainTextResponse,
    Request,
    RequestValidationError,
    Response,
    StreamingResponse,
)

ERROR = {
    "description": "An error in OpenAI's shape",
    "content": {"application/json": {"schema": {
        "type": "object", "required": ["error"],
        "properties": {"error": {"type": "object", "required": ["message", "type", "param", "code"]}},
    }}},
}  # fmt: skip
ERRORS: dict[int | str, dict[str, Any]] = dict.fromkeys(
    (400, 401, 403, 404, 405, 408, 413, 422, 429, 499, 500, 503), ERROR
)


def make_app(server: Server) -> FastAPI:
    """The application; its engines run while it does."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        for engine in server.engines:
            engine.start(asyncio.get_running_loop())
        yield
        for engine in server.engines:
            engine.stop()

    app = FastAPI(
        title="tutelage", version=__version__, description="OpenAI's API over models that tutelage tuned.",
        docs_url=None, redoc_url=None, lifespan=lifespan, responses=ERRORS,
    )  # fmt: skip
    app.add_exception_handler(HTTPException, _answer_error)
    app.add_exception_handler(RequestValidationError, _answer_error)
    app.add_exception_handler(Exception, _answer_error)
    _add_reading_routes(app, server)
    _add_answering_routes(app, server)
    add_task_routes(app, server)
    page.add_routes(app)
    app.add_middleware(Counting, metrics=server.metrics)
    return app


class Counting:
    """Counts every answer by its route and status; plain ASGI, so that a client's going is still heard."""

    def __init__(self, app: App, metrics: Metrics) -> None:
        self.app = app
        self.metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def counted(message: MutableMapping[str, Any]) -> None:
            if message["type"] == "http.response.start":
                route = getattr(scope.get("route"), "path", "other")  # never the raw path: anyone may make those up
                self.metrics.request(route, message["status"])
            await send(message)

        await self.app(scope, receive, counted if scope["type"] == "http" else send)


async def _answer_error(request: Request, error: Exception) -> Response:
    if isinstance(error, RequestValidationError):
        error = invalid(list(error.errors()))
    elif isinstance(error, HTTPException) and not isinstance(error, ApiError):
        error = ApiError(error.status_code, str(error.detail), headers=error.headers)
    elif not isinstance(error, ApiError):
        print(f"error: {type(error).__name__}: {error}", file=sys.stderr)
        error = ApiError(500, "The server failed.", code="server_error")
    return JSONResponse(error.as_json(), error.status_code, error.headers)


def _add_reading_routes(app: FastAPI, server: Server) -> None:
    @app.get("/health")
    async def health() -> dict[str, str]:
        """Whether requests are taken."""
        return {"status": "ok"}

    @app.get("/metrics", response_class=PlainTextResponse)
    async def metrics() -> str:
        """Counters in Prometheus' text format."""
        return server.metrics.text(server.engines)

    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        """The models that are served."""
        return {"object": "list", "data": [_about(model) for model in server.models.values()]}

    @app.get("/v1/models/{name:path}")
    async def model(name: str) -> dict[str, Any]:
        """One model."""
        return _about(server.model(name))


def _about(model: Model) -> dict[str, Any]:
    return {
        "id": model.name, "object": "model", "created": model.created, "owned_by": "tutelage", "parent": model.base,
        "context_length": model.context, "task": model.task, "labels": list(model.labels),
    }  # fmt: skip


def _add_answering_routes(app: FastAPI, server: Server) -> None:
    @app.post("/v1/chat/completions", response_model=None)
    async def chat(body: ChatRequest, request: Request) -> Response:
        """The answer to a conversation."""
        model = server.writer(body.model)
        model.engine.check_room(1)  # before the template's work: a server that is full says so quickly
        ids = _rendered(model, body)
        wanted = Wanted(
            body.sampling(), answer_room(model, len(ids), body.max_completion_tokens or body.max_tokens, server.limits),
            _choices(body.n, server), body.stops(), body.seed, (body.top_logprobs or 0) if body.logprobs else None,
            json_rule(model, body.response_format),
        )  # fmt: skip
        return await _answer(server, request, body, ChatShape(model), begin_all(model, [ids], wanted))

    @app.post("/v1/completions", response_model=None)
    async def completions(body: CompletionRequest, request: Request) -> Response:
        """The text that goes on behind a prompt."""
        model = server.writer(body.model)
        model.engine.check_room(1)
        prompts = [_ids(model, prompt) for prompt in body.prompts()]
        room = answer_room(model, max(len(ids) for ids in prompts), body.max_tokens, server.limits)
        n = _choices(body.n * len(prompts), server) // len(prompts)
        wanted = Wanted(body.sampling(), room, n, body.stops(), body.seed, body.logprobs)
        return await _answer(server, request, body, TextShape(model), begin_all(model, prompts, wanted))


def _choices(n: int, server: Server) -> int:
    if n > server.limits.choices:
        raise ApiError(
            400, f"At most {server.limits.choices} answers are given at a time.", code="invalid_value", param="n"
        )
    return n


def _rendered(model: Served, body: ChatRequest) -> list[int]:
    try:
        return [int(i) for i in model.template.prompt([message.message() for message in body.messages])]
    except TutelageError as error:
        raise ApiError(400, error.problems[0].what, code="invalid_value", param="messages") from error
    except Exception as error:  # a template may refuse a conversation with any error
        raise ApiError(
            400, f"The chat template refuses these messages: {error}", code="invalid_value", param="messages"
        ) from error


def _ids(model: Served, prompt: str | list[int]) -> list[int]:
    if isinstance(prompt, str):
        ids: list[int] = model.template.backend.encode(prompt).ids
        return ids
    size = len(model.template.tokenizer)
    if any(token >= size for token in prompt):
        raise ApiError(400, f"Token ids must be below {size}.", code="invalid_value", param="prompt")
    return prompt


async def _answer(
    server: Server, request: Request, body: ChatRequest | CompletionRequest, shape: Shape, answering: Answering
) -> Response:
    gone = asyncio.ensure_future(close_when_gone(request, answering.close))
    started = time.monotonic()

    def done(pieces: list[Piece]) -> None:
        gone.cancel()
        answering.close()
        usage = answering.usage
        server.metrics.answered(usage.prompt, usage.completion, usage.shared, answering.first_token_seconds)
        if server.log is not None:
            text = "".join(piece.text for piece in pieces)
            asked = body.model_dump(include={"messages", "prompt"}, exclude_none=True)
            server.log(
                json.dumps(
                    {"model": body.model, "seconds": round(time.monotonic() - started, 3), **asked, "answer": text}
                )
            )

    if body.stream:
        headers = {"cache-control": "no-store", "x-accel-buffering": "no"}
        with_usage = body.stream_options is not None and body.stream_options.include_usage
        return StreamingResponse(
            _events(shape, answering, with_usage, done), media_type="text/event-stream", headers=headers
        )
    pieces: list[Piece] = []
    try:
        async for piece in answering.pieces():
            pieces.append(piece)
    finally:
        done(pieces)
    choices = [[piece for piece in pieces if piece.index == i] for i in range(len(answering.streams))]
    return JSONResponse(shape.complete(choices, answering.usage))


async def _events(
    shape: Shape, answering: Answering, with_usage: bool, done: Callable[[list[Piece]], None]
) -> AsyncIterator[str]:
    """Server-sent events, `[DONE]` at the end; an error in the middle is an event of its own."""
    pieces: list[Piece] = []
    try:
        openings = [shape.opening(i) for i in range(len(answering.streams))]
        for opening in openings:
            if opening is not None:
                yield _event(shape.chunk([opening]))
        async for piece in answering.pieces():
            pieces.append(piece)
            yield _event(shape.chunk([shape.delta(piece)]))
        if with_usage:
            yield _event(shape.chunk([], answering.usage))
        yield "data: [DONE]\n\n"
    except ApiError as error:
        with suppress(Exception):
            yield _event(error.as_json())
    finally:
        done(pieces)


def _event(value: dict[str, Any]) -> str:
    return f"data: {json.dumps(value, ensure_ascii=False)}\n\n"
