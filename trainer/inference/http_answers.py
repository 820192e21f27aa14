"""From errors to OpenAI's error shape, from bytes to a body, from events to a stream, and callers who hang up."""

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator, Coroutine
from contextlib import aclosing
from typing import TypeVar

import orjson
from pydantic import BaseModel, ValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse

from core.config import validated
from core.errors import NatgymError, UserError
from core.logs import get_logger
from core.types import JsonObject
from trainer.inference.base import ClientQueueFull, EngineClosed, QueueFull
from trainer.inference.served import UnknownModel

log = get_logger("inference_server")

MAX_BODY_BYTES = 16 << 20
CLIENT_GONE = 499

B = TypeVar("B", bound=BaseModel)
T = TypeVar("T")


class ClientGone(NatgymError):
    """The caller closed the connection; nobody reads the answer."""


class JsonAnswer(JSONResponse):
    """An answer in JSON. Half of a surrogate pair, which a caller's text may hold and UTF-8 cannot, goes as its escape."""

    def render(self, content: object) -> bytes:
        """Its bytes."""
        try:
            return orjson.dumps(content)
        except TypeError:
            return json.dumps(content, separators=(",", ":")).encode()


async def read_body(request: Request, kind: type[B]) -> B:
    """The body as that type. Raises what `read_object` raises, and ConfigError for another shape."""
    return validated(kind, await read_object(request), "body")


async def read_object(request: Request) -> JsonObject:
    """The body as a JSON object; who gives no `user` is known by its address.

    Raises UserError for anything else, HTTPException 413 where it is too large.
    """
    received = bytearray()
    async for part in request.stream():
        received += part
        if len(received) > MAX_BODY_BYTES:
            raise HTTPException(413, f"the body is larger than {MAX_BODY_BYTES} bytes")
    try:
        data = json.loads(received)
    except (ValueError, RecursionError) as error:
        raise UserError(f"the body is not JSON: {error}") from error
    if not isinstance(data, dict):
        raise UserError(f"the body is not a JSON object but a {type(data).__name__}")
    if not data.get("user") and request.client is not None:
        data["user"] = request.client.host
    return data


async def while_connected(request: Request, work: Coroutine[object, object, T]) -> T:
    """What `work` returns; it is cancelled, and ClientGone raised, when the caller hangs up."""
    working = asyncio.create_task(work)
    leaving = asyncio.create_task(_disconnected(request))
    leaving.add_done_callback(lambda _: working.cancel())
    try:
        return await working
    except asyncio.CancelledError:
        if leaving.done() and not leaving.cancelled():
            raise ClientGone("the caller hung up") from None
        raise
    finally:
        leaving.cancel()


async def event_stream(request: Request, events: AsyncGenerator[JsonObject, None]) -> StreamingResponse:
    """Server-sent events. The first is awaited here, so that a refusal still has a status of its own."""
    first = await while_connected(request, _next(events))
    return StreamingResponse(_lines(first, events), media_type="text/event-stream", headers={"cache-control": "no-cache"})


def error_body(message: str, kind: str) -> JsonObject:
    """OpenAI's shape of an error."""
    return {"error": {"message": message, "type": kind, "param": None, "code": None}}


async def on_error(_: Request, error: Exception) -> Response:
    """The answer to what a route raised."""
    headers = None
    if isinstance(error, HTTPException):
        status, kind, message = error.status_code, "invalid_request_error", error.detail
    elif isinstance(error, QueueFull):
        mine = isinstance(error, ClientQueueFull)
        status, kind, message = (429, "rate_limit_error", str(error)) if mine else (503, "server_busy", str(error))
        headers = {"retry-after": f"{error.retry_after_seconds:.0f}"}
    else:
        status, kind = _status(error)
        message = _one_line(error)
    if status >= 500:
        log.warning("request_failed", status=status, error=message)
    return JsonAnswer(error_body(message, kind), status_code=status, headers=headers)


def _status(error: Exception) -> tuple[int, str]:
    table: tuple[tuple[type[Exception], int, str], ...] = (
        (UnknownModel, 404, "not_found_error"),
        (UserError, 400, "invalid_request_error"),
        (ValidationError, 400, "invalid_request_error"),
        (ClientGone, CLIENT_GONE, "client_gone"),
        (EngineClosed, 503, "server_busy"),
    )
    return next(((status, kind) for type_, status, kind in table if isinstance(error, type_)), (500, "server_error"))


def _one_line(error: Exception) -> str:
    if isinstance(error, ValidationError):
        first = error.errors(include_url=False)[0]
        return f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
    return str(error) if isinstance(error, NatgymError) else f"{type(error).__name__}: {error}"


async def _next(events: AsyncGenerator[JsonObject, None]) -> JsonObject:
    return await anext(events)


async def _lines(first: JsonObject, events: AsyncGenerator[JsonObject, None]) -> AsyncIterator[str]:
    yield _line(first)
    try:
        async with aclosing(events):
            async for event in events:
                yield _line(event)
    except NatgymError as error:  # the status is sent: the stream itself has to say it
        yield _line(error_body(str(error), _status(error)[1]))
    yield "data: [DONE]\n\n"


def _line(event: JsonObject) -> str:
    return f"data: {json.dumps(event, separators=(',', ':'))}\n\n"


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
