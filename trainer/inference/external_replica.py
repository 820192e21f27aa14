"""One server that samples: its address, whose weights it has, and what is in flight there."""

import asyncio
from collections.abc import Awaitable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

import httpx

from core.errors import TrainingError
from core.types import JsonObject

CONNECT_SECONDS = 5.0


class ServedAdapter:
    """An adapter at one server. Requests that name it run wholly on it, whatever is published meanwhile."""

    def __init__(self, name: str, version: int, folder: Path) -> None:
        self.name, self.version, self.folder = name, version, folder
        self._requests = 0
        self._idle = asyncio.Event()
        self._idle.set()

    @contextmanager
    def in_use(self) -> Iterator[None]:
        """A request that names it is in flight."""
        self._requests += 1
        self._idle.clear()
        try:
            yield
        finally:
            self._requests -= 1
            if not self._requests:
                self._idle.set()

    async def unused(self) -> None:
        """Wait until nothing that names it is in flight."""
        await self._idle.wait()


class Replica:
    """One of several servers of the same model. Belongs to one event loop."""

    def __init__(self, url: str, version: int, request_seconds: float) -> None:
        timeout, limits = httpx.Timeout(request_seconds, connect=CONNECT_SECONDS), httpx.Limits(max_connections=None)
        self.http = httpx.AsyncClient(base_url=url, timeout=timeout, limits=limits, trust_env=False)
        self.url = url
        self.version: int | None = version
        """Whose weights it has; None while they change."""
        self.adapter: ServedAdapter | None = None
        """What new requests name; None: no adapter, the weights themselves."""
        self.restoring = asyncio.Lock()
        self.restores = 0
        """How often it lacked the newest weights and was given them again."""
        self.running = 0
        self.away_until = 0.0
        self._process = uuid4().hex[:8]

    @property
    def salt(self) -> str:
        """What keeps a request from a cache of other weights, also of those that an earlier process published.

        What is sent while they change shares with nobody.
        """
        if self.adapter is not None:
            return self.adapter.name
        return uuid4().hex if self.version is None else f"version-{self.version}-{self._process}"

    async def completion(self, path: str, body: JsonObject) -> httpx.Response:
        """What it answers to a request for tokens. Raises httpx.TransportError."""
        self.running += 1
        try:
            return await self.http.post(path, json=body)
        finally:
            self.running -= 1

    async def command(self, path: str, body: JsonObject | None) -> JsonObject:
        """POST a body, or GET without one; the answer as an object, empty where it is none. Raises TrainingError."""
        try:
            answer = await (self.http.get(path) if body is None else self.http.post(path, json=body))
        except httpx.TransportError as error:
            raise TrainingError(f"{self.url}: {path} does not answer: {type(error).__name__}") from error
        if answer.status_code != 200:
            raise TrainingError(f"{self.url}: {path} answered {answer.status_code}: {answer.text[:200]}")
        try:
            told = answer.json()
        except ValueError:
            return {}
        return told if isinstance(told, dict) else {}


async def on_all(calls: Iterable[Awaitable[object]]) -> None:
    """Wait for all of them to end, then raise what the first one that failed raised."""
    for result in await asyncio.gather(*calls, return_exceptions=True):
        if isinstance(result, BaseException):
            raise result
