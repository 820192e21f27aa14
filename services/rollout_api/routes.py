"""The routes of dialect /v1 that environments and trainers work with. What only looks is in `reading`."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from functools import partial

import orjson
from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from core import wire
from core.clock import Clock
from core.types import Update
from services.rollout_api.base import NATIVE, Lease
from services.rollout_api.bodies import JSON, check_count, check_text, has_left, read_group, read_model, validated
from services.rollout_api.compression import body_of, frame_of, one_frame
from services.rollout_api.group_check import json_of
from services.rollout_api.messages import DemandQuery, EnvironmentSpec, PostQuery, Receipt, RunChange, RunSpec, TakeBatch
from services.rollout_api.queue import READ_BYTES, GroupQueue
from services.rollout_api.refusals import Conflict, Damaged, Invalid, TryLater

MAX_SMALL_BODY = 1 << 20
MAX_NAME = 200
ZSTD = "application/zstd"


class Routes:
    """One method a route; each reads, asks the queue, answers."""

    def __init__(self, queue: GroupQueue, clock: Clock, max_body_bytes: int) -> None:
        self._queue, self._clock, self._max_body_bytes = queue, clock, max_body_bytes

    def table(self) -> list[Route]:
        """Every path, its method and what answers."""
        return [
            Route("/v1/environments/{name:path}", self.put_environment, methods=["PUT"]),
            Route("/v1/demand", self.get_demand, methods=["GET"]),
            Route("/v1/groups", self.post_group, methods=["POST"]),
            Route("/v1/batches", self.post_batch, methods=["POST"]),
            Route("/v1/batches/{batch_id}/ack", self.post_ack, methods=["POST"]),
            Route("/v1/batches/{batch_id}/return", self.post_return, methods=["POST"]),
            Route("/v1/run", self.post_run, methods=["POST"]),
            Route("/v1/run/status", self.post_run_status, methods=["POST"]),
        ]

    async def put_environment(self, request: Request) -> Response:
        """Registers an environment."""
        name = _name(request.path_params["name"])
        spec = await read_model(request, EnvironmentSpec, MAX_SMALL_BODY)
        await self._queue.register_environment(name, spec)
        return json_answer(spec)

    async def get_demand(self, request: Request) -> Response:
        """How many groups to start. Reports what is being made, which nothing but the next such request reads."""
        query = validated(DemandQuery, dict(request.query_params))
        return json_answer(await self._queue.demand(query))

    async def post_group(self, request: Request) -> Response:
        """Accepts a group once."""
        query = validated(PostQuery, dict(request.query_params))
        for text in (query.run, query.worker):
            check_text(text)
        parcel = await read_group(request, query.run, self._clock.now(), self._max_body_bytes)
        first = await self._queue.put_group(parcel, query.worker, query.handed_over)
        return json_answer(Receipt(id=parcel.id, first=first), status=201 if first else 200)

    async def post_batch(self, request: Request) -> Response:
        """Leases a batch."""
        wanted = await read_model(request, TakeBatch, MAX_SMALL_BODY)
        for text in (wanted.batch_id, wanted.run, *wanted.refused):
            check_text(text)
        lease = await self._queue.take_batch(wanted, partial(has_left, request))
        if lease is None:
            return Response(status_code=204)
        return await batch_answer(self._queue, lease, request.headers)

    async def post_ack(self, request: Request) -> Response:
        """Ends a batch with the update that used it."""
        update = await read_model(request, Update, MAX_SMALL_BODY)
        check_count("policy_version", update.policy_version)
        return json_answer(await self._queue.acknowledge(_name(request.path_params["batch_id"]), update))

    async def post_return(self, request: Request) -> Response:
        """Gives a batch back."""
        await self._queue.return_batch(_name(request.path_params["batch_id"]))
        return Response(status_code=204)

    async def post_run(self, request: Request) -> Response:
        """Opens a run."""
        spec = await read_model(request, RunSpec, MAX_SMALL_BODY)
        for text in (spec.id, spec.dialect):
            check_text(text)
        return json_answer(await self._queue.open_run(spec))

    async def post_run_status(self, request: Request) -> Response:
        """Pauses, continues or finishes a run."""
        change = await read_model(request, RunChange, MAX_SMALL_BODY)
        check_text(change.id)
        return json_answer(await self._queue.change_run(change))


async def batch_answer(queue: GroupQueue, lease: Lease, headers: Mapping[str, str]) -> Response:
    """A BatchReply whose groups go from the disk to the socket, a few at a time.

    `Accept: application/zstd` gets them as they are stored: msgpack in several zstd frames, which costs the server
    nothing. Others get msgpack, or JSON where that is accepted, compressed where the content-encoding zstd is: in one
    frame then, because common clients do not read on behind the first.
    """
    others = {head.dialect for head in lease.heads} - {NATIVE}
    if others:
        raise Conflict(f"run {lease.run!r} holds groups of dialect {', '.join(others)}, which has routes of its own")
    accepted = headers.get("accept", "")
    head = batch_head(lease)
    if ZSTD in accepted:
        head = frame_of(head)
        length = len(head) + sum(one.stored for one in lease.heads)
        parts = _frame_parts(queue, lease, head)
        if length <= READ_BYTES:  # in memory at once in any case
            try:
                return Response(b"".join([part async for part in parts]), media_type=ZSTD)
            except Damaged as error:  # what the disk has lost is dropped by now: the same request gets the others
                raise TryLater(str(error)) from error
        return StreamingResponse(parts, headers={"Content-Length": str(length)}, media_type=ZSTD)
    in_json = JSON in accepted
    parts = _json_parts(queue, lease) if in_json else _plain_parts(queue, lease, head)
    media_type, vary = JSON if in_json else wire.CONTENT_TYPE, {"Vary": "Accept, Accept-Encoding"}
    if "zstd" in headers.get("accept-encoding", ""):
        return StreamingResponse(one_frame(parts), headers={"Content-Encoding": "zstd", **vary}, media_type=media_type)
    if in_json:
        return StreamingResponse(parts, headers=vary, media_type=media_type)
    length = len(head) + sum(one.bytes for one in lease.heads)
    return StreamingResponse(parts, headers={"Content-Length": str(length), **vary}, media_type=media_type)


def batch_head(lease: Lease) -> bytes:
    """The start of a BatchReply in msgpack; the groups as they are stored complete it."""
    return b"".join(
        (
            b"\x82",  # a map of two entries
            wire.pack("batch_id") + wire.pack(lease.batch_id),
            wire.pack("groups") + b"\xdd" + len(lease.heads).to_bytes(4, "big"),  # an array of that length
        )
    )


def json_answer(model: BaseModel, status: int = 200) -> Response:
    """A small model as JSON."""
    return Response(model.model_dump_json(), status_code=status, media_type=JSON)


async def _frame_parts(queue: GroupQueue, lease: Lease, head: bytes) -> AsyncIterator[bytes]:
    yield head
    async for frame in queue.frames(lease.heads):
        yield frame


async def _plain_parts(queue: GroupQueue, lease: Lease, head: bytes) -> AsyncIterator[bytes]:
    yield head
    async for frame in queue.frames(lease.heads):
        yield await asyncio.to_thread(body_of, frame)


async def _json_parts(queue: GroupQueue, lease: Lease) -> AsyncIterator[bytes]:
    yield b'{"batch_id":' + orjson.dumps(lease.batch_id) + b',"groups":['
    first = True
    async for frame in queue.frames(lease.heads):
        body = await asyncio.to_thread(body_of, frame)
        yield (b"" if first else b",") + json_of(body)
        first = False
    yield b"]}"


def _name(text: str) -> str:
    if len(text) > MAX_NAME:
        raise Invalid(f"a name of {len(text)} characters, {MAX_NAME} are allowed")
    check_text(text)
    return text
