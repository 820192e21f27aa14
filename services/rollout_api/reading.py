"""The routes of the rollout API that change nothing: groups, listings, events, status, metrics, health."""

import asyncio

from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

from core import wire
from services.rollout_api.base import NATIVE, Event
from services.rollout_api.bodies import JSON, check_text, validated
from services.rollout_api.compression import body_of
from services.rollout_api.events import KINDS
from services.rollout_api.group_check import json_of
from services.rollout_api.messages import GroupFilter, GroupPage
from services.rollout_api.metrics import METRICS_TYPE, exposition
from services.rollout_api.openapi import openapi
from services.rollout_api.queue import GroupQueue
from services.rollout_api.refusals import Invalid, NotKnown
from services.rollout_api.routes import json_answer


class ReadingRoutes:
    """One method a route."""

    def __init__(self, queue: GroupQueue) -> None:
        self._queue = queue

    def table(self) -> list[Route]:
        """Every path and what answers."""
        return [
            Route("/v1/groups", self.get_groups, methods=["GET"]),
            Route("/v1/groups/{id:path}", self.get_group, methods=["GET"]),
            Route("/v1/events", self.get_events, methods=["GET"]),
            Route("/v1/status", self.get_status, methods=["GET"]),
            Route("/v1/openapi.json", self.get_openapi, methods=["GET"]),
            Route("/metrics", self.get_metrics, methods=["GET"]),
            Route("/health", self.get_health, methods=["GET"]),
            Route("/ready", self.get_ready, methods=["GET"]),
        ]

    async def get_groups(self, request: Request) -> Response:
        """A page of facts, newest first; see GroupFilter for the query."""
        wanted = validated(GroupFilter, dict(request.query_params))
        for text in (wanted.id, wanted.run, wanted.environment, wanted.batch_id):
            check_text(text or "")
        groups = await self._queue.groups(wanted)
        more = len(groups) == wanted.limit
        return json_answer(GroupPage(groups=tuple(groups), before=groups[-1].arrival if more else None))

    async def get_group(self, request: Request) -> Response:
        """One group as it was posted: msgpack, or JSON where that is accepted. 404 where its content is gone."""
        name = request.path_params["id"]
        check_text(name)
        found = await self._queue.groups(GroupFilter(id=name, limit=1))
        if not found:
            raise NotKnown(f"no group {name[:80]!r}; GET /v1/groups lists them")
        facts = found[0]
        body = await asyncio.to_thread(body_of, await self._queue.group_frame(facts))
        headers = {"X-Group-State": facts.state.value, "X-Group-Dialect": facts.dialect}
        if facts.dialect != NATIVE:
            return Response(body, media_type=JSON, headers=headers)
        if JSON in request.headers.get("accept", ""):
            return Response(json_of(body), media_type=JSON, headers=headers)
        return Response(body, media_type=wire.CONTENT_TYPE, headers=headers)

    async def get_events(self, request: Request) -> Response:
        """Server-sent events of groups, batches, updates, runs and environments: `?kinds=batch,update&run=NAME`."""
        kinds = set(request.query_params.get("kinds", ",".join(KINDS)).split(","))
        if not kinds <= set(KINDS):
            raise Invalid(f"kinds {','.join(sorted(kinds - set(KINDS)))[:80]!r}; known: {', '.join(KINDS)}")
        run = request.query_params.get("run")

        def wanted(event: Event) -> bool:
            return event.kind in kinds and run in (None, event.run)

        stream = self._queue.feed.follow(request.headers.get("last-event-id", ""), wanted)
        return StreamingResponse(stream, media_type="text/event-stream", headers={"Cache-Control": "no-store"})

    async def get_status(self, request: Request) -> Response:
        """Counts, run and environments; `?run=NAME` of another run than the one opened last."""
        return json_answer(self._queue.status(request.query_params.get("run", "")))

    async def get_openapi(self, request: Request) -> Response:
        """What this dialect is, for programs."""
        return JSONResponse(openapi())

    async def get_metrics(self, request: Request) -> Response:
        """Prometheus text."""
        return PlainTextResponse(
            exposition(self._queue.snapshot, self._queue.running(), self._queue.commits), media_type=METRICS_TYPE
        )

    async def get_health(self, request: Request) -> Response:
        """The process answers."""
        return JSONResponse({"status": "ok"})

    async def get_ready(self, request: Request) -> Response:
        """The queue takes work."""
        ready = self._queue.ready
        return JSONResponse({"status": "ready" if ready else "not ready"}, status_code=200 if ready else 503)
