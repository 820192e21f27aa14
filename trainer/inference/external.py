"""Sampling by servers elsewhere: token ids over HTTP, weights over a directory that they can read.

A session stays with its replica, where its cache is; who has none goes to the replica with the least to do. A replica
that does not answer is passed over for a while. What kind of server it is, its dialect knows.
"""

import asyncio
import hashlib
import shutil
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import uuid4

import httpx
from pydantic import Field

from core.clock import Clock, SystemClock
from core.config import Config
from core.errors import PolicyError, TrainingError
from core.logs import get_logger
from core.types import JsonObject
from trainer.inference.base import (
    EngineClosed,
    EngineStats,
    Generation,
    GenerationRequest,
    QueueFull,
    TokenChunk,
    UnusableRequest,
)
from trainer.inference.dialect import Dialect
from trainer.inference.sglang_dialect import SGLangDialect
from trainer.inference.vllm_dialect import VllmDialect
from trainer.weights import WeightFormat, save_model

if TYPE_CHECKING:
    from torch import Tensor

log = get_logger("external_inference")
BUSY = (429, 503)


class ServerKind(StrEnum):
    """Whose routes are spoken."""

    SGLANG = "sglang"
    VLLM = "vllm"


class ExternalConfig(Config):
    """Which servers sample, and how weights reach them."""

    kind: ServerKind = Field(default=ServerKind.SGLANG, description="what the servers are")
    urls: tuple[str, ...] = Field(min_length=1, description="addresses of servers of the same model")
    weights: Path = Field(description="a directory that this process writes and every server reads under the same path")
    weight_format: WeightFormat = WeightFormat.BFLOAT16
    max_length: int = Field(default=4096, ge=2, description="prompt and completion; --context-length, --max-model-len")
    processed_logprobs: bool = Field(default=False, description="vLLM runs with --logprobs-mode processed_logprobs")
    request_seconds: float = Field(default=600.0, gt=0)
    away_seconds: float = Field(default=5.0, gt=0, description="how long a server that failed is passed over")


@dataclass
class _Replica:
    http: httpx.AsyncClient
    url: str
    version: int | None
    """Whose weights it has; None while they change."""
    running: int = 0
    away_until: float = 0.0

    @property
    def salt(self) -> str:
        """What keeps a request from a cache of other weights. What is sent while they change shares with nobody."""
        return uuid4().hex if self.version is None else f"version-{self.version}"


class ExternalEngine:
    """Fulfils InferenceEngine with servers of one kind. Belongs to one event loop."""

    def __init__(self, config: ExternalConfig, model_dir: Path, *, version: int = 0, clock: Clock | None = None) -> None:
        """`model_dir`: where config and tokenizer of published weights come from."""
        self.config, self.max_length = config, config.max_length
        self._dialect: Dialect = (
            SGLangDialect() if config.kind is ServerKind.SGLANG else VllmDialect(processed=config.processed_logprobs)
        )
        self._weights = config.weights.resolve()  # servers have other working directories
        self._model_dir, self._version, self._clock = model_dir, version, clock or SystemClock()
        timeout = httpx.Timeout(config.request_seconds, connect=5.0)
        limits = httpx.Limits(max_connections=None)
        self._replicas = [
            _Replica(httpx.AsyncClient(base_url=url, timeout=timeout, limits=limits, trust_env=False), url, version)
            for url in config.urls
        ]
        self._requests = self._failed = self._generated = self._publishes = 0
        self._closed = False

    @property
    def policy_version(self) -> int:
        """The version that was published to all servers last."""
        return self._version

    async def generate(self, request: GenerationRequest) -> Generation:
        """See InferenceEngine; a server that does not answer is replaced by the next one."""
        if self._closed:
            raise EngineClosed("the engine is closed")
        max_tokens = self._room(request)
        self._requests += 1
        problems: list[str] = []
        busy = False
        for replica in self._by_preference(request.session_id):
            try:
                generation = await self._ask(replica, self._dialect.body(request, max_tokens, replica.salt))
            except httpx.TransportError as error:
                replica.away_until = self._clock.monotonic() + self.config.away_seconds
                problems.append(f"{replica.url}: {type(error).__name__}")
                continue
            if generation is not None:
                self._generated += len(generation.token_ids)
                return generation
            busy = True
        self._failed += 1
        if busy:
            raise QueueFull("every server that answers is full")
        raise PolicyError(f"no server answers: {', '.join(problems)}")

    async def stream(self, request: GenerationRequest) -> AsyncIterator[TokenChunk]:
        """See InferenceEngine; a chunk a policy version, when the completion has ended."""
        made = await self.generate(request)
        for span in made.spans:
            part = slice(span.start, span.end)
            reason = made.finish_reason if span is made.spans[-1] else None
            yield TokenChunk(made.token_ids[part], made.logprobs[part], span.version, reason)

    async def publish(self, weights: "Mapping[str, Tensor]", version: int) -> None:
        """Write the weights and have all servers read them; requests in flight are computed anew from where they are.

        Raises TrainingError where a server refuses or does not answer: some may then sample by the new version.
        """
        folder = self._weights / f"version-{version}"
        await asyncio.to_thread(save_model, weights, self._model_dir, folder, self.config.weight_format)
        results = await asyncio.gather(*(self._swap(one, folder, version) for one in self._replicas), return_exceptions=True)
        for result in results:
            if isinstance(result, BaseException):
                raise result
        before, self._version = self._version, version
        self._publishes += 1
        if before != version:
            await asyncio.to_thread(shutil.rmtree, self._weights / f"version-{before}", ignore_errors=True)
        log.info("weights_published", version=version, servers=len(self._replicas))

    async def healthy(self) -> list[str]:
        """Addresses of the servers that answer GET /health with 200."""
        answers = await asyncio.gather(*(one.http.get("/health") for one in self._replicas), return_exceptions=True)
        pairs = zip(self._replicas, answers, strict=True)
        return [one.url for one, answer in pairs if isinstance(answer, httpx.Response) and answer.status_code == 200]

    def stats(self) -> EngineStats:
        """See InferenceEngine; what the servers cache and compute is in their own metrics."""
        return EngineStats(
            policy_version=self._version,
            running=sum(one.running for one in self._replicas),
            waiting=0,
            requests=self._requests,
            failed=self._failed,
            generated_tokens=self._generated,
            publishes=self._publishes,
            ready=not self._closed,
        )

    async def aclose(self) -> None:
        """See InferenceEngine; the servers go on."""
        self._closed = True
        for replica in self._replicas:
            await replica.http.aclose()

    def _by_preference(self, session_id: str | None) -> Sequence[_Replica]:
        """All replicas, those that failed lately last. A session's order never changes, so its cache is where it was."""
        now = self._clock.monotonic()

        def rank(one: _Replica) -> tuple[bool, int, bytes]:
            away = one.away_until > now
            if session_id is None:
                return away, one.running, b""
            return away, 0, hashlib.sha256(f"{session_id}\n{one.url}".encode()).digest()

        return sorted(self._replicas, key=rank)

    async def _ask(self, replica: _Replica, body: JsonObject) -> Generation | None:
        """None where the server is full. Raises UnusableRequest, PolicyError, httpx.TransportError."""
        version = self._version
        replica.running += 1
        try:
            answer = await replica.http.post(self._dialect.path, json=body)
        finally:
            replica.running -= 1
        if answer.status_code in BUSY:
            return None
        if 400 <= answer.status_code < 500:
            raise UnusableRequest(f"{replica.url} refused the request: {answer.status_code} {answer.text[:200]}")
        try:
            return self._dialect.generation(answer.content, version)
        except ValueError as error:
            self._failed += 1
            problem = str(error).splitlines()[0]
            raise PolicyError(f"{replica.url} answered {answer.status_code} with no completion: {problem}") from error

    async def _swap(self, replica: _Replica, folder: Path, version: int) -> None:
        replica.version = None
        try:
            await self._dialect.swap(partial(self._command, replica), folder, version)
        except TrainingError as error:
            raise TrainingError(f"{replica.url}: {error}") from error
        replica.version = version

    async def _command(self, replica: _Replica, path: str, body: JsonObject) -> JsonObject:
        """The answer as an object, empty where it is none. Raises TrainingError."""
        try:
            answer = await replica.http.post(path, json=body)
        except httpx.TransportError as error:
            raise TrainingError(f"{path} does not answer: {type(error).__name__}") from error
        if answer.status_code != 200:
            raise TrainingError(f"{path} answered {answer.status_code}: {answer.text[:200]}")
        try:
            told = answer.json()
        except ValueError:
            return {}
        return told if isinstance(told, dict) else {}

    def _room(self, request: GenerationRequest) -> int:
        """How many tokens may be sampled. Raises UnusableRequest."""
        if request.constraint is not None:
            raise UnusableRequest("external servers cannot force tool calls or strict schemas; use tool_choice 'auto'")
        room = self.max_length - len(request.prompt_ids)
        if room < 1:
            raise UnusableRequest(f"the prompt has {len(request.prompt_ids)} tokens; at most {self.max_length - 1} leave room")
        return min(request.params.max_tokens, room)
