"""The web framework, which comes with the extra `serve`."""

from tutelage.errors import MissingInputError

try:
    import uvicorn
    from fastapi import FastAPI, Request
    from fastapi.exceptions import RequestValidationError
    from fastapi.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
    from starlette.exceptions import HTTPException
except ImportError as error:
    raise MissingInputError(
        "the server needs FastAPI and uvicorn", why=str(error), fix="pip install 'tutelage[serve]'"
    ) from error

__all__ = [
    "FastAPI", "HTTPException", "JSONResponse", "PlainTextResponse", "Request", "RequestValidationError", "Response",
    "StreamingResponse", "uvicorn",
]  # fmt: skip
