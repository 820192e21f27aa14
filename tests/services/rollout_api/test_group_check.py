"""Checking a group in its bytes: never laxer than the type that trainers decode with."""

import random
from types import NoneType
from typing import Any, get_args

import msgspec
import pytest
from pydantic import BaseModel

from core import types, wire
from core.types import ScoredGroup
from core.wire import encode, pack
from services.rollout_api import group_check
from services.rollout_api.group_check import check_json, check_msgpack, json_of
from services.rollout_api.refusals import Invalid, Refusal
from tests.services.rollout_api.harness import group, turn

PAIRS = {
    group_check.Group: types.ScoredGroup,
    **{
        getattr(group_check, name): getattr(types, name)
        for name in ("ToolSpec", "ToolCall", "Message", "Task", "Turn", "Reward", "Failure", "Trajectory")
    },
}


def whole(tokens: int = 40) -> ScoredGroup:
    """A group with something in every field."""
    one = group("a", scored=2, lost=1)
    call = types.ToolCall(id="c", name="add", arguments="{}")
    message = types.Message(role=types.Role.ASSISTANT, content="é", reasoning="so", tool_calls=(call,))
    answer = types.Message(role=types.Role.TOOL, content="4", tool_call_id="c")
    filled = turn(tokens=tokens).model_copy(update={"message": message, "observations": (answer,), "seconds": 0.5})
    first = one.trajectories[0].model_copy(update={"turns": (filled, filled), "timings": {"tools": 0.1}})
    tool = types.ToolSpec(name="add", description="adds", parameters={"type": "object", "properties": {}})
    task = one.task.model_copy(update={"tools": (tool,), "data": {"hidden": [1, 2.5, None, True, {"x": "y"}]}})
    return one.model_copy(update={"task": task, "trajectories": (first, *one.trajectories[1:])})


@pytest.mark.parametrize("struct", PAIRS, ids=lambda struct: struct.__name__)
def test_a_record_has_the_fields_of_its_type_and_wants_the_same_of_them(struct: type[msgspec.Struct]):
    model: type[BaseModel] = PAIRS[struct]
    required = {field.name for field in msgspec.structs.fields(struct) if field.required}
    assert set(struct.__struct_fields__) == set(model.model_fields)
    assert required == {name for name, field in model.model_fields.items() if field.is_required()}


@pytest.mark.parametrize(
    ("struct", "name", "enum"),
    [
        (group_check.Message, "role", types.Role),
        (group_check.Turn, "finish_reason", types.FinishReason),
        (group_check.Trajectory, "stop", types.StopReason),
    ],
)
def test_a_choice_has_the_same_values_as_its_type(struct: type[msgspec.Struct], name: str, enum: Any):
    hints = {field.name: field.type for field in msgspec.structs.fields(struct)}
    assert set(get_args(hints[name])) - {NoneType} == {member.value for member in enum}


def test_what_is_encoded_here_is_accepted_and_its_head_is_read():
    assert check_msgpack(encode(whole())) == ("a", "sums", 0, 2, 1)


def test_json_becomes_the_same_bytes_to_a_reader():
    sent = whole()
    _, body = check_json(sent.model_dump_json().encode())
    assert wire.decode(ScoredGroup, body) == sent


def test_a_group_reads_the_same_as_json():
    sent = whole()
    assert ScoredGroup.model_validate_json(json_of(encode(sent))) == sent


def test_logprobs_that_float32_does_not_hold_keep_their_last_bit():
    odd = turn(tokens=9).model_copy(update={"logprobs": (-0.1,) * 9})
    sent = group("a", scored=1)
    sent = sent.model_copy(update={"trajectories": (sent.trajectories[0].model_copy(update={"turns": (odd,)}),)})
    _, body = check_json(sent.model_dump_json().encode())
    assert wire.decode(ScoredGroup, body) == sent


def nested(depth: int) -> dict[str, Any]:
    value: dict[str, Any] = {}
    for _ in range(depth):
        value = {"x": value}
    return value


@pytest.mark.parametrize(
    "data",
    [nested(101), {"x": b"bytes"}, {"x": (1.0, float("nan"))}, {"x": tuple(range(9))}],
    ids=["deep", "bytes", "nan", "packed"],
)
def test_hidden_data_is_json_that_every_reader_can_read(data: dict[str, Any]):
    body = whole().model_dump(mode="python")
    body["task"]["data"] = data
    with pytest.raises(Invalid, match=r"task\.data"):
        check_msgpack(pack(body))


def test_json_that_is_as_deep_as_allowed_can_be_read():
    sent = whole()
    sent = sent.model_copy(update={"task": sent.task.model_copy(update={"data": nested(99)})})
    check_msgpack(encode(sent))
    assert wire.decode(ScoredGroup, encode(sent)) == sent


def test_a_body_that_is_accepted_can_always_be_read_by_a_trainer():
    chance = random.Random(3)
    body = encode(whole(tokens=12))
    accepted = 0
    for _ in range(6000):
        damaged = bytearray(body)
        for _ in range(chance.randrange(1, 3)):
            damaged[chance.randrange(len(damaged))] = chance.randrange(256)
        try:
            check_msgpack(bytes(damaged))
        except Refusal:
            continue
        wire.decode(ScoredGroup, bytes(damaged))  # raises where a reader would have to stop
        accepted += 1
    assert accepted > 100  # most of a group is token ids, which may be anything
