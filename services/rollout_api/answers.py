"""What every refusal of the rollout API looks like."""

from collections.abc import Mapping
from uuid import uuid4

from starlette.requests import Request
from starlette.responses import JSONResponse

from core.logs import get_logger

log = get_logger("rollout_api")


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
