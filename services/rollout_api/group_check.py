"""A ScoredGroup checked in its bytes, without an object for each token.

The same rules as `core.types.ScoredGroup`, which trainers decode with; stricter where that one converts ("1" is no
number here). Packed arrays of ids and logprobs (`core.wire`) are looked at as numbers in place.
"""

import math
from collections.abc import Iterator
from typing import Annotated, Any, Literal, NamedTuple

import msgspec
import numpy as np
from msgspec import Meta, Struct
from msgspec.msgpack import Ext

from core.types import SUM_TOLERANCE
from core.wire import FLOAT32, FLOAT64, INT32, MIN_PACKED
from services.rollout_api.refusals import Invalid, Refusal

MAX_DEPTH = 100  # of JSON inside a group; readers give up at 255
PACKED_TYPES = {INT32: "<i4", FLOAT32: "<f4", FLOAT64: "<f8"}
Json = dict[str, Any]


class Closed(Struct, forbid_unknown_fields=True):
    """A record without other fields."""


class ToolSpec(Closed):
    """See core.types."""

    name: str
    description: str
    parameters: Json


class ToolCall(Closed):
    """See core.types."""

    id: str
    name: str
    arguments: str


class Message(Closed):
    """See core.types."""

    role: Literal["system", "user", "assistant", "tool"]
    content: str = ""
    reasoning: str | None = None
    tool_calls: list[ToolCall] = []
    tool_call_id: str | None = None


class Task(Closed):
    """See core.types."""

    id: str
    environment: str
    messages: list[Message]
    tools: list[ToolSpec] = []
    data: Json = {}
    seed: int = 0


class Turn(Closed):
    """See core.types; the first three are lists or numpy arrays over packed bytes."""

    message: Message
    prompt_ids: Any = []
    completion_ids: Any = []
    logprobs: Any = []
    observations: list[Message] = []
    malformed: Annotated[int, Meta(ge=0)] = 0
    mistakes: Annotated[int, Meta(ge=0)] = 0
    rolled_back: Annotated[int, Meta(ge=0)] = 0
    finish_reason: Literal["stop", "length", "tool_calls"] = "stop"
    constrained: bool = False
    policy_version: int = 0
    seconds: float = 0.0


class Reward(Closed):
    """See core.types."""

    total: float
    parts: dict[str, float]
    metrics: dict[str, float] = {}


class Failure(Closed):
    """See core.types."""

    boundary: str
    error: str
    message: str


class Trajectory(Closed):
    """See core.types."""

    id: str
    task_id: str
    turns: list[Turn]
    stop: Literal["finished", "max_turns", "max_tokens", "timeout", "failed"]
    reward: Reward | None = None
    failure: Failure | None = None
    seconds: float = 0.0
    timings: dict[str, float] = {}


class Group(Closed):
    """See core.types.ScoredGroup."""

    id: str
    environment: str
    task: Task
    trajectories: Annotated[list[Trajectory], Meta(min_length=1)]


class GroupHead(NamedTuple):
    """What the queue wants to know of a group."""

    id: str
    environment: str
    policy_version: int
    """The oldest version that sampled a turn."""
    scored: int
    lost: int


def check_msgpack(body: bytes) -> GroupHead:
    """The head of a group in msgpack. Raises Refusal (not msgpack) and Invalid (not a ScoredGroup)."""
    return _checked(_decoded(_FROM_MSGPACK, body, "application/msgpack"))


def check_json(body: bytes) -> tuple[GroupHead, bytes]:
    """The head of a group in JSON, and the group as msgpack. Raises as `check_msgpack` does."""
    group = _decoded(_FROM_JSON, body, "application/json")
    head = _checked(group)
    for turn in _turns(group):
        turn.prompt_ids, turn.completion_ids = _packed_ids(turn.prompt_ids), _packed_ids(turn.completion_ids)
        turn.logprobs = _packed_floats(turn.logprobs)
    try:
        return head, _TO_MSGPACK.encode(group)
    except OverflowError as error:
        raise Invalid("ScoredGroup: a whole number does not fit into 64 bits") from error


def json_of(body: bytes) -> bytes:
    """A group in msgpack that was accepted, as JSON."""
    return msgspec.json.encode(msgspec.msgpack.decode(body, ext_hook=lambda code, data: _unpacked(code, data).tolist()))


def _decoded(decoder: "msgspec.msgpack.Decoder[Group] | msgspec.json.Decoder[Group]", body: bytes, media_type: str) -> Group:
    try:
        return decoder.decode(body)
    except msgspec.ValidationError as error:
        raise Invalid(f"ScoredGroup: {str(error)[:500]}") from error
    except (msgspec.DecodeError, ValueError, RecursionError) as error:
        raise Refusal(f"cannot parse the body as {media_type}: {str(error)[:200]}") from error


def _checked(group: Group) -> GroupHead:
    task = group.task
    if task.environment != group.environment:
        raise Invalid(f"ScoredGroup: a group of {group.environment[:80]!r} with a task of {task.environment[:80]!r}")
    _check_json(task.data, "task.data")
    for tool in task.tools:
        _check_json(tool.parameters, "task.tools.parameters")
    if len({one.id for one in group.trajectories}) != len(group.trajectories):
        raise Invalid("ScoredGroup: two trajectories share an id")
    plain = _all_plain(list(_turns(group)))
    for number, trajectory in enumerate(group.trajectories):
        _check_trajectory(trajectory, task.id, f"trajectories.{number}", plain)
    scored = sum(one.reward is not None for one in group.trajectories)
    oldest = min((turn.policy_version for turn in _turns(group)), default=0)
    return GroupHead(group.id, group.environment, oldest, scored, len(group.trajectories) - scored)


def _all_plain(turns: list[Turn]) -> bool:
    """Whether every turn is of packed arrays that are in order: looked at all together, which is soon done."""
    ids, floats = [np.zeros(1, "<i4")], [np.zeros(1, "<f4")]
    for turn in turns:
        arrays = turn.prompt_ids, turn.completion_ids, turn.logprobs
        if not all(type(array) is np.ndarray for array in arrays):
            return False
        prompt, completion, logprobs = arrays
        ids += prompt, completion
        floats.append(logprobs)
        kinds = prompt.dtype.kind, completion.dtype.kind, logprobs.dtype.kind
        if kinds != ("i", "i", "f") or len(completion) != len(logprobs) or not math.isfinite(turn.seconds):
            return False
    return bool(np.concatenate(ids).min() >= 0 and np.isfinite(np.concatenate(floats)).all())


def _check_trajectory(trajectory: Trajectory, task_id: str, where: str, plain: bool) -> None:
    """`plain`: its turns are in order."""
    if trajectory.task_id != task_id:
        raise Invalid(f"ScoredGroup: {where}: of another task than {task_id[:80]!r}")
    if (trajectory.reward is None) == (trajectory.failure is None):
        raise Invalid(f"ScoredGroup: {where}: a trajectory holds a reward or a failure, exactly one of the two")
    _check_finite([trajectory.seconds, *trajectory.timings.values()], f"{where}.timings")
    if trajectory.reward is not None:
        _check_reward(trajectory.reward, f"{where}.reward")
    for number, turn in enumerate(() if plain else trajectory.turns):
        _check_turn(turn, f"{where}.turns.{number}")


def _check_reward(reward: Reward, where: str) -> None:
    _check_finite([reward.total, *reward.parts.values(), *reward.metrics.values()], where)
    if not abs(sum(reward.parts.values()) - reward.total) <= SUM_TOLERANCE:
        raise Invalid(f"ScoredGroup: {where}: total {reward.total} is not the sum of parts {str(reward.parts)[:200]}")


def _check_turn(turn: Turn, where: str) -> None:
    _check_finite([turn.seconds], f"{where}.seconds")
    _check_ids(turn.prompt_ids, f"{where}.prompt_ids")
    _check_ids(turn.completion_ids, f"{where}.completion_ids")
    _check_floats(turn.logprobs, f"{where}.logprobs")
    if len(turn.logprobs) != len(turn.completion_ids):
        raise Invalid(f"ScoredGroup: {where}: {len(turn.completion_ids)} completion_ids but {len(turn.logprobs)} logprobs")


def _check_ids(ids: object, where: str) -> None:
    if isinstance(ids, np.ndarray):
        good = ids.dtype.kind == "i" and (not len(ids) or bool(ids.min() >= 0))
    else:
        good = isinstance(ids, list) and set(map(type, ids)) <= {int} and min(ids, default=0) >= 0
    if not good:
        raise Invalid(f"ScoredGroup: {where}: expected whole numbers from 0 on")


def _check_floats(floats: object, where: str) -> None:
    if isinstance(floats, np.ndarray):
        good = floats.dtype.kind == "f" and bool(np.isfinite(floats).all())
    else:
        good = isinstance(floats, list) and set(map(type, floats)) <= {int, float} and all(map(math.isfinite, floats))
    if not good:
        raise Invalid(f"ScoredGroup: {where}: expected finite numbers")


def _check_finite(numbers: list[float], where: str) -> None:
    if not all(map(math.isfinite, numbers)):
        raise Invalid(f"ScoredGroup: {where}: a number is not finite")


def _check_json(value: object, where: str, depth: int = 0) -> None:
    if depth > MAX_DEPTH:
        raise Invalid(f"ScoredGroup: {where}: nested more than {MAX_DEPTH} deep")
    if isinstance(value, dict):
        if not all(isinstance(key, str) for key in value):
            raise Invalid(f"ScoredGroup: {where}: a key is not text")
        for item in value.values():
            _check_json(item, where, depth + 1)
    elif isinstance(value, list):
        for item in value:
            _check_json(item, where, depth + 1)
    elif isinstance(value, float):
        _check_finite([value], where)
    elif not isinstance(value, str | int | None):
        raise Invalid(f"ScoredGroup: {where}: {type(value).__name__} is not JSON")


def _turns(group: Group) -> Iterator[Turn]:
    return (turn for trajectory in group.trajectories for turn in trajectory.turns)


def _unpacked(code: int, data: memoryview) -> np.ndarray:
    if code not in PACKED_TYPES:
        raise ValueError(f"unknown extension type {code}")
    return np.frombuffer(data, PACKED_TYPES[code])


def _packed_ids(ids: list[int]) -> list[int] | Ext:
    if len(ids) < MIN_PACKED or max(ids) >= 2**31:
        return ids
    return Ext(INT32, np.asarray(ids, "<i4").tobytes())


def _packed_floats(floats: list[float]) -> list[float] | Ext:
    if len(floats) < MIN_PACKED:
        return [float(number) for number in floats]
    wide = np.asarray(floats, "<f8")
    with np.errstate(over="ignore"):
        narrow = wide.astype("<f4")
    if (narrow == wide).all():
        return Ext(FLOAT32, narrow.tobytes())
    return Ext(FLOAT64, wide.tobytes())


_FROM_MSGPACK = msgspec.msgpack.Decoder(Group, ext_hook=_unpacked)
_FROM_JSON = msgspec.json.Decoder(Group)
_TO_MSGPACK = msgspec.msgpack.Encoder()
