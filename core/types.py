"""The dictionary of natgym, in the order in which data flows.

Task -> Turn... -> Trajectory -> ScoredGroup -> Sample -> Update -> policy_version + 1 -> next Turn

Everything here is frozen and holds tuples, so a value can be shared between tasks of an event loop.
Shapes: G trajectories of a group, T tokens of a sample, P prompt tokens, C completion tokens.
"""

from enum import StrEnum
from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field, JsonValue, model_validator

TokenIds = tuple[Annotated[int, Field(ge=0)], ...]
Floats = tuple[float, ...]
JsonObject = dict[str, JsonValue]

SUM_TOLERANCE = 1e-9  # float64 rounding of a dozen parts


class Value(BaseModel):
    """A frozen record that refuses fields it does not know, and numbers that are not finite, at any depth."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Role(StrEnum):
    """Who speaks in a conversation, as in the OpenAI chat protocol."""

    SYSTEM = "system"
    USER = "user"
    ASSISTANT = "assistant"
    TOOL = "tool"


class FinishReason(StrEnum):
    """Why one completion ended."""

    STOP = "stop"
    LENGTH = "length"
    TOOL_CALLS = "tool_calls"


class StopReason(StrEnum):
    """Why an episode ended."""

    FINISHED = "finished"
    """The policy called the tool that ends the episode, or answered without a tool call."""
    MAX_TURNS = "max_turns"
    MAX_TOKENS = "max_tokens"
    TIMEOUT = "timeout"
    FAILED = "failed"
    """Something that was not the policy's doing; the trajectory holds a Failure."""


class ToolSpec(Value):
    """A tool as it is offered to a policy; `parameters` is a JSON schema of type object."""

    name: str
    description: str
    parameters: JsonObject

    def to_openai(self) -> JsonObject:
        """The entry of an OpenAI `tools=` list."""
        return {"type": "function", "function": self.model_dump()}


class ToolCall(Value):
    """One call that a policy asked for; `arguments` is the JSON text as it was sampled."""

    id: str
    name: str
    arguments: str


class Message(Value):
    """One message of a conversation, in the terms of the OpenAI chat protocol."""

    role: Role
    content: str = ""
    reasoning: str | None = None
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: str | None = None

    def to_openai(self) -> JsonObject:
        """The message as `/v1/chat/completions` takes it."""
        body: JsonObject = {"role": self.role.value, "content": self.content}
        if self.reasoning is not None:
            body["reasoning_content"] = self.reasoning
        if self.tool_calls:
            body["tool_calls"] = [
                {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
                for call in self.tool_calls
            ]
        if self.tool_call_id is not None:
            body["tool_call_id"] = self.tool_call_id
        return body


class Task(Value):
    """One problem. `data` is hidden: the reward reads it, the policy never does."""

    id: str
    environment: str
    messages: tuple[Message, ...]
    tools: tuple[ToolSpec, ...] = ()
    data: JsonObject = Field(default_factory=dict)
    seed: int = 0


class Turn(Value):
    """One completion of the policy and what the tools answered to it.

    prompt_ids (P), completion_ids (C) and logprobs (C, nats, of what was sampled from the distribution that it
    was sampled from) are empty where the policy is a server that does not return token ids.
    """

    prompt_ids: TokenIds = ()
    completion_ids: TokenIds = ()
    logprobs: Floats = ()
    message: Message
    observations: tuple[Message, ...] = ()
    malformed: int = Field(default=0, ge=0, description="tool calls that could not be used")
    mistakes: int = Field(default=0, ge=0, description="tool calls with which a tool was used wrongly, as it said itself")
    rolled_back: int = Field(default=0, ge=0, description="completions before this one that could not be read, and are gone")
    finish_reason: FinishReason = FinishReason.STOP
    constrained: bool = Field(default=False, description="sampled under a mask: not the policy's own distribution")
    policy_version: int = 0
    seconds: float = 0.0

    @model_validator(mode="after")
    def _one_logprob_per_token(self) -> Self:
        if len(self.logprobs) != len(self.completion_ids):
            raise ValueError(f"{len(self.completion_ids)} completion_ids but {len(self.logprobs)} logprobs")
        return self


class Reward(Value):
    """What an episode earned: `total` is the sum of the named `parts`.

    `metrics` are measurements beside the reward (sub-scores before weighting, counts); they do not add up to it.
    """

    total: float
    parts: dict[str, float]
    metrics: dict[str, float] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _total_is_the_sum_of_the_parts(self) -> Self:
        if not abs(sum(self.parts.values()) - self.total) <= SUM_TOLERANCE:
            raise ValueError(f"total {self.total} is not the sum of parts {self.parts}")
        return self

    @classmethod
    def of(cls, metrics: dict[str, float] | None = None, **parts: float) -> Self:
        """A reward from its parts: `Reward.of(correct=1.0, length=-0.1)`."""
        return cls(total=sum(parts.values()), parts=parts, metrics=metrics or {})


class Failure(Value):
    """Something that was not the policy's doing, at a named boundary. It is never a score."""

    boundary: str
    error: str
    message: str


class Trajectory(Value):
    """The turns of one episode, why it stopped, and a Reward or a Failure, never both."""

    id: str
    task_id: str
    turns: tuple[Turn, ...]
    stop: StopReason
    reward: Reward | None = None
    failure: Failure | None = None
    seconds: float = 0.0
    timings: dict[str, float] = Field(default_factory=dict, description="seconds by phase: generation, tools, reward")

    @model_validator(mode="after")
    def _reward_or_failure(self) -> Self:
        if (self.reward is None) == (self.failure is None):
            raise ValueError("a trajectory holds a reward or a failure, exactly one of the two")
        return self


class ScoredGroup(Value):
    """G trajectories of one task."""

    id: str
    environment: str
    task: Task
    trajectories: tuple[Trajectory, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _distinct_attempts_at_one_task(self) -> Self:
        if self.task.environment != self.environment:
            raise ValueError(f"a group of {self.environment!r} with a task of {self.task.environment!r}")
        if any(trajectory.task_id != self.task.id for trajectory in self.trajectories):
            raise ValueError(f"a trajectory of another task than {self.task.id!r}")
        if len({trajectory.id for trajectory in self.trajectories}) != len(self.trajectories):
            raise ValueError("two trajectories share an id")
        return self

    @property
    def scored(self) -> tuple[Trajectory, ...]:
        """The trajectories that hold a reward."""
        return tuple(trajectory for trajectory in self.trajectories if trajectory.reward is not None)

    @property
    def failed(self) -> tuple[Trajectory, ...]:
        """The trajectories that were lost at a boundary."""
        return tuple(trajectory for trajectory in self.trajectories if trajectory.failure is not None)

    @property
    def rewards(self) -> tuple[float, ...]:
        """Totals of the scored trajectories, in order."""
        return tuple(trajectory.reward.total for trajectory in self.scored if trajectory.reward is not None)

    @property
    def policy_version(self) -> int:
        """The oldest version that sampled a turn of this group: staleness counts from here."""
        return min((turn.policy_version for one in self.trajectories for turn in one.turns), default=0)


class Sample(Value):
    """One row that the trainer learns from: a prefix-extending run of turns.

    token_ids, loss_mask, logprobs and advantages have shape (T,). logprobs and advantages are 0.0 where the
    mask is False (prompt and tool output).
    """

    group_id: str
    trajectory_id: str
    token_ids: TokenIds
    loss_mask: tuple[bool, ...]
    logprobs: Floats
    advantages: Floats
    policy_version: int = 0

    @model_validator(mode="after")
    def _same_length(self) -> Self:
        lengths = {len(self.token_ids), len(self.loss_mask), len(self.logprobs), len(self.advantages)}
        if len(lengths) != 1:
            raise ValueError(f"token_ids, loss_mask, logprobs and advantages differ in length: {sorted(lengths)}")
        return self


class Update(Value):
    """One optimiser step. `metrics` holds what an algorithm measures beyond the named fields."""

    step: int
    policy_version: int
    loss: float
    kl: float
    entropy: float
    grad_norm: float
    clipped_fraction: float
    tokens: int
    seconds: float
    weights_path: str | None = None
    metrics: dict[str, float] = Field(default_factory=dict)
