"""The chat page: four files without build step or outside request."""

from collections.abc import Awaitable, Callable
from importlib.resources import files

from tutelage.serve.web import FastAPI, Response

FILES = {
    "/": ("page.html", "text/html; charset=utf-8"), "/page.js": ("page.js", "text/javascript; charset=utf-8"),
    "/tasks.js": ("tasks.js", "text/javascript; charset=utf-8"), "/page.css": ("page.css", "text/css; charset=utf-8"),
}  # fmt: skip
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'"
)


def add_routes(app: FastAPI) -> None:
    """Serve the page's files, each by its own name: no path is ever built from a request."""
    for route, (name, kind) in FILES.items():
        app.add_api_route(route, _sender(name, kind), methods=["GET"], include_in_schema=False, response_model=None)


def _sender(name: str, kind: str) -> Callable[[], Awaitable[Response]]:
    content = files(__name__).joinpath(name).read_bytes()

    async def send() -> Response:
        return Response(
            content, media_type=kind, headers={"content-security-policy": POLICY, "cache-control": "no-cache"}
        )

    return send
