"""A real HTTP server on loopback that answers as it is told, for tests of policies."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from core.types import JsonObject

Reply = JsonObject | bytes | Callable[[JsonObject], JsonObject]


@dataclass
class InferenceServer:
    """What it was asked, and the replies that are left; `(status, headers, body)` is sent as it stands."""

    url: str
    replies: list[Reply | tuple[int, dict[str, str], bytes]]
    bodies: list[JsonObject] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)

    async def answer(self, request: Request) -> Response:
        self.bodies.append(await request.json())
        self.paths.append(request.url.path)
        self.headers.append(dict(request.headers))
        reply = self.replies.pop(0)
        if isinstance(reply, tuple):
            status, headers, body = reply
            return Response(body, status, headers)
        if callable(reply):
            reply = reply(self.bodies[-1])
        return Response(reply if isinstance(reply, bytes) else json.dumps(reply), media_type="application/json")


@asynccontextmanager
async def inference_server(*replies: Reply | tuple[int, dict[str, str], bytes]) -> AsyncIterator[InferenceServer]:
    """Serve these replies, one a request, on a free port."""
    state = InferenceServer("", list(replies))
    app = Starlette(routes=[Route("/{path:path}", state.answer, methods=["POST"])])
    server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=0, log_level="error", lifespan="off"))
    serving = asyncio.create_task(server.serve())
    while not server.started:
        await asyncio.sleep(0.005)
    state.url = f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    try:
        yield state
    finally:
        server.should_exit = True
        await serving


def generated(ids: Sequence[int], finish: str = "stop", version: int | str = 3) -> JsonObject:
    """An answer of SGLang's `/generate`; token i has the logprob -i / 8."""
    return {
        "output_ids": list(ids),
        "meta_info": {
            "output_token_logprobs": [[-place / 8, index, None] for place, index in enumerate(ids)],
            "finish_reason": {"type": finish},
            "weight_version": version,
        },
    }


def chatted(message: JsonObject, finish: str = "stop", **more: object) -> JsonObject:
    """An answer of `/v1/chat/completions`."""
    return {"choices": [{"index": 0, "message": {"role": "assistant", **message}, "finish_reason": finish}], **more}
