"""Request bodies in, validated models out. Everything that arrives here is hostile."""

import asyncio
from typing import TypeVar

from pydantic import BaseModel, ValidationError
from pydantic_core import from_json
from starlette.requests import Request

from core import wire
from core.config import explain
from core.types import ScoredGroup
from core.wire import WireError
from services.rollout_api.base import Parcel
from services.rollout_api.compression import inflated
from services.rollout_api.group_check import check_json, check_msgpack
from services.rollout_api.messages import MAX_COUNT
from services.rollout_api.refusals import BodyTooLarge, Invalid, Refusal, WrongMediaType

MAX_ID_LENGTH = 200
EXPLAINED_BYTES = 1 << 20  # of a refused group, up to which it is looked at again for a better message
INLINE_BYTES = 16 << 10  # a smaller body is inflated sooner than it is handed to another thread
JSON = "application/json"

M = TypeVar("M", bound=BaseModel)


async def read_body(request: Request, max_bytes: int) -> bytes:
    """The whole body, inflated where it came as gzip or zstd.

    Raises BodyTooLarge as soon as that is known, without reading the rest, and what `inflated` raises.
    """
    encoding = request.headers.get("content-encoding", "identity").strip().lower()
    length = request.headers.get("content-length", "")
    if length.isdigit() and int(length) > max_bytes:
        raise BodyTooLarge(f"body of {length} bytes, {max_bytes} are allowed")
    chunks: list[bytes] = []
    size = 0
    async for chunk in request.stream():
        size += len(chunk)
        if size > max_bytes:
            raise BodyTooLarge(f"body of more than {max_bytes} bytes")
        chunks.append(chunk)
    body = b"".join(chunks)
    if encoding == "identity" or len(body) < INLINE_BYTES:
        return inflated(body, encoding, max_bytes)
    return await asyncio.to_thread(inflated, body, encoding, max_bytes)


def has_left(request: Request) -> bool:
    """Whether the client of a request that was read has gone. Does not wait: it takes one step of asking, and no more."""
    asking = request.receive().__await__()
    try:
        next(asking)
    except StopIteration as answered:
        return answered.value["type"] == "http.disconnect"
    finally:
        asking.close()
    return False


async def read_model(request: Request, kind: type[M], max_bytes: int) -> M:
    """The body as a model of that type.

    Raises WrongMediaType, BodyTooLarge, Refusal (not parseable) and Invalid (not of that type, NaN, infinity).
    """
    media_type = media_type_of(request)
    return validated(kind, _parse(media_type, await read_body(request, max_bytes)))


async def read_group(request: Request, run: str, accepted_at: float, max_bytes: int) -> Parcel:
    """A ScoredGroup as it is kept, in msgpack also where it came as JSON. Raises as `read_model` does."""
    media_type = media_type_of(request)
    body = await read_body(request, max_bytes)
    try:
        head, body = (check_msgpack(body), body) if media_type == wire.CONTENT_TYPE else check_json(body)
    except Invalid:
        if len(body) <= EXPLAINED_BYTES:
            validated(ScoredGroup, _parse(media_type, body))  # slower, and names the nearest field that there is
        raise
    if not 0 < len(head.id) <= MAX_ID_LENGTH:
        raise Invalid(f"ScoredGroup: id has {len(head.id)} characters, 1 to {MAX_ID_LENGTH} are allowed")
    if len(head.environment) > MAX_ID_LENGTH:
        raise Invalid(f"ScoredGroup: environment has {len(head.environment)} characters, {MAX_ID_LENGTH} are allowed")
    for text in (head.id, head.environment):
        check_text(text)
    check_count("policy_version", head.policy_version)
    return Parcel(**head._asdict(), body=body, accepted_at=accepted_at, run=run)


def media_type_of(request: Request) -> str:
    """The content type, one of the two that are spoken. Raises WrongMediaType."""
    found = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    # asked for strictly: a web page cannot send either of them to another origin unasked
    if found not in (wire.CONTENT_TYPE, JSON):
        raise WrongMediaType(f"content-type {found[:80]!r}; expected {wire.CONTENT_TYPE} or {JSON}")
    return found


def validated(kind: type[M], data: object) -> M:
    """Parsed data as a model of that type. Raises Invalid naming the first field that is wrong."""
    try:
        return kind.model_validate(data)
    except ValidationError as error:
        raise Invalid(f"{kind.__name__}: {explain(kind, error)[:500]}") from error


def check_text(text: str) -> None:
    """Refuse text that PostgreSQL cannot hold. Raises Invalid."""
    if "\x00" in text:
        raise Invalid(f"a zero byte in {text[:40]!r}")


def check_count(name: str, value: int) -> None:
    """Refuse a number that does not fit the database. Raises Invalid."""
    if abs(value) > MAX_COUNT:
        raise Invalid(f"{name} {str(value)[:40]} is out of range, {MAX_COUNT} is the largest")


def _parse(media_type: str, body: bytes) -> object:
    try:
        return wire.unpack(body) if media_type == wire.CONTENT_TYPE else from_json(body, allow_inf_nan=False)
    except (WireError, ValueError, RecursionError) as error:
        raise Refusal(f"cannot parse the body as {media_type}: {str(error)[:200]}") from error
