"""A group as an environment of Atropos gives it, as a ScoredGroup.

Its sequences are told apart by masks: ids that are learned from stand in the mask, all others are -100. Each run of
them becomes a turn, whose prompt is everything before it. What is no sample (no logprobs, a score that is no number)
becomes a Failure of its trajectory: it says nothing about the policy.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any

from core.errors import BoundaryError
from core.types import Failure, Message, Reward, Role, ScoredGroup, StopReason, Task, Trajectory, Turn

MASKED = -100
Data = Mapping[str, Any]


class NoSample(BoundaryError):
    """What the environment gave is nothing that can be learned from."""

    boundary = "environment"


def scored_group(data: Data, name: str, group_id: str, policy_version: int) -> ScoredGroup:
    """The group of that id. `policy_version`: of the policy when it was begun. Raises NoSample for one without sequences."""
    tokens = data.get("tokens") or []
    if not tokens:
        raise NoSample(f"{name} gave a group without tokens")
    conversations = data.get("messages") or []
    task = Task(id=group_id, environment=name, messages=_prompt(conversations[0] if conversations else []))
    trajectories = [_trajectory(data, index, task, policy_version) for index in range(len(tokens))]
    return ScoredGroup(id=group_id, environment=name, task=task, trajectories=tuple(trajectories))


def lost_group(name: str, group_id: str, size: int, error: Exception) -> ScoredGroup:
    """A group that broke as a whole."""
    task = Task(id=group_id, environment=name, messages=())
    lost = tuple(_failed(f"{group_id}-{index}", task, error) for index in range(size))
    return ScoredGroup(id=group_id, environment=name, task=task, trajectories=lost)


def _trajectory(data: Data, index: int, task: Task, policy_version: int) -> Trajectory:
    name = f"{task.id}-{index}"
    try:
        score = float(_row(data, "scores", index))
        if not math.isfinite(score):
            raise NoSample(f"the score {score} of sequence {index} is no number")
        turns = tuple(_turns(data, index, policy_version))
        if not turns:
            raise NoSample(f"sequence {index} has no token that is not masked")
    except (NoSample, TypeError, ValueError) as error:  # pydantic's refusals are ValueErrors
        return _failed(name, task, error)
    return Trajectory(id=name, task_id=task.id, turns=turns, stop=StopReason.FINISHED, reward=Reward.of(score=score))


def _turns(data: Data, index: int, policy_version: int) -> Iterator[Turn]:
    tokens, masks = list(_row(data, "tokens", index)), list(_row(data, "masks", index))
    logprobs = list(_row(data, "inference_logprobs", index))
    if not len(tokens) == len(masks) == len(logprobs):
        lengths = f"{len(tokens)} tokens, {len(masks)} masks, {len(logprobs)} inference_logprobs"
        raise NoSample(f"sequence {index} has {lengths}: they belong together")
    runs = [list(run) for sampled, run in groupby(range(len(tokens)), lambda at: masks[at] != MASKED) if sampled]
    conversation = (data.get("messages") or [[]] * (index + 1))[index]
    said = [_text(message) for message in conversation if message.get("role") == Role.ASSISTANT]
    for number, run in enumerate(runs):
        start, end = run[0], run[-1] + 1
        yield Turn(
            prompt_ids=tuple(tokens[:start]),
            completion_ids=tuple(tokens[start:end]),
            logprobs=tuple(logprobs[start:end]),
            # which message belongs to which run is known only where there is one for each
            message=Message(role=Role.ASSISTANT, content=said[number] if len(said) == len(runs) else ""),
            policy_version=policy_version,
        )


def _row(data: Data, field: str, index: int) -> Any:
    rows = data.get(field) or []
    if index >= len(rows):
        raise NoSample(f"{field}: there is no row for sequence {index}, and natgym's trainer needs one")
    return rows[index]


def _prompt(conversation: Sequence[Mapping[str, Any]]) -> tuple[Message, ...]:
    """What was said before the policy said anything."""
    roles = {Role.SYSTEM, Role.USER}
    end = next((at for at, message in enumerate(conversation) if message.get("role") not in roles), len(conversation))
    return tuple(Message(role=Role(message["role"]), content=_text(message)) for message in conversation[:end])


def _text(message: Mapping[str, Any]) -> str:
    content = message.get("content")
    return content if isinstance(content, str) else ""


def _failed(name: str, task: Task, error: Exception) -> Trajectory:
    boundary = error.boundary if isinstance(error, BoundaryError) else NoSample.boundary
    failure = Failure(boundary=boundary, error=type(error).__name__, message=str(error)[:2000])
    return Trajectory(id=name, task_id=task.id, turns=(), stop=StopReason.FAILED, failure=failure)
