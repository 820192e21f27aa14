"""The HTTP face of the queue, dialect /v1."""

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager

from pydantic import BaseModel, SecretStr
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from core import wire
from core.clock import Clock
from core.logs import get_logger
from core.types import ScoredGroup, Update
from services.bind import BearerAuth
from services.rollout_api.bodies import JSON, check_count, parcel_of, read_model, validated
from services.rollout_api.ledger import Lease
from services.rollout_api.messages import BatchReply, DemandQuery, EnvironmentSpec, Receipt, RunChange, RunSpec, TakeBatch
from services.rollout_api.metrics import METRICS_TYPE, exposition
from services.rollout_api.refusals import Invalid, Refusal, TryLater
from services.rollout_api.store import Store

MAX_SMALL_BODY = 1 << 20

log = get_logger("rollout_api")


def create_app(store: Store, *, clock: Clock, token: SecretStr | None, max_body_bytes: int) -> BearerAuth:
    """The ASGI application over one store, which it opens at startup and closes at shutdown."""
    routes = Routes(store, clock, max_body_bytes)

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        async with store:
            yield

    app = Starlette(routes=routes.table(), lifespan=lifespan, exception_handlers=HANDLERS)
    return BearerAuth(app, token)


class Routes:
    """One method a route; each reads, asks the store, answers."""

    def __init__(self, store: Store, clock: Clock, max_body_bytes: int) -> None:
        self._store, self._clock, self._max_body_bytes = store, clock, max_body_bytes

    def table(self) -> list[Route]:
        """Every path, its method and what answers."""
        return [
            Route("/v1/environments/{name:path}", self.put_environment, methods=["PUT"]),
            Route("/v1/demand", self.get_demand, methods=["GET"]),
            Route("/v1/groups", self.post_group, methods=["POST"]),
            Route("/v1/batches", self.post_batch, methods=["POST"]),
            Route("/v1/batches/{batch_id}/ack", self.post_ack, methods=["POST"]),
            Route("/v1/run", self.post_run, methods=["POST"]),
            Route("/v1/run/status", self.post_run_status, methods=["POST"]),
            Route("/v1/status", self.get_status, methods=["GET"]),
            Route("/metrics", self.get_metrics, methods=["GET"]),
            Route("/health", self.get_health, methods=["GET"]),
            Route("/ready", self.get_ready, methods=["GET"]),
        ]

    async def put_environment(self, request: Request) -> Response:
        name = request.path_params["name"]
        if len(name) > 200:
            raise Invalid(f"environment name of {len(name)} characters, 200 are allowed")
        spec, _ = await read_model(request, EnvironmentSpec, MAX_SMALL_BODY)
        await self._store.register_environment(name, spec)
        return _json(spec)

    async def get_demand(self, request: Request) -> Response:
        query = validated(DemandQuery, dict(request.query_params))
        return _json(await self._store.demand(query))

    async def post_group(self, request: Request) -> Response:
        group, body = await read_model(request, ScoredGroup, self._max_body_bytes)
        worker = request.query_params.get("worker", "")
        first = await self._store.accept_group(parcel_of(group, body, self._clock.now()), worker)
        return _json(Receipt(id=group.id, first=first), status=201 if first else 200)

    async def post_batch(self, request: Request) -> Response:
        wanted, _ = await read_model(request, TakeBatch, MAX_SMALL_BODY)
        lease = await self._store.take_batch(wanted, request.is_disconnected)
        if lease is None:
            return Response(status_code=204)
        body = batch_body(lease)
        if JSON in request.headers.get("accept", ""):
            return _json(wire.decode(BatchReply, body))
        return Response(body, media_type=wire.CONTENT_TYPE)

    async def post_ack(self, request: Request) -> Response:
        update, _ = await read_model(request, Update, MAX_SMALL_BODY)
        check_count("policy_version", update.policy_version)
        return _json(await self._store.acknowledge(request.path_params["batch_id"], update))

    async def post_run(self, request: Request) -> Response:
        spec, _ = await read_model(request, RunSpec, MAX_SMALL_BODY)
        return _json(await self._store.open_run(spec))

    async def post_run_status(self, request: Request) -> Response:
        change, _ = await read_model(request, RunChange, MAX_SMALL_BODY)
        return _json(await self._store.change_run(change))

    async def get_status(self, request: Request) -> Response:
        return _json(self._store.status())

    async def get_metrics(self, request: Request) -> Response:
        return PlainTextResponse(exposition(self._store.status(), self._store.commits), media_type=METRICS_TYPE)

    async def get_health(self, request: Request) -> Response:
        return JSONResponse({"status": "ok"})

    async def get_ready(self, request: Request) -> Response:
        ready = self._store.ready
        return JSONResponse({"status": "ready" if ready else "not ready"}, status_code=200 if ready else 503)


def batch_body(lease: Lease) -> bytes:
    """A BatchReply in msgpack around the raw groups, none of which is decoded."""
    return b"".join(
        (
            b"\x82",  # a map of two entries
            wire.pack("batch_id") + wire.pack(lease.batch_id),
            wire.pack("groups") + b"\xdd" + len(lease.bodies).to_bytes(4, "big"),  # an array of that length
            *lease.bodies,
        )
    )


def _json(model: BaseModel, status: int = 200) -> Response:
    return Response(model.model_dump_json(), status_code=status, media_type=JSON)


async def _refused(request: Request, error: Exception) -> Response:
    if not isinstance(error, Refusal):
        return await _broken(request, error)
    headers: Mapping[str, str] | None = None
    if isinstance(error, TryLater):
        headers = {"Retry-After": str(error.retry_after_seconds)}
    log.warning("refused", path=request.url.path, status=error.status, error=str(error))
    return JSONResponse({"error": str(error)}, status_code=error.status, headers=headers)


async def _no_route(request: Request, error: Exception) -> Response:
    status, detail = (error.status_code, error.detail) if isinstance(error, HTTPException) else (500, "internal error")
    headers = error.headers if isinstance(error, HTTPException) else None
    return JSONResponse({"error": f"{request.method} {request.url.path[:200]}: {detail}"}, status, headers=headers)


async def _gone(request: Request, error: Exception) -> Response:
    return Response(status_code=400)  # nobody reads it


async def _broken(request: Request, error: Exception) -> Response:
    log.error("request_failed", path=request.url.path, error=f"{type(error).__name__}: {error}")
    return JSONResponse({"error": "internal error, see the log of the rollout API"}, status_code=500)


HANDLERS: Mapping[int | type[Exception], Callable[[Request, Exception], Awaitable[Response]]] = {
    Refusal: _refused,
    HTTPException: _no_route,
    ClientDisconnect: _gone,
    Exception: _broken,
}
