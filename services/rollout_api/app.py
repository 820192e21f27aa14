"""The rollout API as an ASGI application: its routes, and how what they raise is answered."""

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from core.clock import Clock
from core.logs import get_logger
from services.rollout_api.access import Access, Tokens
from services.rollout_api.answers import error_answer
from services.rollout_api.atropos import AtroposRoutes
from services.rollout_api.queue import GroupQueue
from services.rollout_api.reading import ReadingRoutes
from services.rollout_api.refusals import Refusal, TryLater
from services.rollout_api.routes import Routes

Handler = Callable[[Request], Awaitable[Response]]

log = get_logger("rollout_api")


def create_app(queue: GroupQueue, *, clock: Clock, tokens: Tokens, max_body_bytes: int) -> Access:
    """The ASGI application over one queue, which it opens at startup and closes at shutdown."""
    native, atropos = Routes(queue, clock, max_body_bytes), AtroposRoutes(queue, clock, max_body_bytes)
    routes = [
        *native.table(),
        *ReadingRoutes(queue).table(),
        *atropos.table(),
    ]

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        async with queue:
            await atropos.load()
            yield

    app = Starlette(routes=routes, lifespan=lifespan, exception_handlers=HANDLERS)
    posts = {"/v1/groups": native.post_group, "/scored_data": atropos.post_scored_data}
    return Access(DirectPosts(app, queue, posts), tokens)


class DirectPosts:
    """ASGI: groups that are posted go straight to what accepts them, everything else through the application's routes.

    The same handlers and the same refusals, without what looking for a route costs for each of them.
    """

    def __init__(self, app: ASGIApp, queue: GroupQueue, posts: Mapping[str, Handler]) -> None:
        self.app, self._queue, self._posts = app, queue, posts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer the request."""
        accept = self._posts.get(scope["path"]) if scope["type"] == "http" and scope["method"] == "POST" else None
        if accept is None:
            await self.app(scope, receive, send)
            return
        request = Request(scope, receive, send)
        try:
            with self._queue.post():
                response = await accept(request)
        except Exception as error:
            response = await next(HANDLERS[kind] for kind in type(error).__mro__ if kind in HANDLERS)(request, error)
        await response(scope, receive, send)


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
