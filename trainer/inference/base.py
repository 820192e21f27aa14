"""The contract of an inference engine: token ids in, sampled token ids and their logprobs out.

Shapes: P prompt tokens, C completion tokens. Logprobs are nats, float32, of the distribution that the token was
drawn from: after temperature, top_k, top_p and min_p. Where the likeliest token is taken, they are those at temperature 1.
"""

from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, NamedTuple, Protocol

from pydantic import Field

from core.errors import PolicyError, UserError
from core.types import FinishReason, TokenIds, Value

if TYPE_CHECKING:
    from torch import Tensor


MIN_TEMPERATURE = 1e-3


class SamplingParams(Value):
    """How one completion is drawn."""

    max_tokens: int = Field(default=256, gt=0)
    temperature: float = Field(default=1.0, ge=0.0, le=100.0, description="below 0.001: the likeliest token")
    top_p: float = Field(default=1.0, gt=0.0, le=1.0)
    top_k: int = Field(default=0, ge=0, le=1 << 30, description="0 keeps the whole vocabulary")
    min_p: float = Field(default=0.0, ge=0.0, le=1.0, description="share of the likeliest token's probability to be kept")
    stop_token_ids: TokenIds = ()
    """Sampling one of these ends the completion; it is part of it."""
    stop: tuple[Annotated[str, Field(min_length=1, max_length=256)], ...] = Field(default=(), max_length=16)
    """Text that ends the completion; the tokens that spell it are part of it."""
    seed: int | None = None
    """The same seed and weights give the same tokens, whatever else is being decoded."""

    @property
    def greedy(self) -> bool:
        """Whether the likeliest token is taken: logits divided by less than this overflow."""
        return self.temperature < MIN_TEMPERATURE


class TokenConstraint(Protocol):
    """Which tokens may come next in one completion; used from the decode thread only. Never raises."""

    @property
    def problem(self) -> str:
        """Why it cannot go on; an empty string while it can."""
        ...

    def allowed(self) -> bytes:
        """One bit a token id, least significant first; ids beyond the end are not allowed."""
        ...

    def accept(self, token: int) -> None:
        """That token was sampled."""
        ...


class GenerationRequest(Value):
    """One prompt to continue. `session_id` is the episode: its last turn's cache is kept for its next one."""

    prompt_ids: TokenIds = Field(min_length=1)
    params: SamplingParams = SamplingParams()
    session_id: str | None = None
    client: str | None = None
    """Who asks: clients that wait take turns."""
    constraint: Callable[[], TokenConstraint] | None = None
    """Makes what masks the logits; logprobs are then those of the masked distribution."""


class VersionSpan(NamedTuple):
    """Completion tokens [start, end) were sampled by that policy version."""

    version: int
    start: int
    end: int


class TokenChunk(NamedTuple):
    """What one decode step added to a completion; `finish_reason` is set on the last chunk."""

    token_ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    policy_version: int
    finish_reason: FinishReason | None


@dataclass(frozen=True)
class Generation:
    """One finished completion: token_ids (C) with the stop token, logprobs (C), and who sampled what."""

    token_ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    finish_reason: FinishReason
    spans: tuple[VersionSpan, ...]
    cached_tokens: int = 0
    """Prompt tokens that were not computed again."""

    @property
    def policy_version(self) -> int:
        """The oldest version that sampled a token of this completion."""
        return min(span.version for span in self.spans)


@dataclass(frozen=True)
class EngineStats:
    """Counters since start, and what is in flight now."""

    policy_version: int
    running: int
    waiting: int
    requests: int = 0
    rejected: int = 0
    cancelled: int = 0
    failed: int = 0
    prompt_tokens: int = 0
    cached_prompt_tokens: int = 0
    generated_tokens: int = 0
    decode_steps: int = 0
    publishes: int = 0
    interrupted_steps: int = 0
    """Steps that were left for new weights and done again with them."""
    cache_tokens: int = 0
    """Tokens whose keys and values are kept for a next turn."""
    ready: bool = True
    """Whether a request would be taken now: neither closed nor full."""
    seconds: Mapping[str, float] = field(default_factory=dict)
    """Wall seconds by phase: prefill, decode, publish (with what it interrupted)."""


class QueueFull(PolicyError):
    """As many requests wait as may wait; try again after `retry_after_seconds`."""

    retryable = True

    def __init__(self, message: str, retry_after_seconds: float = 1.0) -> None:
        self.retry_after_seconds = retry_after_seconds
        super().__init__(message)


class ClientQueueFull(QueueFull):
    """As many requests of this client wait as one client may have waiting; others may still ask."""


class EngineClosed(PolicyError):
    """The engine was closed before the completion ended."""


class UnusableRequest(UserError):
    """A prompt that is too long or holds ids outside the vocabulary, or a setting that the engine cannot honour."""


class InferenceEngine(Protocol):
    """Who samples. Safe to call from any event loop of the process."""

    max_length: int
    """Prompt and completion together, in tokens."""

    @property
    def policy_version(self) -> int:
        """The version that the next token is sampled by."""
        ...

    async def generate(self, request: GenerationRequest) -> Generation:
        """One completion; cancelling the call frees its place at once.

        Raises UnusableRequest, QueueFull, EngineClosed, and PolicyError where the weights give no finite logits.
        """
        ...

    def stream(self, request: GenerationRequest) -> AsyncIterator[TokenChunk]:
        """The same, a chunk a decode step. Closing the iterator cancels; raises what `generate` raises."""
        ...

    async def publish(self, weights: "Mapping[str, Tensor]", version: int) -> None:
        """Sample from these weights (Hugging Face names) from the next decode step on. They must not change meanwhile.

        What is being decoded goes on with the keys and values that it has; new requests reuse none of an older
        version. Returns when the weights have been copied. Raises TrainingError and changes nothing where names
        or shapes do not fit.
        """
        ...

    def stats(self) -> EngineStats:
        """Counters and what is in flight."""
        ...

    async def aclose(self) -> None:
        """Stop; what is in flight ends with EngineClosed. Safe to call twice."""
        ...
