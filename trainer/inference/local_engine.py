"""The embedded engine: one decode thread beside the event loops, for models that fit one machine."""

import asyncio
from collections import Counter, deque
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from pathlib import Path
from random import Random
from threading import Condition, Thread
from typing import TYPE_CHECKING

import torch
from pydantic import Field

from core.config import Config
from core.errors import BoundaryError, PolicyError, TrainingError, boundary
from core.logs import get_logger
from trainer.inference.base import (
    ClientQueueFull,
    EngineClosed,
    EngineStats,
    Generation,
    GenerationRequest,
    QueueFull,
    TokenChunk,
    UnusableRequest,
)
from trainer.inference.completion import Completion, Decode
from trainer.inference.decoder import Decoder
from trainer.inference.loading import load_decoder
from trainer.inference.scheduler import Room, Scheduler
from trainer.inference.threads import alone, probed_threads
from trainer.weights import TORCH_TYPES, TensorSource, WeightFormat, WeightSource

if TYPE_CHECKING:
    from torch import Tensor

log = get_logger("inference")


class LocalEngineConfig(Config):
    """How the embedded engine decodes."""

    device: str = Field(default="cpu", description="cpu, cuda, cuda:1, mps: any that torch knows here")
    dtype: WeightFormat = Field(default=WeightFormat.FLOAT32, description="of weights and cache; logprobs are float32")
    threads: int = Field(
        default=1,
        ge=1,
        description="of the decode thread; tried at the start, and 1 where more are no faster: on busy cores they are slower",
    )
    max_batch: int = Field(default=64, ge=1, description="completions decoded together")
    max_waiting: int = Field(
        default=512, ge=1, description="completions that may wait; more are refused, and of one client more than 3/4 of it"
    )
    max_length: int = Field(default=4096, ge=2, description="prompt and completion, where the model allows as much")
    prefill_tokens: int = Field(default=1024, ge=1, description="prompt tokens computed between two decode steps")
    cache_tokens: int = Field(default=32768, ge=0, description="tokens kept for a next turn, least recently used go first")
    seed: int = Field(default=0, description="of requests that bring none")


class _Ticket:
    """Where the results of one completion go: a future, or a queue of chunks where it is streamed."""

    def __init__(self, completion: Completion, *, streamed: bool) -> None:
        self.completion = completion
        self.loop = asyncio.get_running_loop()
        self.result: asyncio.Future[Generation] = self.loop.create_future()
        self.chunks: asyncio.Queue[TokenChunk | PolicyError] | None = asyncio.Queue() if streamed else None

    def delivery(self) -> Callable[[], None] | None:
        """What has to happen on the ticket's loop after a step; None where nobody waits for it yet."""
        end = self.completion.end
        if self.chunks is not None:
            news = end if isinstance(end, PolicyError) else self.completion.new_chunk()
            chunks = self.chunks
            return lambda: chunks.put_nowait(news)
        if end is None:
            return None
        if isinstance(end, PolicyError):
            return lambda: None if self.result.done() else self.result.set_exception(end)
        generation = self.completion.generation()
        return lambda: None if self.result.done() else self.result.set_result(generation)


class LocalEngine:
    """Fulfils InferenceEngine with our own batches (see scheduler) of any causal model (see loading)."""

    def __init__(
        self, model: Decoder, config: LocalEngineConfig | None = None, *, decode: Decode | None = None, version: int = 0
    ) -> None:
        self.config = config or LocalEngineConfig()
        self.max_length = min(self.config.max_length, model.max_positions)
        self._vocabulary = model.vocab_size
        self._decode = decode
        self._seeds = Random(self.config.seed)
        room = Room(self.config.max_batch, self.max_length, self.config.prefill_tokens, self.config.cache_tokens)
        self._scheduler = Scheduler(model, room, version)
        self._inbox: deque[Callable[[], None]] = deque()
        self._awake = Condition()
        self._tickets: dict[Completion, _Ticket] = {}
        self._in_flight: Counter[str] = Counter()
        self._requests = self._rejected = self._cancelled = self._failed = 0
        self._closed = False
        self._swaps_due = 0
        self._thread = Thread(target=self._run, name="decode", daemon=True)
        self._thread.start()

    @classmethod
    def load(
        cls, model_dir: Path, config: LocalEngineConfig | None = None, *, decode: Decode | None = None, version: int = 0
    ) -> "LocalEngine":
        """An engine of a Hugging Face model directory. `decode` (ids -> text) is needed for stop texts only.

        Raises ConfigError for what cannot be decoded exactly, and for a device that is not here.
        """
        config = config or LocalEngineConfig()
        with alone():
            decoder = load_decoder(model_dir, config.device, TORCH_TYPES[config.dtype])
            return cls(decoder, config, decode=decode, version=version)

    @property
    def policy_version(self) -> int:
        """The version that the next token is sampled by."""
        return self._scheduler.version

    async def generate(self, request: GenerationRequest) -> Generation:
        """See InferenceEngine."""
        ticket = self._submit(request, streamed=False)
        try:
            return await ticket.result
        finally:
            self._abandon(ticket)

    async def stream(self, request: GenerationRequest) -> AsyncIterator[TokenChunk]:
        """See InferenceEngine."""
        ticket = self._submit(request, streamed=True)
        assert ticket.chunks is not None
        try:
            while True:
                chunk = await ticket.chunks.get()
                if isinstance(chunk, PolicyError):
                    raise chunk
                yield chunk
                if chunk.finish_reason is not None:
                    return
        finally:
            self._abandon(ticket)

    async def publish(self, weights: "Mapping[str, Tensor]", version: int) -> None:
        """See InferenceEngine."""
        loop = asyncio.get_running_loop()
        done: asyncio.Future[None] = loop.create_future()

        def swap() -> None:
            try:
                if done.done():  # nobody waits, so the weights may be changing by now
                    return
                with boundary(TrainingError, "publish"):
                    self._scheduler.swap(weights, version)
            except BoundaryError as error:
                _call(loop, [lambda error=error: None if done.done() else done.set_exception(error)])
            else:
                _call(loop, [lambda: None if done.done() else done.set_result(None)])
            finally:
                with self._awake:
                    self._swaps_due -= 1

        with self._awake:
            self._post(swap)
            self._swaps_due += 1
        await done
        log.info("weights_published", version=version)

    async def publish_from(self, source: WeightSource, version: int) -> None:
        """The same from an engine, without a copy on the way where it gives its own tensors. See DirectPublisher."""
        if isinstance(source, TensorSource):
            weights = await asyncio.to_thread(lambda: dict(source.each_weight()))
        else:
            weights = await asyncio.to_thread(source.state_dict)
        await self.publish(weights, version)

    def stats(self) -> EngineStats:
        """See InferenceEngine."""
        scheduler, counters = self._scheduler, self._scheduler.counters
        return EngineStats(
            policy_version=scheduler.version,
            running=len(scheduler.running),
            waiting=len(scheduler.waiting),
            requests=self._requests,
            rejected=self._rejected,
            cancelled=self._cancelled,
            failed=self._failed,
            prompt_tokens=counters.prompt_tokens,
            cached_prompt_tokens=counters.cached_prompt_tokens,
            generated_tokens=counters.generated_tokens,
            decode_steps=counters.decode_steps,
            publishes=counters.publishes,
            interrupted_steps=counters.interrupted_steps,
            cache_tokens=scheduler.cache.tokens,
            ready=not (self._closed or self._full),
            seconds={
                "prefill": counters.prefill_seconds,
                "decode": counters.decode_seconds,
                "publish": counters.publish_seconds,
            },
        )

    async def aclose(self) -> None:
        """See InferenceEngine."""
        with self._awake:
            self._closed = True
            self._awake.notify()
        await asyncio.to_thread(self._thread.join)

    @property
    def _full(self) -> bool:
        return len(self._scheduler.waiting) + len(self._inbox) >= self.config.max_waiting

    @property
    def _share(self) -> int:
        """How many completions of one client may wait: the rest of the queue is there for others."""
        return self.config.max_waiting - self.config.max_waiting // 4

    def _waiting_of(self, client: str) -> int:
        return self._in_flight[client] - sum(one.client == client for one in list(self._scheduler.running))

    def _submit(self, request: GenerationRequest, *, streamed: bool) -> _Ticket:
        self._check(request)
        if self._full:
            self._rejected += 1
            raise QueueFull(f"{self.config.max_waiting} completions are waiting; no more may")
        client = request.client
        if client is not None and self._waiting_of(client) >= self._share:
            self._rejected += 1
            raise ClientQueueFull(f"{self._share} completions of client {client!r} are waiting; no more of one client may")
        seed = self._seeds.getrandbits(64) if request.params.seed is None else request.params.seed
        completion = Completion(request, seed, self.max_length, self._decode)
        ticket = _Ticket(completion, streamed=streamed)
        with self._awake:
            self._post(lambda: self._scheduler.submit(completion))
            self._tickets[completion] = ticket
            self._requests += 1
            if client is not None:
                self._in_flight[client] += 1
        return ticket

    def _check(self, request: GenerationRequest) -> None:
        ids = request.prompt_ids
        if len(ids) >= self.max_length:
            raise UnusableRequest(f"the prompt has {len(ids)} tokens; at most {self.max_length - 1} leave room for an answer")
        if max(ids) >= self._vocabulary:
            raise UnusableRequest(f"token id {max(ids)} is outside the vocabulary of {self._vocabulary}")
        if request.params.stop and self._decode is None:
            raise UnusableRequest("stop texts need a tokenizer, and this engine has none")

    def _abandon(self, ticket: _Ticket) -> None:
        """Forget a ticket; where its completion is not done, its caller went away."""
        completion = ticket.completion
        with self._awake:
            if self._tickets.pop(completion, None) is None:
                return
            if completion.client is not None:
                self._in_flight[completion.client] -= 1
                self._in_flight += Counter()  # forgets who has nothing in flight
        if completion.end is not None:
            return
        self._cancelled += 1
        self._inbox.append(lambda: self._scheduler.cancel(completion))

    def _post(self, command: Callable[[], None]) -> None:
        """Have the decode thread run something between two steps. Raises EngineClosed."""
        with self._awake:
            if self._closed:
                raise EngineClosed("the engine is closed")
            self._inbox.append(command)
            self._awake.notify()

    def _run(self) -> None:
        probed_threads(self.config.threads)
        with torch.inference_mode():
            while self._wait_for_work():
                try:
                    while self._inbox:
                        self._inbox.popleft()()
                    self._deliver(self._scheduler.step(lambda: self._swaps_due > 0))
                except Exception as error:  # the thread's boundary: nobody may wait for ever on a dead thread
                    log.error("decode_failed", error=f"{type(error).__name__}: {error}")
                    self._fail(PolicyError(f"the decoder failed: {type(error).__name__}: {error}"))
        self._fail(EngineClosed("the engine was closed"))

    def _wait_for_work(self) -> bool:
        """Block until there is something to do; False when the engine is closed."""
        with self._awake:
            self._awake.wait_for(lambda: self._closed or self._inbox or not self._scheduler.idle)
            return not self._closed

    def _fail(self, error: PolicyError) -> None:
        while self._inbox:  # what was posted meanwhile is in flight too
            self._inbox.popleft()()
        lost = self._scheduler.fail_all()
        for completion in lost:
            completion.end = error
        self._deliver(lost)

    def _deliver(self, completions: Iterable[Completion]) -> None:
        """Hand results to the loops that wait for them, one wake-up a loop and step."""
        calls: dict[asyncio.AbstractEventLoop, list[Callable[[], None]]] = {}
        for completion in completions:
            self._failed += isinstance(completion.end, PolicyError)
            ticket = self._tickets.get(completion)
            delivery = ticket.delivery() if ticket is not None else None
            if ticket is not None and delivery is not None:
                calls.setdefault(ticket.loop, []).append(delivery)
        for loop, deliveries in calls.items():
            _call(loop, deliveries)


def _call(loop: asyncio.AbstractEventLoop, deliveries: list[Callable[[], None]]) -> None:
    def deliver() -> None:
        for delivery in deliveries:
            delivery()

    try:
        loop.call_soon_threadsafe(deliver)
    except RuntimeError:  # that loop is closed: whoever waited is gone
        log.debug("caller_is_gone", completions=len(deliveries))
