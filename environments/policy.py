"""The contract of a policy: a task and the turns so far in, one completion out.

A policy holds no conversation: what belongs to an episode comes with each request, so one policy object serves any
number of episodes at once and a request can be repeated.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import NamedTuple, Protocol, Self, runtime_checkable

from pydantic import Field, SecretStr, model_validator

from core.config import Address, Config
from core.errors import NatgymError
from core.registry import Registry
from core.types import FinishReason, Floats, Message, Task, TokenIds, Turn
from tool_call_parsers.base import MalformedCall
from tool_call_parsers.retention import ThinkingRetention


@dataclass(frozen=True)
class CompletionRequest:
    """What a policy is asked: the next turn of one episode."""

    episode_id: str
    task: Task
    turns: tuple[Turn, ...] = ()
    waits: Callable[[], AbstractContextManager[object]] = field(default=nullcontext, compare=False)
    """Entered while the request waits for its turn on this side: that time is not the server's."""


class Usage(NamedTuple):
    """Tokens that were read and written for a completion."""

    prompt: int = 0
    completion: int = 0


@dataclass(frozen=True)
class Completion:
    """What a policy answered.

    prompt_ids (P), completion_ids (C) and logprobs (C, nats) are empty where the policy does not know them.
    `message.tool_calls` are the well-formed calls; those that `malformed` lists with their call cannot be made.
    """

    message: Message
    malformed: tuple[MalformedCall, ...] = ()
    finish_reason: FinishReason = FinishReason.STOP
    constrained: bool = False
    """The server masked what could be sampled: logprobs are those of the masked distribution."""
    prompt_ids: TokenIds = ()
    completion_ids: TokenIds = ()
    logprobs: Floats = ()
    policy_version: int = 0
    usage: Usage | None = None
    """As the server counts it; None where it does not say."""
    rolled_back: int = 0
    """Completions before this one that could not be read."""


class OutOfTokens(NatgymError):
    """The conversation is as long as it may become: the episode ends, and nothing outside of it is to blame."""


class Policy(Protocol):
    """Whoever answers."""

    async def complete(self, request: CompletionRequest) -> Completion:
        """The next turn. Raises PolicyError where none can be had, OutOfTokens where none may be asked for."""
        ...

    async def aclose(self) -> None:
        """Close connections. Safe to call twice."""
        ...


class Load(NamedTuple):
    """How much a policy's server is asked at the moment."""

    in_flight: int
    allowed: int
    """How many may be on their way now."""
    most: int
    """How many ever may."""
    waiting: int

    def line(self) -> str:
        """`24 of 32 requests at once, 8 waiting`."""
        return f"{self.in_flight} of {self.allowed} requests at once" + (f", {self.waiting} waiting" if self.waiting else "")


@runtime_checkable
class HasLoad(Protocol):
    """A policy that knows how busy its server is kept."""

    def load(self) -> Load | None:
        """None where nothing is asked of a server."""
        ...


def load_of(policy: Policy) -> Load | None:
    """How much a policy's server is asked at the moment; None where there is no server."""
    return policy.load() if isinstance(policy, HasLoad) else None


class PolicyKind(StrEnum):
    """How a policy is spoken to."""

    TOKENS = "tokens"
    """Token ids in, token ids and logprobs out, our own parser: what learning needs."""
    SERVER = "server"
    """An OpenAI-compatible server that renders messages and parses tool calls itself."""


class PolicyConfig(Config):
    """Where a policy answers, and how it samples."""

    kind: PolicyKind = PolicyKind.TOKENS
    base_url: Address = "http://127.0.0.1:8001"
    model: str = "policy"
    tokenizer: Path | None = None
    """Directory with tokenizer.json and a chat template; required for kind `tokens`."""
    parser: str = "hermes"
    thinking_retention: ThinkingRetention = ThinkingRetention.TEMPLATE
    """How long reasoning stays in the prompt; kind `tokens` only."""
    temperature: float = Field(default=1.0, ge=0)
    top_p: float = Field(default=1.0, gt=0, le=1)
    max_tokens_per_turn: int = Field(default=1024, gt=0)
    max_tokens: int = Field(default=8192, gt=0)
    """Length of a conversation, prompt and completions together; kind `tokens` only."""
    return_token_ids: bool = False
    """Ask a server for token ids and logprobs, as natgym's own and vLLM return them; others refuse the question."""
    resamples: int = Field(default=0, ge=0)
    """A turn that cannot be read is rolled back and sampled again, at most so often, by `environments.resampling`."""
    timeout_seconds: float = Field(default=120.0, gt=0)
    attempts: int = Field(default=6, gt=0)
    max_concurrency: int = Field(default=512, gt=0)
    """Requests on their way at once, of all episodes together; fewer where the server is too busy for so many."""

    @model_validator(mode="after")
    def _tokens_need_a_tokenizer(self) -> Self:
        if self.kind is PolicyKind.TOKENS and self.tokenizer is None:
            raise ValueError("kind 'tokens' needs `tokenizer`: a directory with tokenizer.json and a chat template")
        return self


POLICIES: Registry[Callable[[PolicyConfig, SecretStr | None], Policy]] = Registry(
    "policy",
    {"tokens": "environments.token_policy:open_token_policy", "server": "environments.server_policy:open_server_policy"},
)


def open_policy(config: PolicyConfig, api_token: SecretStr | None = None) -> Policy:
    """The policy that a configuration describes; `api_token` is sent as a bearer token."""
    return POLICIES.load(config.kind.value)(config, api_token)
