"""The rollout API as an ASGI application: its routes, and how what they raise is answered."""

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from core.clock import Clock
from core.logs import get_logger
from services.rollout_api.access import Access, Tokens
from services.rollout_api.answers import error_answer
from services.rollout_api.atropos import AtroposRoutes
from services.rollout_api.queue import GroupQueue
from services.rollout_api.reading import ReadingRoutes
from services.rollout_api.refusals import Refusal, TryLater
from services.rollout_api.routes import Routes

log = get_logger("rollout_api")


def create_app(queue: GroupQueue, *, clock: Clock, tokens: Tokens, max_body_bytes: int) -> Access:
    """The ASGI application over one queue, which it opens at startup and closes at shutdown."""
    atropos = AtroposRoutes(queue, clock, max_body_bytes)
    routes = [
        *Routes(queue, clock, max_body_bytes).table(),
        *ReadingRoutes(queue).table(),
        *atropos.table(),
    ]

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        async with queue:
            await atropos.load()
            yield

    app = Starlette(routes=routes, lifespan=lifespan, exception_handlers=HANDLERS)
    return Access(app, tokens)


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
