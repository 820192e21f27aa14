"""One HTTP client for all episodes of a policy: bounded concurrency, bounded retries.

Sampling once more has no effect on the server, so a request may be repeated. aiohttp, because a post costs it a fraction
of what it costs httpx, whose pool looks at every connection for every request.
"""

import json
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from email.utils import parsedate_to_datetime
from typing import NamedTuple, Self, TypeVar
from urllib.parse import urlsplit

import aiohttp
import orjson
from pydantic import JsonValue, SecretStr

from core.clock import Clock, SystemClock
from core.errors import PolicyError
from core.logs import get_logger
from core.types import JsonObject
from environments.concurrency import ConcurrencyLimit, Slot, Waits
from environments.policy import Load, PolicyConfig

T = TypeVar("T")
log = get_logger("policy")

LOOPBACK = ("127.0.0.1", "localhost", "::1")
ASK_AGAIN = frozenset({429, 500, 502, 503, 504})
TOO_MANY = frozenset({429, 503, 504})
"""What a server says that is asked too much."""
FIRST_DELAY_SECONDS = 0.25
MAX_DELAY_SECONDS = 20.0
MAX_WANTED_SECONDS = 60.0
"""The longest wait that a server may ask for."""
CONNECT_SECONDS = 10.0


class Refused(PolicyError):
    """The server answered, and not with a completion; asking the same again would not help."""

    def __init__(self, message: str, status: int) -> None:
        self.status = status
        super().__init__(message)


class NoCompletion(PolicyError):
    """The server answered something that is no completion: half of one, or another protocol."""


class _Again(NamedTuple):
    """Why a request is to be repeated, and after how many seconds where the server named them."""

    problem: str
    delay: float | None = None


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
        self._limit = ConcurrencyLimit(config.max_concurrency, self._clock)
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        if self._session is not None:
            await self._session.close()

    def load(self) -> Load:
        """How much the server is asked at the moment."""
        return self._limit.load()

    async def post(self, path: str, body: JsonObject, read: Callable[[JsonObject], T], waits: Waits = nullcontext) -> T:
        """What `read` makes of the answer, a JSON object; it raises NoCompletion for one that has to be asked for again.

        `waits` is entered while others are before this one in the line.
        Raises Refused for a status that asking again would not change, PolicyError where no answer came or none of use.
        """
        data, problem = _dumped(body), ""
        for attempt in range(self._attempts):
            async with self._limit.slot(waits) as slot:
                found = await self._attempt(path, data, read, slot)
            if not isinstance(found, _Again):
                return found
            problem, delay = found.problem, _backoff(attempt) if found.delay is None else found.delay
            if attempt + 1 < self._attempts:
                log.warning("policy_retry", attempt=attempt + 1, delay_seconds=delay, problem=problem)
                await self._clock.sleep(delay)
        raise PolicyError(f"{self.root}{path}: no answer after {self._attempts} attempts: {problem}")

    async def _attempt(self, path: str, data: bytes, read: Callable[[JsonObject], T], slot: Slot) -> T | _Again:
        try:
            response = await self._send(path, data)
            if response.status not in ASK_AGAIN:
                answer = self._answer(response, path)
                found = read(answer)
                slot.answered(_tokens_in(answer))
                return found
        except TimeoutError as error:
            slot.refused()
            return _Again(f"no answer in time: {type(error).__name__}")
        except (aiohttp.ClientError, NoCompletion) as error:
            return _Again(f"{type(error).__name__}: {error}")
        if response.status in TOO_MANY:
            slot.refused()
        return _Again(f"status {response.status}: {response.shown(200)}", self._wanted_delay(response))

    async def _send(self, path: str, data: bytes) -> _Response:
        if self._session is None:  # made late: a session belongs to the loop that runs
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=0),  # the limit is ours
                headers={"content-type": "application/json", **self._headers},
                timeout=self._timeout,
                trust_env=urlsplit(self.root).hostname not in LOOPBACK,  # a proxy is not on the way to this machine
            )
        async with self._session.post(f"{self.root}{path}", data=data, allow_redirects=False) as response:
            return _Response(response.status, response.headers, await response.read())

    def _answer(self, response: _Response, path: str) -> JsonObject:
        if not 200 <= response.status < 300:
            raise Refused(f"{self.root}{path}: status {response.status}: {response.shown(500)}", response.status)
        body = _loaded(response.body)
        if not isinstance(body, dict):
            raise NoCompletion(f"{self.root}{path}: not a JSON object: {response.shown(200)!r}")
        return body

    def _wanted_delay(self, response: _Response) -> float | None:
        """Seconds that the server asked for, as a number or a date, within bounds; None where it asked for none."""
        wanted = response.headers.get("retry-after", "")
        try:
            seconds = float(wanted)
        except ValueError:
            try:
                seconds = parsedate_to_datetime(wanted).timestamp() - self._clock.now()
            except ValueError:
                return None
        return min(MAX_WANTED_SECONDS, max(0.0, seconds))


def root_of(url: str) -> str:
    """The address of an inference server, whether it was given with `/v1` or without."""
    return url.rstrip("/").removesuffix("/v1")


def _backoff(attempt: int) -> float:
    return min(MAX_DELAY_SECONDS, FIRST_DELAY_SECONDS * 2**attempt)


def _dumped(body: JsonObject) -> bytes:
    """The body as JSON; half of a surrogate pair, which orjson refuses, as its escape."""
    try:
        return orjson.dumps(body)
    except TypeError:
        return json.dumps(body).encode()


def _loaded(body: bytes) -> JsonValue:
    """JSON, or None for what is none; escapes of half a surrogate pair are taken too."""
    try:
        return orjson.loads(body)
    except ValueError:
        try:
            return json.loads(body)
        except (ValueError, RecursionError):
            return None


def _tokens_in(answer: JsonObject) -> int:
    """How many tokens an answer holds, where it says so, else 0."""
    for section in (answer.get("usage"), answer.get("meta_info")):
        count = section.get("completion_tokens") if isinstance(section, dict) else None
        if isinstance(count, int):
            return count
    ids = answer.get("output_ids")
    return len(ids) if isinstance(ids, list) else 0
