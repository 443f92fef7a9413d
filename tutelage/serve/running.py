"""The server as a process: address, key, signals."""

import secrets
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from tutelage.errors import OutputError, UsageError
from tutelage.serve.app import make_app
from tutelage.serve.guard import Guard, is_loopback
from tutelage.serve.server import Server
from tutelage.serve.web import uvicorn

HEADER_SECONDS = 10  # an idle connection is closed after this
MOST_CONNECTIONS = 1024


@dataclass(frozen=True)
class Address:
    """Where the server listens, under which names it may be called, and the key that it wants."""

    host: str
    port: int
    key: str | None
    names: tuple[str, ...] = ()


def settle(host: str, port: int, key: str | None, names: tuple[str, ...]) -> Address:
    """The address with a key where others can reach it: one is made up where none was given."""
    if not 0 <= port < 65536:
        raise UsageError(f"port must be between 0 and 65535, and is {port}", where="port")
    if key is not None and len(key) < 8:
        raise UsageError("the key must have at least 8 characters", where="api_key", fix="leave it out: one is made up")
    if key is None and not is_loopback(host):
        key = secrets.token_urlsafe(24)
    return Address(host, port, key, names)


def listen(address: Address) -> socket.socket:
    """A bound socket; an address that is taken or not ours is an OutputError."""
    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    # asyncio switches Nagle's algorithm off only where the protocol is named; with it each answer on a connection that is kept
    # waited 40 ms for the client's acknowledgement of its headers
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((address.host, address.port))
    except OSError as error:
        listener.close()
        raise OutputError(
            "cannot listen here", where=f"{address.host}:{address.port}", why=error.strerror or str(error),
            fix="choose another one: --port 8001",
        ) from error  # fmt: skip
    return listener


def url_of(address: Address, listener: socket.socket) -> str:
    """What a browser on this machine opens."""
    host = f"[{address.host}]" if ":" in address.host else address.host
    port = listener.getsockname()[1]
    return f"http://{host}:{port}/" + (f"?key={address.key}" if address.key else "")


def run(server: Server, address: Address, listener: socket.socket, say: Callable[[str], None]) -> None:
    """Serve until SIGINT or SIGTERM, then return: no more connections are taken, and those that are open have time to end."""
    names = {address.host, *address.names} - {"0.0.0.0", "::"}
    if address.host in ("0.0.0.0", "::"):
        names |= {socket.gethostname().lower()}
    app: Any = Guard(make_app(server), key=address.key, hosts=names, body=server.limits.body, refused=server.refused)
    config = uvicorn.Config(
        app, log_level="warning", access_log=False, lifespan="on", timeout_keep_alive=HEADER_SECONDS,
        limit_concurrency=MOST_CONNECTIONS, timeout_graceful_shutdown=int(server.limits.drain), server_header=False,
        ws="none",
    )  # fmt: skip
    say(f"serving {', '.join(sorted(server.models))} on {url_of(address, listener)}")
    if address.key is not None:
        say(f"key: {address.key}")
    running = uvicorn.Server(config)
    with signals_stop(running):
        running.run(sockets=[listener])


@contextmanager
def signals_stop(running: Any) -> Iterator[None]:
    """Let SIGINT and SIGTERM stop the server and nothing else: uvicorn raises them once more when it has ended, and that would
    end the process before anyone hears what was served."""
    if threading.current_thread() is not threading.main_thread():  # no signals come here
        yield
        return

    def stop(*_: object) -> None:
        running.should_exit = True

    before = {which: signal.signal(which, stop) for which in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for which, handler in before.items():
            signal.signal(which, handler)
