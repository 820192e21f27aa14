"""One HTTP client for all episodes of a policy: bounded connections, bounded retries.

Sampling once more has no effect on the server, so a request may be repeated.
"""

from typing import Self
from urllib.parse import urlsplit

import httpx
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


class CompletionClient:
    """Posts JSON to an inference server. `root` is its address without `/v1`."""

    def __init__(self, config: PolicyConfig, api_token: SecretStr | None = None, clock: Clock | None = None) -> None:
        self.root = config.base_url.rstrip("/").removesuffix("/v1")
        self._attempts, self._clock = config.attempts, clock or SystemClock()
        self._http = httpx.AsyncClient(
            base_url=self.root,
            headers={"authorization": f"Bearer {api_token.get_secret_value()}"} if api_token else {},
            timeout=httpx.Timeout(config.timeout_seconds, connect=10.0),
            limits=httpx.Limits(max_connections=config.max_connections, max_keepalive_connections=config.max_connections),
            trust_env=urlsplit(self.root).hostname not in LOOPBACK,  # a proxy is not on the way to this machine
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        await self._http.aclose()

    async def post(self, path: str, body: JsonObject) -> JsonObject:
        """The answer, a JSON object. Raises PolicyError: no answer, not that of a working server, or too late."""
        problem = ""
        for attempt in range(self._attempts):
            try:
                response = await self._http.post(path, json=body)
            except (httpx.ReadTimeout, httpx.WriteTimeout) as error:
                raise PolicyError(f"{self.root}{path}: no answer in time: {type(error).__name__}") from error
            except httpx.HTTPError as error:
                problem, delay = f"{type(error).__name__}: {error}", _backoff(attempt)
            else:
                if response.status_code not in BUSY:
                    return self._answer(response, path)
                problem, delay = f"status {response.status_code}: {response.text[:200]}", _wanted_delay(response, attempt)
            if attempt + 1 < self._attempts:
                log.warning("policy_retry", attempt=attempt + 1, delay_seconds=delay, problem=problem)
                await self._clock.sleep(delay)
        raise PolicyError(f"{self.root}{path}: no answer after {self._attempts} attempts: {problem}")

    def _answer(self, response: httpx.Response, path: str) -> JsonObject:
        if not response.is_success:
            raise PolicyError(f"{self.root}{path}: status {response.status_code}: {response.text[:500]}")
        try:
            body: JsonValue = response.json()
        except ValueError as error:
            raise PolicyError(f"{self.root}{path}: not JSON: {response.text[:200]!r}") from error
        if not isinstance(body, dict):
            raise PolicyError(f"{self.root}{path}: expected a JSON object, found {type(body).__name__}")
        return body


def _backoff(attempt: int) -> float:
    return min(MAX_DELAY_SECONDS, FIRST_DELAY_SECONDS * 2**attempt)


def _wanted_delay(response: httpx.Response, attempt: int) -> float:
    """Seconds that the server asked for, within bounds; our own where it asked for none."""
    try:
        wanted = float(response.headers["retry-after"])
    except (KeyError, ValueError):
        return _backoff(attempt)
    return min(MAX_DELAY_SECONDS, max(0.0, wanted))
