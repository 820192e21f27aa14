"""The loop of one episode: ask the policy, run its tool calls in the sandbox, tell it what they answered.

What the policy did wrong is an answer: a call that cannot be parsed, an unknown tool, arguments that a schema does
not take, a tool that was used wrongly. What broke outside of it is raised.
"""

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from pydantic import Field

from backends.base import SandboxError
from backends.errors import Blame, blame_of
from core.clock import Clock
from core.config import Config
from core.errors import BoundaryError, PolicyError, boundary
from core.types import FinishReason, Message, Role, StopReason, Task, ToolCall, Turn
from environments.base import Tool, ToolMistake
from environments.long_output import shown
from environments.policy import Completion, CompletionRequest, OutOfTokens, Policy
from environments.tool_context import ToolContext
from tool_call_parsers.base import MalformedCall
from tool_call_parsers.schemas import read_arguments


class ToolError(BoundaryError):
    """A tool itself failed; the policy used it as it should be used."""

    boundary = "tool"


class EpisodeLimits(Config):
    """Where an episode ends whether or not the policy is done."""

    turns: int | None = Field(default=None, gt=0)
    """None: the environment's own `max_turns`."""
    tool_seconds: float = Field(default=300.0, gt=0)
    """All tools of an episode together: the policy chose what to run, so the episode ends and is scored."""
    generation_seconds: float = Field(default=300.0, gt=0)
    """One completion: a server that is slow is not the policy's doing, so the episode is a Failure."""
    reward_seconds: float = Field(default=300.0, gt=0)
    tool_output_characters: int = Field(default=8000, ge=100)
    """A longer answer of a tool is stored in the sandbox, and loses its middle; see environments/long_output.py."""


@dataclass
class Record:
    """What has happened in an episode so far: its turns, and seconds by phase."""

    turns: list[Turn] = field(default_factory=list)
    timings: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def timed(self, phase: str, clock: Clock) -> Iterator[None]:
        """Add the seconds of a block to a phase."""
        started = clock.monotonic()
        try:
            yield
        finally:
            self.timings[phase] = self.timings.get(phase, 0.0) + clock.monotonic() - started


@dataclass(frozen=True)
class Episode:
    """One attempt at a task in one sandbox, while it is played."""

    id: str
    task: Task
    tools: Sequence[Tool]
    context: ToolContext
    record: Record


@dataclass
class _Answers:
    """What a turn was answered, as far as it has come."""

    observations: list[Message] = field(default_factory=list)
    mistakes: int = 0


class AgentLoop:
    """Plays episodes of one policy, any number at once."""

    def __init__(self, policy: Policy, limits: EpisodeLimits, clock: Clock) -> None:
        self._policy, self._limits, self._clock = policy, limits, clock

    async def run(self, episode: Episode, max_turns: int) -> StopReason:
        """Play to the end and say why it ended; the turns are in its record.

        Raises PolicyError, SandboxError or ToolError for what is not the policy's doing; turns that were played
        stay in the record.
        """
        stop = None
        while stop is None and len(episode.record.turns) < max_turns:
            stop = await self._turn(episode)
        return stop or StopReason.MAX_TURNS

    async def _turn(self, episode: Episode) -> StopReason | None:
        """Play one turn; None where the episode goes on."""
        seconds = self._clock.monotonic()
        try:
            completion = await self._complete(episode)
        except OutOfTokens:
            return StopReason.MAX_TOKENS
        seconds = self._clock.monotonic() - seconds
        answers = _Answers()
        left = max(0.0, self._limits.tool_seconds - episode.record.timings.get("tools", 0.0))
        try:
            with episode.record.timed("tools", self._clock):
                async with asyncio.timeout(left):
                    return await self._answer(episode, completion, answers)
        except TimeoutError:  # of the limit: one that a tool raises is a ToolError by now
            return StopReason.TIMEOUT
        finally:
            episode.record.turns.append(_turn_of(completion, answers, seconds))

    async def _complete(self, episode: Episode) -> Completion:
        limit = asyncio.timeout(self._limits.generation_seconds)
        request = CompletionRequest(episode.id, episode.task, tuple(episode.record.turns), lambda: _standing_still(limit))
        with episode.record.timed("generation", self._clock), boundary(PolicyError, "policy.complete"):
            try:
                async with limit:
                    return await self._policy.complete(request)
            except TimeoutError as error:
                if not limit.expired():
                    raise
                raise PolicyError(f"no completion within {self._limits.generation_seconds:g} s") from error

    async def _answer(self, episode: Episode, completion: Completion, answers: _Answers) -> StopReason | None:
        """Answer every call in order, usable ones first, into `answers`."""
        observations = answers.observations
        refused = {bad.call.id: bad for bad in completion.malformed if bad.call is not None}
        for call in completion.message.tool_calls:
            if call.id in refused:
                observations.append(_told(call, refused[call.id].problem))
            elif await self._run(episode, call, answers):
                return StopReason.FINISHED
        broken = [bad for bad in completion.malformed if bad.call is None]
        if broken:
            observations.append(_correction(broken))
        if observations:
            return None
        return StopReason.MAX_TOKENS if completion.finish_reason is FinishReason.LENGTH else StopReason.FINISHED

    async def _run(self, episode: Episode, call: ToolCall, answers: _Answers) -> bool:
        """Run one usable call; True where it ended the episode."""
        tool = next(tool for tool in episode.tools if tool.spec.name == call.name)
        number = sum(len(turn.observations) for turn in episode.record.turns) + len(answers.observations)
        try:
            with boundary(ToolError, f"tool {call.name}"):
                text, used = await _use(tool, episode.context, call)
                text = await shown(text, self._limits.tool_output_characters, number, episode.context)
        except asyncio.CancelledError:
            answers.observations.append(_told(call, "stopped: the time for tools is used up"))
            raise
        answers.observations.append(_told(call, text))
        answers.mistakes += not used
        return used and tool.ends_episode


@contextmanager
def _standing_still(limit: asyncio.Timeout) -> Iterator[None]:
    """The limit does not run down in the block."""
    clock, ends = asyncio.get_running_loop().time, limit.when()
    left = ends - clock() if ends is not None else 0.0
    limit.reschedule(None)
    try:
        yield
    finally:
        limit.reschedule(clock() + left)


async def _use(tool: Tool, context: ToolContext, call: ToolCall) -> tuple[str, bool]:
    """What a tool answers, and whether it was used as it should be."""
    try:
        return await tool.run(context, read_arguments(call.arguments)), True
    except ToolMistake as mistake:
        return f"{mistake}", False
    except SandboxError as error:
        if blame_of(error) is not Blame.MODEL:
            raise
        return f"{error}", False


def _turn_of(completion: Completion, answers: _Answers, seconds: float) -> Turn:
    return Turn(
        prompt_ids=completion.prompt_ids,
        completion_ids=completion.completion_ids,
        logprobs=completion.logprobs,
        message=completion.message,
        observations=tuple(answers.observations),
        malformed=len(completion.malformed),
        mistakes=answers.mistakes,
        rolled_back=completion.rolled_back,
        finish_reason=completion.finish_reason,
        constrained=completion.constrained,
        policy_version=completion.policy_version,
        seconds=seconds,
    )


def _told(call: ToolCall, text: str) -> Message:
    return Message(role=Role.TOOL, content=text, tool_call_id=call.id)


def _correction(broken: Sequence[MalformedCall]) -> Message:
    """What was wrong with blocks that are no calls: without an id there is nothing that a tool could answer."""
    problems = "\n".join(f"A tool call could not be read ({bad.status}): {bad.problem}" for bad in broken[:10])
    return Message(role=Role.USER, content=problems)
