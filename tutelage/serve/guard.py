"""What every request passes before a route sees it: key, Host, Origin, size. Plain ASGI, so that nothing is buffered twice."""

import hashlib
import hmac
import ipaddress
import json
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any
from urllib.parse import parse_qs, urlsplit

from tutelage.serve.problems import ApiError

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

OPEN_ROUTES = {"/health"}
COOKIE = "tutelage_key"
SAFE = {"GET", "HEAD", "OPTIONS"}
HEADERS = [
    (b"x-content-type-options", b"nosniff"), (b"referrer-policy", b"no-referrer"), (b"x-frame-options", b"DENY"),
    (b"cross-origin-resource-policy", b"same-origin"),
]  # fmt: skip
LOOPBACK_NAMES = {"localhost", "127.0.0.1", "::1"}


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches that address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def host_name(value: str) -> str:
    """The name in a Host header or an authority, without its port and brackets."""
    if value.startswith("["):
        return value[1:].partition("]")[0].lower()
    return value.rpartition(":")[0].lower() if value.count(":") == 1 else value.lower()


class Guard:
    """Wraps the app. `hosts` are the names that clients may call the server by: anything else may be DNS rebinding.
    `refused` hears the status of every request that ends here."""

    def __init__(
        self, app: App, *, key: str | None, hosts: set[str], body: int, refused: Callable[[int], None] = lambda status: None
    ) -> None:  # fmt: skip
        self.app = app
        self.refused = refused
        self.key = key
        self.hosts = {host.lower() for host in hosts} | LOOPBACK_NAMES
        self.body = body

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self.app(scope, receive, send)
            return
        headers = _headers(scope)
        try:
            self._check(scope, headers)
        except ApiError as error:
            self.refused(error.status_code)
            await _refuse(send, error)
            return
        if self._wants_cookie(scope):
            await self._give_cookie(send)
            return
        body = _Body(receive, self.body)

        async def shielded(message: MutableMapping[str, Any]) -> None:
            if message["type"] == "http.response.start":
                message = {**message, "headers": [*message.get("headers", []), *HEADERS]}
            await send(message)

        await self.app(scope, body, shielded)

    def _check(self, scope: Scope, headers: dict[str, str]) -> None:
        path = scope["path"]
        if host_name(headers.get("host", "")) not in self.hosts:
            raise ApiError(403, "This Host header is not served here.", code="host_not_allowed")
        origin = headers.get("origin")
        if (
            origin is not None
            and scope["method"] not in SAFE
            and urlsplit(origin).netloc.lower() != headers["host"].lower()
        ):
            raise ApiError(403, "Requests from other web pages are not served.", code="origin_not_allowed")
        length = headers.get("content-length", "0")
        if not length.isdecimal() or int(length) > self.body:
            raise ApiError(413, f"The body is larger than {self.body} bytes.", code="body_too_large")
        if self.key is not None and path not in OPEN_ROUTES and not self._knows_key(scope, headers):
            raise ApiError(
                401, "A correct key is needed: Authorization: Bearer KEY.", code="invalid_api_key",
                headers={"WWW-Authenticate": "Bearer"},
            )  # fmt: skip

    def _knows_key(self, scope: Scope, headers: dict[str, str]) -> bool:
        kind, _, given = headers.get("authorization", "").partition(" ")
        if kind.lower() == "bearer" and _same(given.strip(), self.key or ""):
            return True
        cookies = dict(part.strip().partition("=")[::2] for part in headers.get("cookie", "").split(";"))
        return _same(cookies.get(COOKIE, ""), self._cookie()) or self._wants_cookie(scope)

    def _wants_cookie(self, scope: Scope) -> bool:
        """A browser that opens the printed address `/?key=…` gets the key as a cookie, out of sight of scripts."""
        if self.key is None or scope["path"] != "/" or scope["method"] != "GET":
            return False
        given = parse_qs(scope.get("query_string", b"").decode("latin-1")).get("key", [""])[0]
        return _same(given, self.key)

    def _cookie(self) -> str:
        return hashlib.sha256(f"tutelage cookie {self.key}".encode()).hexdigest()

    async def _give_cookie(self, send: Send) -> None:
        cookie = f"{COOKIE}={self._cookie()}; Path=/; HttpOnly; SameSite=Strict"
        headers = [(b"location", b"/"), (b"set-cookie", cookie.encode()), (b"content-length", b"0"), *HEADERS]
        await send({"type": "http.response.start", "status": 303, "headers": headers})
        await send({"type": "http.response.body", "body": b""})


class _Body:
    """`receive` that stops a body without a length, or with a wrong one, at the limit."""

    def __init__(self, receive: Receive, most: int) -> None:
        self.receive = receive
        self.most = most
        self.seen = 0

    async def __call__(self) -> MutableMapping[str, Any]:
        message = await self.receive()
        if message["type"] == "http.request":
            self.seen += len(message.get("body", b""))
            if self.seen > self.most:
                raise ApiError(413, f"The body is larger than {self.most} bytes.", code="body_too_large")
        return message


def _headers(scope: Scope) -> dict[str, str]:
    return {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}


def _same(given: str, wanted: str) -> bool:
    """Compared in constant time."""
    return hmac.compare_digest(given.encode("utf-8", "replace"), wanted.encode())


async def _refuse(send: Send, error: ApiError) -> None:
    body = json.dumps(error.as_json()).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode()), *HEADERS]
    headers += [(name.lower().encode(), value.encode()) for name, value in (error.headers or {}).items()]
    await send({"type": "http.response.start", "status": error.status_code, "headers": headers})
    await send({"type": "http.response.body", "body": body})
