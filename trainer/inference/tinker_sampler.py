"""Sampling at the Tinker service where the weights are trained: token ids out and in, a snapshot a policy version.

What is being sampled when a version is published ends with the snapshot that it began with. Stop texts are looked for
here, so that a completion holds the tokens that spell them. The service's logprobs are those before temperature and any
cut, so requests that ask for others than temperature 1 or 0 are refused: the trainer would correct by the wrong ones.
"""

import asyncio
import math
from collections.abc import AsyncIterator, Mapping
from typing import TYPE_CHECKING

from core.errors import PolicyError, TrainingError
from core.logs import get_logger
from core.types import FinishReason
from trainer.engines.tinker_engine import TinkerEngine
from trainer.engines.tinker_service import Order, Sampled
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
from trainer.inference.completion import Decode

if TYPE_CHECKING:
    from torch import Tensor

log = get_logger("tinker_sampler")


class TinkerSampler:
    """Fulfils InferenceEngine with the snapshots of a TinkerEngine; closing it ends the session that both share."""

    def __init__(self, engine: TinkerEngine, decode: Decode, *, version: int = 0) -> None:
        """Sample with the engine's weights as they are now, as that version. Raises TrainingError, ConfigError."""
        self.max_length = engine.config.max_length
        self._engine, self._decode, self._config = engine, decode, engine.config
        self._now = engine.snapshot(), version
        self._running: set[asyncio.Task[Generation]] = set()
        self._requests = self._rejected = self._cancelled = self._failed = self._prompt = self._generated = self._publishes = 0
        self._closed = False

    @property
    def policy_version(self) -> int:
        """The version that was published last."""
        return self._now[1]

    async def generate(self, request: GenerationRequest) -> Generation:
        """See InferenceEngine."""
        order = self._order(request)
        if self._closed:
            raise EngineClosed("the engine is closed")
        if len(self._running) >= self._config.max_requests:
            self._rejected += 1
            raise QueueFull(f"{self._config.max_requests} completions are being sampled already")
        self._requests += 1
        # a task of its own, so that closing ends it in whatever event loop it runs
        sampling = asyncio.create_task(self._sample(order, request))
        self._running.add(sampling)
        try:
            made = await sampling
        except asyncio.CancelledError:
            if self._closed:
                raise EngineClosed("the engine was closed") from None
            self._cancelled += 1
            raise
        except PolicyError:
            self._failed += 1
            raise
        finally:
            sampling.cancel()
            self._running.discard(sampling)
        self._prompt += len(request.prompt_ids)
        self._generated += len(made.token_ids)
        return made

    async def stream(self, request: GenerationRequest) -> AsyncIterator[TokenChunk]:
        """See InferenceEngine; one chunk, when the completion has ended."""
        made = await self.generate(request)
        yield TokenChunk(made.token_ids, made.logprobs, made.policy_version, made.finish_reason)

    async def publish(self, weights: "Mapping[str, Tensor]", version: int) -> None:
        """Sample with the service's newest weights from now on, as that version; `weights` must be empty."""
        if weights:
            raise TrainingError("weights that lie here cannot be sampled at a Tinker service; it has its own")
        self._now = await asyncio.to_thread(self._engine.snapshot), version
        self._publishes += 1
        log.info("weights_published", version=version, url=self._engine.service.url)

    def stats(self) -> EngineStats:
        """See InferenceEngine."""
        running = len(self._running)
        return EngineStats(
            policy_version=self.policy_version,
            running=running,
            waiting=0,
            requests=self._requests,
            rejected=self._rejected,
            cancelled=self._cancelled,
            failed=self._failed,
            prompt_tokens=self._prompt,
            generated_tokens=self._generated,
            publishes=self._publishes,
            ready=not self._closed and running < self._config.max_requests,
        )

    async def aclose(self) -> None:
        """See InferenceEngine; ends the session at the service."""
        if self._closed:
            return
        self._closed = True
        for task in tuple(self._running):
            task.get_loop().call_soon_threadsafe(task.cancel)
        await asyncio.to_thread(self._engine.service.close)

    async def _sample(self, order: Order, request: GenerationRequest) -> Generation:
        snapshot, version = self._now
        sampled = await snapshot.sample(order)
        self._check(sampled, order)
        length, stopped = self._end(sampled, request)
        return Generation(
            token_ids=sampled.token_ids[:length],
            logprobs=sampled.logprobs[:length],
            finish_reason=FinishReason.STOP if stopped else FinishReason.LENGTH,
            spans=(VersionSpan(version, 0, length),),
        )

    def _order(self, request: GenerationRequest) -> Order:
        """What is asked of the service. Raises UnusableRequest for what it would pass over in silence."""
        params, prompt = request.params, request.prompt_ids
        if request.constraint is not None:
            raise UnusableRequest("a Tinker service cannot force tool calls or strict schemas; use tool_choice 'auto'")
        if not params.greedy and (params.temperature != 1.0 or params.top_p < 1.0 or params.top_k or params.min_p):
            raise UnusableRequest(
                "temperature other than 1 or 0, top_p, top_k, min_p: a Tinker service's logprobs are those without them"
            )
        room = self.max_length - len(prompt)
        if room < 1:
            raise UnusableRequest(f"the prompt has {len(prompt)} tokens; at most {self.max_length - 1} leave room")
        if (largest := max(prompt)) >= self._engine.vocabulary or min(prompt) < 0:
            raise UnusableRequest(f"the prompt has the token id {largest}; the model knows ids below {self._engine.vocabulary}")
        temperature = 0.0 if params.greedy else 1.0
        return Order(prompt, min(params.max_tokens, room), temperature, params.stop_token_ids, params.seed)

    def _check(self, sampled: Sampled, order: Order) -> None:
        """Raises PolicyError for an answer that is none to that order."""
        ids, logprobs = sampled.token_ids, sampled.logprobs
        if not 0 < len(ids) <= order.max_tokens or len(ids) != len(logprobs):
            raise PolicyError(
                f"{len(ids)} tokens and {len(logprobs)} logprobs came back; at most {order.max_tokens} were wanted"
            )
        if not all(0 <= token < self._engine.vocabulary for token in ids):
            raise PolicyError(f"a token id beyond the model's {self._engine.vocabulary} came back: not the same model?")
        if not all(map(math.isfinite, logprobs)):
            raise PolicyError("a logprob that is not finite came back")
        if sampled.stopped and ids[-1] not in order.stop_token_ids:
            raise PolicyError(f"a completion ended by itself with the token {ids[-1]}, which is none of its stop tokens")

    def _end(self, sampled: Sampled, request: GenerationRequest) -> tuple[int, bool]:
        """How many tokens there are up to a stop, and whether there was one."""
        ids, stops = sampled.token_ids, request.params.stop
        if stops and any(text in self._decode(ids) for text in stops):
            for length in range(1, len(ids) + 1):
                said = self._decode(ids[:length])
                if any(text in said for text in stops):
                    return length, True
        return len(ids), sampled.stopped
