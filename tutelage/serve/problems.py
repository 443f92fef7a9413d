"""Errors in OpenAI's shape, so that its client raises the typed errors that it knows."""

from collections.abc import Mapping, Sequence
from typing import Any

from tutelage.serve.web import HTTPException


class ApiError(HTTPException):
    """A request that is not answered. `param` names the field at fault, `code` is for programs."""

    def __init__(
        self, status: int, message: str, *, code: str | None = None, param: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:  # fmt: skip
        super().__init__(status, message, dict(headers or {}))
        self.code = code
        self.param = param

    def as_json(self) -> dict[str, Any]:
        """The body."""
        kind = KINDS.get(self.status_code, "invalid_request_error" if self.status_code < 500 else "server_error")
        return {"error": {"message": self.detail, "type": kind, "param": self.param, "code": self.code}}


KINDS = {401: "authentication_error", 403: "permission_error", 404: "not_found_error", 429: "rate_limit_error"}


def too_long(prompt: int, answer: int, context: int) -> ApiError:
    """A prompt that leaves no room for the answer."""
    return ApiError(
        400,
        f"This model's maximum context length is {context} tokens. However, you requested {prompt + answer} tokens "
        f"({prompt} in the prompt, {answer} in the completion). Please reduce the length of either.",
        code="context_length_exceeded", param="messages",
    )  # fmt: skip


def unknown_model(name: str, known: list[str]) -> ApiError:
    """A model that is not served."""
    return ApiError(
        404,
        f"The model `{name[:200]}` does not exist. Served here: {', '.join(known)}.",
        code="model_not_found",
        param="model",
    )


def unsuited_model(name: str, about: str, routes: Sequence[str]) -> ApiError:
    """A model that is asked for what it does not do."""
    return ApiError(
        404, f"The model `{name}` {about}: ask it at {' or '.join(routes)}.", code="model_not_suited", param="model",
    )  # fmt: skip


def busy(seconds: int) -> ApiError:
    """A full queue."""
    return ApiError(
        429, f"All slots and the queue are full. Try again in {seconds} s.", code="queue_full",
        headers={"Retry-After": str(seconds)},
    )  # fmt: skip


def invalid(errors: list[Any]) -> ApiError:
    """What pydantic or FastAPI say of a body that does not fit."""
    first = errors[0] if errors else {"loc": (), "msg": "invalid request"}
    place = ".".join(str(part) for part in first.get("loc", ()) if part not in ("body", "query"))
    others = f" (and {len(errors) - 1} more problems)" if len(errors) > 1 else ""
    return ApiError(
        400,
        f"{place + ': ' if place else ''}{first.get('msg', 'invalid')}{others}",
        code="invalid_value",
        param=place or None,
    )
