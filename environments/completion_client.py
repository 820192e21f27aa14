"""One HTTP client for all episodes of a policy: bounded connections, bounded retries.

Sampling once more has no effect on the server, so a request may be repeated. aiohttp, because a post costs it a fraction
of what it costs httpx, whose pool looks at every connection for every request.
"""

import json
from collections.abc import Mapping
from typing import NamedTuple, Self
from urllib.parse import urlsplit

import aiohttp
from pydantic import JsonValue, SecretStr

from core.clock import Clock, SystemClock
from core.errors import PolicyError
from core.logs import get_logger
from core.types import JsonObject
from environments.policy import PolicyConfig

log = get_logger("policy")

LOOPBACK = ("127.0.0.1", "localhost", "::1")
BUSY = frozenset({429, 500, 502, 503, 504})
FIRST_DELAY_SECONDS = 0.25
MAX_DELAY_SECONDS = 20.0
CONNECT_SECONDS = 10.0


class Refused(PolicyError):
    """The server answered, and not with a completion; asking the same again would not help."""

    def __init__(self, message: str, status: int) -> None:
        self.status = status
        super().__init__(message)


class _Response(NamedTuple):
    status: int
    headers: Mapping[str, str]
    body: bytes

    def shown(self, length: int) -> str:
        """The beginning of the body, for people."""
        return self.body[: 4 * length].decode("utf-8", "replace")[:length]


class CompletionClient:
    """Posts JSON to an inference server. `root` is its address without `/v1`."""

    def __init__(self, config: PolicyConfig, api_token: SecretStr | None = None, clock: Clock | None = None) -> None:
        self.root = root_of(config.base_url)
        self._attempts, self._clock = config.attempts, clock or SystemClock()
        self._timeout = aiohttp.ClientTimeout(total=config.timeout_seconds, sock_connect=CONNECT_SECONDS)
        self._headers = {"authorization": f"Bearer {api_token.get_secret_value()}"} if api_token else {}
        self._max_connections = config.max_connections
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        if self._session is not None:
            await self._session.close()

    async def post(self, path: str, body: JsonObject) -> JsonObject:
        """The answer, a JSON object. Raises Refused for another status, PolicyError for no answer, none in time or no JSON."""
        problem = ""
        for attempt in range(self._attempts):
            try:
                response = await self._send(path, body)
            except aiohttp.ConnectionTimeoutError as error:
                problem, delay = f"{type(error).__name__}: {error}", _backoff(attempt)
            except TimeoutError as error:
                raise PolicyError(f"{self.root}{path}: no answer in time: {type(error).__name__}") from error
            except aiohttp.ClientError as error:
                problem, delay = f"{type(error).__name__}: {error}", _backoff(attempt)
            else:
                if response.status not in BUSY:
                    return self._answer(response, path)
                problem, delay = f"status {response.status}: {response.shown(200)}", _wanted_delay(response, attempt)
            if attempt + 1 < self._attempts:
                log.warning("policy_retry", attempt=attempt + 1, delay_seconds=delay, problem=problem)
                await self._clock.sleep(delay)
        raise PolicyError(f"{self.root}{path}: no answer after {self._attempts} attempts: {problem}")

    async def _send(self, path: str, body: JsonObject) -> _Response:
        if self._session is None:  # made late: a session belongs to the loop that runs
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=self._max_connections),
                headers=self._headers,
                timeout=self._timeout,
                trust_env=urlsplit(self.root).hostname not in LOOPBACK,  # a proxy is not on the way to this machine
            )
        async with self._session.post(f"{self.root}{path}", json=body, allow_redirects=False) as response:
            return _Response(response.status, response.headers, await response.read())

    def _answer(self, response: _Response, path: str) -> JsonObject:
        if not 200 <= response.status < 300:
            raise Refused(f"{self.root}{path}: status {response.status}: {response.shown(500)}", response.status)
        try:
            body: JsonValue = json.loads(response.body)
        except ValueError as error:
            raise PolicyError(f"{self.root}{path}: not JSON: {response.shown(200)!r}") from error
        if not isinstance(body, dict):
            raise PolicyError(f"{self.root}{path}: expected a JSON object, found {type(body).__name__}")
        return body


def root_of(url: str) -> str:
    """The address of an inference server, whether it was given with `/v1` or without."""
    return url.rstrip("/").removesuffix("/v1")


def _backoff(attempt: int) -> float:
    return min(MAX_DELAY_SECONDS, FIRST_DELAY_SECONDS * 2**attempt)


def _wanted_delay(response: _Response, attempt: int) -> float:
    """Seconds that the server asked for, within bounds; our own where it asked for none."""
    try:
        wanted = float(response.headers["retry-after"])
    except (KeyError, ValueError):
        return _backoff(attempt)
    return min(MAX_DELAY_SECONDS, max(0.0, wanted))
