"""Sampling by servers elsewhere: token ids over HTTP; how weights reach them, their hand-over knows.

A session stays with its replica, where its cache is; who has none goes to the replica with the least to do. A replica
that does not answer is passed over for a while. What kind of server it is, its dialect knows.
"""

import asyncio
import hashlib
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Self

import httpx
from pydantic import Field, model_validator

from core.clock import Clock, SystemClock
from core.config import Config
from core.errors import PolicyError, TrainingError
from core.logs import get_logger
from trainer.inference.base import (
    EngineClosed,
    EngineStats,
    Generation,
    GenerationRequest,
    QueueFull,
    TokenChunk,
    UnusableRequest,
    VersionSpan,
)
from trainer.inference.dialect import Dialect, NetworkDialect
from trainer.inference.external_disk import DiskHandOver
from trainer.inference.external_lora import AdapterHandOver
from trainer.inference.external_network import NetworkConfig, NetworkHandOver
from trainer.inference.external_replica import Replica, ServedAdapter
from trainer.inference.hand_over import HandOver
from trainer.inference.sglang_dialect import SGLangDialect
from trainer.inference.vllm_dialect import VllmDialect
from trainer.weights import GivenWeights, WeightFormat, WeightSource

if TYPE_CHECKING:
    from torch import Tensor

log = get_logger("external_inference")
BUSY = (429, 503)


class ServerKind(StrEnum):
    """Whose routes are spoken."""

    SGLANG = "sglang"
    VLLM = "vllm"


class Way(StrEnum):
    """How weights reach the servers."""

    DISK = "disk"
    LORA = "lora"
    NETWORK = "network"


class ExternalConfig(Config):
    """Which servers sample, and how weights reach them."""

    kind: ServerKind = Field(default=ServerKind.SGLANG, description="what the servers are")
    urls: tuple[str, ...] = Field(min_length=1, description="addresses of servers of the same model")
    weights: Path = Field(description="a directory that this process writes and every server reads under the same path")
    publish: Way | None = Field(default=None, description="disk, lora, network; unset: lora where an adapter learns, else disk")
    network: NetworkConfig = NetworkConfig()
    weight_format: WeightFormat = WeightFormat.BFLOAT16
    max_length: int = Field(default=4096, ge=2, description="prompt and completion; --context-length, --max-model-len")
    processed_logprobs: bool = Field(default=False, description="vLLM runs with --logprobs-mode processed_logprobs")
    request_seconds: float = Field(default=600.0, gt=0)
    away_seconds: float = Field(default=5.0, gt=0, description="how long a server that failed is passed over")

    @model_validator(mode="after")
    def _is_a_way_to_such_servers(self) -> Self:
        if self.publish is Way.NETWORK and self.kind is not ServerKind.SGLANG:
            raise ValueError("publish = 'network' reaches SGLang servers only; for vLLM set publish = 'disk' or 'lora'")
        return self


class ExternalEngine:
    """Fulfils InferenceEngine and DirectPublisher with servers of one kind. Belongs to one event loop."""

    def __init__(
        self,
        config: ExternalConfig,
        model_dir: Path,
        *,
        version: int = 0,
        adapters: bool = False,
        clock: Clock | None = None,
    ) -> None:
        """`model_dir`: what the servers were started with. `adapters`: what learns is an adapter beside it."""
        self.config, self.max_length = config, config.max_length
        self._dialect: Dialect = (
            SGLangDialect() if config.kind is ServerKind.SGLANG else VllmDialect(processed=config.processed_logprobs)
        )
        self._version, self._clock = version, clock or SystemClock()
        self._first = version  # also of what a server that started anew samples until weights come again
        self._hand_over = _hand_over(config, self._dialect, model_dir, adapters=adapters)
        self._replicas = [Replica(url, version, config.request_seconds) for url in config.urls]
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
                generation = await self._ask(replica, request, max_tokens)
            except (httpx.TransportError, TrainingError) as error:
                replica.away_until = self._clock.monotonic() + self.config.away_seconds
                problems.append(str(error) if isinstance(error, TrainingError) else f"{replica.url}: {type(error).__name__}")
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
        """The same with weights that lie here."""
        await self.publish_from(GivenWeights(weights), version)

    async def publish_from(self, source: WeightSource, version: int) -> None:
        """Have all servers sample by the weights of the source; no request in flight is dropped.

        Raises TrainingError where a server refuses or does not answer: some may then sample by the new version.
        """
        await self._hand_over.publish(self._replicas, source, version)
        self._version = version
        self._publishes += 1
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
        await self._hand_over.aclose()
        for replica in self._replicas:
            await replica.http.aclose()

    def _by_preference(self, session_id: str | None) -> Sequence[Replica]:
        """All replicas, those that failed lately last. A session's order never changes, so its cache is where it was."""
        now = self._clock.monotonic()

        def rank(one: Replica) -> tuple[bool, int, bytes]:
            away = one.away_until > now
            if session_id is None:
                return away, one.running, b""
            return away, 0, hashlib.sha256(f"{session_id}\n{one.url}".encode()).digest()

        return sorted(self._replicas, key=rank)

    async def _ask(self, replica: Replica, request: GenerationRequest, max_tokens: int) -> Generation | None:
        """None where the server is full. Raises UnusableRequest, PolicyError, TrainingError, httpx.TransportError."""
        restores = replica.restores
        adapter, answer = await self._answer(replica, request, max_tokens)
        if _refused(answer):
            await self._hand_over.restore(replica)
            if replica.restores > restores:
                adapter, answer = await self._answer(replica, request, max_tokens)
        if answer.status_code in BUSY:
            return None
        if _refused(answer):
            raise UnusableRequest(f"{replica.url} refused the request: {answer.status_code} {answer.text[:200]}")
        try:
            made = self._dialect.generation(answer.content, self._first)
        except ValueError as error:
            self._failed += 1
            problem = str(error).splitlines()[0]
            raise PolicyError(f"{replica.url} answered {answer.status_code} with no completion: {problem}") from error
        if adapter is None:
            return made
        # a server's own label is that of the model under the adapter
        return replace(made, spans=(VersionSpan(adapter.version, 0, len(made.token_ids)),))

    async def _answer(
        self, replica: Replica, request: GenerationRequest, max_tokens: int
    ) -> tuple[ServedAdapter | None, httpx.Response]:
        """What the server says, and which adapter it was asked for. Raises UnusableRequest, httpx.TransportError."""
        adapter = replica.adapter
        body = self._dialect.body(request, max_tokens, replica.salt, adapter.name if adapter is not None else None)
        with adapter.in_use() if adapter is not None else nullcontext():
            return adapter, await replica.completion(self._dialect.path, body)

    def _room(self, request: GenerationRequest) -> int:
        """How many tokens may be sampled. Raises UnusableRequest."""
        if request.constraint is not None:
            raise UnusableRequest("external servers cannot force tool calls or strict schemas; use tool_choice 'auto'")
        room = self.max_length - len(request.prompt_ids)
        if room < 1:
            raise UnusableRequest(f"the prompt has {len(request.prompt_ids)} tokens; at most {self.max_length - 1} leave room")
        return min(request.params.max_tokens, room)


def _refused(answer: httpx.Response) -> bool:
    return 400 <= answer.status_code < 500 and answer.status_code not in BUSY


def _hand_over(config: ExternalConfig, dialect: Dialect, model_dir: Path, *, adapters: bool) -> HandOver:
    directory = config.weights.resolve()  # servers have other working directories
    match config.publish or (Way.LORA if adapters else Way.DISK):
        case Way.LORA:
            return AdapterHandOver(dialect, directory)
        case Way.DISK:
            return DiskHandOver(dialect, directory, model_dir, config.weight_format)
        case Way.NETWORK:
            assert isinstance(dialect, NetworkDialect), "the config was checked"
            return NetworkHandOver(dialect, config.network, config.weight_format)
