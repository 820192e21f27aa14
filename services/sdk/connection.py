"""Requests to one rollout API, each sent until it is answered.

aiohttp, because a request costs it a fraction of what it costs httpx, and a step of a small model is a dozen of them.
"""

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from io import BytesIO
from typing import NamedTuple

import aiohttp
from pydantic import BaseModel, SecretStr
from yarl import URL

from core import wire
from core.errors import QueueError
from core.logs import get_logger

FIRST_PAUSE_SECONDS = 0.1
LONGEST_PAUSE_SECONDS = 2.0
ANSWER_SECONDS = 60.0  # for a large batch over a slow line, on top of what was asked to wait
CONNECT_SECONDS = 5.0

log = get_logger("rollout_client")


class Answer(NamedTuple):
    """What came back, and of which request."""

    request: str
    """Method and path, for people."""
    status: int
    body: bytes


class Refused(QueueError):
    """An answer that will be the same next time."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class Connection:
    """A pool of connections. Every request may be sent twice without harm: its id comes from the caller."""

    def __init__(self, base_url: str, token: SecretStr | None, retry_seconds: float) -> None:
        self._base_url, self._retry_seconds = base_url.rstrip("/"), retry_seconds
        self._headers = {"Authorization": f"Bearer {token.get_secret_value()}"} if token is not None else {}
        self._session: aiohttp.ClientSession | None = None

    async def aclose(self) -> None:
        """Close the connections."""
        if self._session is not None:
            await self._session.close()

    async def send(
        self, method: str, path: str, body: BaseModel | None = None, *, wait_seconds: float = 0.0, accept: str = "*/*"
    ) -> Answer:
        """The answer; a lost connection and a 503 are tried again for `retry_seconds`.

        Raises QueueError at the end of that time, and Refused for an answer that will be the same next time.
        """
        data, loop, pause = wire.encode(body) if body is not None else None, asyncio.get_running_loop(), FIRST_PAUSE_SECONDS
        headers = {"Accept": accept} | ({"Content-Type": wire.CONTENT_TYPE} if body is not None else {})
        give_up_at, request = loop.time() + self._retry_seconds, _request(method, path)
        while True:
            try:
                async with self._open(method, path, headers, wait_seconds, data) as response:
                    answer = Answer(request, response.status, await response.read())
                if answer.status < 300:
                    return answer
                problem = f"{answer.status} {_reason(answer, response.reason)}"
                if answer.status != 503:
                    raise Refused(answer.status, f"{request}: {problem}")
            except (aiohttp.ClientError, TimeoutError) as error:
                problem = f"{type(error).__name__} {error}".strip()
            if loop.time() + pause > give_up_at:
                raise QueueError(f"{request}: {problem}, for {self._retry_seconds:g} seconds")
            log.warning("retry", request=request, problem=problem, pause_seconds=pause)
            await asyncio.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE_SECONDS)

    async def lines(self, path: str) -> AsyncGenerator[str]:
        """Line by line what a path streams, until it ends. Raises QueueError; nothing is tried again."""
        request = _request("GET", path)
        try:
            async with self._open("GET", path, {}, 0.0, None) as response:
                if response.status >= 300:
                    answer = Answer(request, response.status, await response.read())
                    raise QueueError(f"{request}: {answer.status} {_reason(answer, response.reason)}")
                async for line in response.content:
                    yield line.decode("utf-8", "replace").rstrip("\r\n")
        except (aiohttp.ClientError, TimeoutError) as error:
            raise QueueError(f"{request}: {type(error).__name__} {error}") from error

    @asynccontextmanager
    async def _open(
        self, method: str, path: str, headers: dict[str, str], wait_seconds: float, data: bytes | None
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        if self._session is None:  # made late: a session belongs to the loop that runs
            # a proxy of the process environment has nothing to do with our own services: trust_env stays off
            self._session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0), headers=self._headers)
        limit = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_SECONDS, sock_read=ANSWER_SECONDS + wait_seconds)
        url = URL(f"{self._base_url}{path}", encoded=True)  # names in it are quoted already
        body = BytesIO(data) if data is not None else None  # sent in parts: a large group must not hold up the loop
        async with self._session.request(
            method, url, data=body, headers=headers, timeout=limit, allow_redirects=False
        ) as response:
            yield response


def _request(method: str, path: str) -> str:
    return f"{method} {path.partition('?')[0]}"


def _reason(answer: Answer, otherwise: str | None) -> str:
    try:
        return str(json.loads(answer.body)["error"])[:500]
    except (ValueError, KeyError, TypeError):
        return otherwise or ""
