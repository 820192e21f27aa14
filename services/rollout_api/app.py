"""The rollout API as an ASGI application: its routes, and how what they raise is answered."""

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from uuid import uuid4

from pydantic import SecretStr
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response

from core.clock import Clock
from core.logs import get_logger
from services.bind import BearerAuth
from services.rollout_api.queue import GroupQueue
from services.rollout_api.reading import ReadingRoutes
from services.rollout_api.refusals import Refusal, TryLater
from services.rollout_api.routes import Routes

log = get_logger("rollout_api")


def create_app(queue: GroupQueue, *, clock: Clock, token: SecretStr | None, max_body_bytes: int) -> BearerAuth:
    """The ASGI application over one queue, which it opens at startup and closes at shutdown."""
    routes = [
        *Routes(queue, clock, max_body_bytes).table(),
        *ReadingRoutes(queue).table(),
    ]

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        async with queue:
            yield

    app = Starlette(routes=routes, lifespan=lifespan, exception_handlers=HANDLERS)
    return BearerAuth(app, token)


def request_id_of(request: Request) -> str:
    """What the caller called this request, else a name of our own: 200 printable characters at most."""
    found = request.headers.get("x-request-id", "")
    return found if found.isascii() and found.isprintable() and 0 < len(found) <= 200 else uuid4().hex


def error_answer(request: Request, status: int, error: str, headers: Mapping[str, str] | None = None) -> JSONResponse:
    """What every refusal looks like: {"error": why, "request_id": for the log}."""
    request_id = request_id_of(request)
    if status != 404:
        log.warning("refused", path=request.url.path[:200], status=status, error=error, request_id=request_id)
    return JSONResponse({"error": error, "request_id": request_id}, status, {**(headers or {}), "X-Request-Id": request_id})


async def _refused(request: Request, error: Exception) -> Response:
    if not isinstance(error, Refusal):
        return await _broken(request, error)
    headers = {"Retry-After": str(error.retry_after_seconds)} if isinstance(error, TryLater) else None
    return error_answer(request, error.status, str(error), headers)


async def _no_route(request: Request, error: Exception) -> Response:
    status, detail = (error.status_code, error.detail) if isinstance(error, HTTPException) else (500, "internal error")
    headers = error.headers if isinstance(error, HTTPException) else None
    return error_answer(request, status, f"{request.method} {request.url.path[:200]}: {detail}", headers)


async def _gone(request: Request, error: Exception) -> Response:
    return Response(status_code=400)  # nobody reads it


async def _broken(request: Request, error: Exception) -> Response:
    log.error("request_failed", path=request.url.path[:200], error=f"{type(error).__name__}: {error}")
    return error_answer(request, 500, "internal error, see the log of the rollout API")


HANDLERS: Mapping[int | type[Exception], Callable[[Request, Exception], Awaitable[Response]]] = {
    Refusal: _refused,
    HTTPException: _no_route,
    ClientDisconnect: _gone,
    Exception: _broken,
}
