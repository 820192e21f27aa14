"""Where a service may listen, who may speak to it, and how it starts and ends. All three services use this.

Loopback needs no token. Any other address does, and without one nothing starts.
"""

import asyncio
import errno
import ipaddress
import secrets
import signal
import socket
import threading
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache

import uvicorn
from pydantic import SecretStr
from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from core.errors import ConfigError, PortInUse
from core.settings import inherited_descriptor

OPEN_PATHS = frozenset({"/health", "/ready"})
PORTS_TRIED = 50
KEEP_ALIVE_SECONDS = 75  # longer than any client of ours keeps an idle connection, so that none is closed under a request
GRACE_SECONDS = 10


@lru_cache(maxsize=256)  # every request names one
def is_loopback(host: str) -> bool:
    """Whether only this machine can reach that address."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def host_is_loopback(header: str) -> bool:
    """Whether a Host header, which may hold a port, names this machine."""
    return is_loopback(_without_port(header))


def check_bind(host: str, token: SecretStr | None) -> None:
    """Refuse an address that others can reach while there is no token. Raises ConfigError."""
    if is_loopback(host):
        return
    if token is None or not token.get_secret_value().strip():
        raise ConfigError(f"host {host!r} can be reached from other machines: set NATGYM_API_TOKEN, or listen on 127.0.0.1")


def claim_socket(host: str, port: int) -> socket.socket:
    """A listening socket; port 0 is any free one. Raises PortInUse, or ConfigError for an address that is not ours."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except (socket.gaierror, OverflowError) as error:
        raise ConfigError(f"cannot listen on {host}:{port}: {error}") from error
    sock = socket.socket(family, kind, protocol)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(address)
        sock.listen(2048)
    except OSError as error:
        sock.close()
        if error.errno == errno.EADDRINUSE:
            raise PortInUse(f"port {port} on {host} is taken by another program: stop it or choose another port") from error
        raise ConfigError(f"cannot listen on {host}:{port}: {error.strerror}") from error
    sock.setblocking(False)
    return sock


def given_socket() -> socket.socket | None:
    """The listening socket of a supervisor that keeps it open while this service is replaced, so that nobody is refused.

    Raises ConfigError where what was handed over is none.
    """
    descriptor = inherited_descriptor()
    if descriptor is None:
        return None
    try:
        sock = socket.socket(fileno=descriptor)
        if not sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN) or sock.family == socket.AF_UNIX:
            raise OSError("it does not listen on a port")
    except OSError as error:
        raise ConfigError(f"LISTEN_FDS: descriptor {descriptor} is no listening socket: {error}") from error
    sock.setblocking(False)
    return sock


def free_port(host: str, preferred: int) -> int:
    """The preferred port, or the next one above it that nobody listens on. Raises PortInUse after 50 tries."""
    last = min(preferred + PORTS_TRIED, 65536)
    for port in range(preferred, last):
        try:
            claim_socket(host, port).close()
        except PortInUse:
            continue
        return port
    raise PortInUse(f"ports {preferred} to {last - 1} on {host} are all taken: choose another one")


def free_ports(host: str, preferred: Sequence[int]) -> list[int]:
    """A free port for each of the preferred ones, all different. Raises PortInUse."""
    found: list[int] = []
    for port in preferred:
        chosen = free_port(host, port)
        while chosen in found:
            chosen = free_port(host, chosen + 1)
        found.append(chosen)
    return found


def url_of(sock: socket.socket) -> str:
    """The address of a claimed socket, as a client writes it."""
    host, port = sock.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


class BearerAuth:
    """ASGI middleware: 401 without the right bearer token; /health and /ready are open.

    Without a token (loopback only, see `check_bind`) a request has to name a loopback host, so that a web page
    whose name was rebound to 127.0.0.1 is refused with 403.
    """

    def __init__(self, app: ASGIApp, token: SecretStr | None) -> None:
        self._app = app
        self._expected = b"Bearer " + token.get_secret_value().encode() if token is not None else None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, or answer it here."""
        if scope["type"] == "lifespan" or scope["path"] in OPEN_PATHS:
            return await self._app(scope, receive, send)
        headers = Headers(scope=scope)
        if self._expected is None:
            host = headers.get("host", "")
            if host_is_loopback(host):
                return await self._app(scope, receive, send)
            return await _refuse(403, f"host {host[:100]!r} is not this machine; set a token to serve others")(
                scope, receive, send
            )
        # latin-1 is how the header came in, byte for byte
        if secrets.compare_digest(headers.get("authorization", "").encode("latin-1"), self._expected):
            return await self._app(scope, receive, send)
        return await _refuse(401, "a bearer token is needed: Authorization: Bearer <token>")(scope, receive, send)


def make_server(app: ASGIApp, *, on_shutdown: Callable[[], Awaitable[None]] | None = None) -> uvicorn.Server:
    """A uvicorn server without access log, on uvloop and httptools where they are installed.

    `await server.serve(sockets=[sock])` runs it inside a loop; `server.should_exit = True` ends it. `on_shutdown`
    runs before open requests are waited for, so that a service can end its long polls.
    """
    config = uvicorn.Config(
        app,
        log_config=None,
        log_level="warning",
        access_log=False,
        server_header=False,
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=GRACE_SECONDS,
    )
    return _Server(config, on_shutdown)


def run_server(app: ASGIApp, sock: socket.socket, *, on_shutdown: Callable[[], Awaitable[None]] | None = None) -> None:
    """Serve until SIGTERM or SIGINT, finish what is being answered, and return."""
    server = make_server(app, on_shutdown=on_shutdown)
    with signals_end(server), asyncio.Runner(loop_factory=server.config.get_loop_factory()) as runner:
        runner.run(server.serve(sockets=[sock]))


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config, on_shutdown: Callable[[], Awaitable[None]] | None) -> None:
        super().__init__(config)
        self._on_shutdown = on_shutdown

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        if self._on_shutdown is not None:
            await self._on_shutdown()
        await super().shutdown(sockets)


@contextmanager
def signals_end(server: uvicorn.Server) -> Iterator[None]:
    """SIGTERM and SIGINT end the server, also before it listens and without being raised again."""
    # uvicorn raises a caught signal again when it has shut down; with its own handler in place that is harmless,
    # and a signal that comes before it listens is not lost
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, server.handle_exit) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _without_port(host: str) -> str:
    if host.startswith("["):
        return host.partition("]")[0].strip("[")
    return host.rpartition(":")[0] if ":" in host else host


def _refuse(status: int, message: str) -> JSONResponse:
    headers = {"WWW-Authenticate": "Bearer"} if status == 401 else None
    return JSONResponse({"error": message}, status_code=status, headers=headers)
