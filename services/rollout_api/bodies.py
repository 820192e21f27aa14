"""Request bodies in, validated models out. Everything that arrives here is hostile."""

from hashlib import blake2b
from typing import TypeVar

from pydantic import BaseModel, ValidationError
from pydantic_core import from_json
from starlette.requests import Request

from core import wire
from core.config import explain
from core.types import ScoredGroup
from core.wire import WireError
from services.rollout_api.ledger import Parcel
from services.rollout_api.messages import MAX_COUNT
from services.rollout_api.refusals import BodyTooLarge, Invalid, Refusal, WrongMediaType

MAX_ID_LENGTH = 200
JSON = "application/json"

M = TypeVar("M", bound=BaseModel)


async def read_body(request: Request, max_bytes: int) -> bytes:
    """The whole body. Raises BodyTooLarge as soon as that is known, without reading the rest."""
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
    return b"".join(chunks)


async def read_model(request: Request, kind: type[M], max_bytes: int) -> tuple[M, bytes]:
    """The body as a model of that type, and as msgpack: as it came, or encoded where it came as JSON.

    Raises WrongMediaType, BodyTooLarge, Refusal (not parseable) and Invalid (not of that type, NaN, infinity).
    """
    media_type = media_type_of(request)
    body = await read_body(request, max_bytes)
    model = validated(kind, _parse(media_type, body))
    if media_type == wire.CONTENT_TYPE:
        return model, body
    try:
        return model, wire.encode(model)
    except WireError as error:
        raise Invalid(f"{kind.__name__}: {error}") from error


def media_type_of(request: Request) -> str:
    """The content type, one of the two that are spoken. Raises WrongMediaType."""
    encoding = request.headers.get("content-encoding", "identity")
    if encoding != "identity":
        raise WrongMediaType(f"content-encoding {encoding[:40]!r} is not spoken here; send the body as it is")
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


def parcel_of(group: ScoredGroup, body: bytes, accepted_at: float) -> Parcel:
    """What is kept of a group. Raises Invalid for an id or a version that the database does not take."""
    if not 0 < len(group.id) <= MAX_ID_LENGTH:
        raise Invalid(f"ScoredGroup: id has {len(group.id)} characters, 1 to {MAX_ID_LENGTH} are allowed")
    check_count("policy_version", group.policy_version)
    return Parcel(
        id=group.id,
        environment=group.environment,
        policy_version=group.policy_version,
        scored=len(group.scored),
        lost=len(group.failed),
        digest=blake2b(body, digest_size=16).digest(),
        body=body,
        accepted_at=accepted_at,
    )


def check_count(name: str, value: int) -> None:
    """Refuse a number that does not fit the database. Raises Invalid."""
    if abs(value) > MAX_COUNT:
        raise Invalid(f"{name} {str(value)[:40]} is out of range, {MAX_COUNT} is the largest")


def _parse(media_type: str, body: bytes) -> object:
    try:
        return wire.unpack(body) if media_type == wire.CONTENT_TYPE else from_json(body, allow_inf_nan=False)
    except (WireError, ValueError, RecursionError) as error:
        raise Refusal(f"cannot parse the body as {media_type}: {str(error)[:200]}") from error
