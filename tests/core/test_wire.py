"""The codec: what goes in comes out to the last bit, and bytes that are wrong are refused, whatever they are."""

import math
from array import array

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.types import Message, Reward, Role, Sample, ScoredGroup, StopReason, Task, ToolCall, Trajectory, Turn
from core.wire import MIN_PACKED, WireError, decode, encode, pack, unpack

WORDS = st.text(st.characters(exclude_categories=("Cs",)), max_size=8)
FLOATS = st.floats(allow_nan=False, allow_infinity=False)
NARROW = st.floats(allow_nan=False, allow_infinity=False, width=32)
INTEGERS = st.integers(min_value=-(2**63), max_value=2**64 - 1)
PLAIN = st.recursive(
    st.none() | st.booleans() | INTEGERS | FLOATS | WORDS,
    lambda inner: st.lists(inner, max_size=12) | st.dictionaries(WORDS, inner, max_size=4),
    max_leaves=20,
)
CALLS = st.builds(ToolCall, id=WORDS, name=WORDS, arguments=WORDS)
MESSAGES = st.builds(
    Message,
    role=st.sampled_from(Role),
    content=WORDS,
    reasoning=st.none() | WORDS,
    tool_calls=st.lists(CALLS, max_size=2).map(tuple),
)
TASKS = st.builds(
    Task,
    id=WORDS,
    environment=WORDS,
    messages=st.lists(MESSAGES, max_size=2).map(tuple),
    data=st.dictionaries(WORDS, PLAIN, max_size=3),
)


@st.composite
def turns(draw: st.DrawFn) -> Turn:
    logprobs = draw(st.lists(NARROW, max_size=20) | st.lists(FLOATS, max_size=20))
    count = len(logprobs)
    ids = st.integers(min_value=0, max_value=2**40)
    return Turn(
        message=draw(MESSAGES),
        prompt_ids=tuple(draw(st.lists(ids, max_size=20))),
        completion_ids=tuple(draw(st.lists(ids, min_size=count, max_size=count))),
        logprobs=tuple(logprobs),
    )


@st.composite
def groups(draw: st.DrawFn) -> ScoredGroup:
    task = draw(TASKS)
    trajectories = st.builds(
        Trajectory,
        id=WORDS,
        task_id=st.just(task.id),
        turns=st.lists(turns(), max_size=2).map(tuple),
        stop=st.sampled_from(StopReason),
        reward=st.builds(lambda value: Reward.of(part=value), FLOATS),
        failure=st.none(),
    )
    members = tuple(draw(st.lists(trajectories, min_size=1, max_size=3, unique_by=lambda one: one.id)))
    return ScoredGroup(id=draw(WORDS), environment=task.environment, task=task, trajectories=members)


GROUPS = groups()


def sample(count: int) -> Sample:
    return Sample(
        group_id="g",
        trajectory_id="t",
        token_ids=tuple(range(count)),
        loss_mask=(True,) * count,
        logprobs=tuple(-index / 3 for index in range(count)),
        advantages=(0.5,) * count,
    )


def bits(numbers: tuple[float, ...]) -> bytes:
    return array("d", numbers).tobytes()


@given(GROUPS)
@settings(max_examples=40)  # a group is slow to draw
def test_a_group_comes_back_as_it_was(group: ScoredGroup):
    assert decode(ScoredGroup, encode(group)) == group


@given(st.lists(NARROW, max_size=40).map(tuple) | st.lists(FLOATS, max_size=40).map(tuple))
def test_floats_come_back_to_the_last_bit(numbers: tuple[float, ...]):
    turn = Turn(message=Message(role=Role.ASSISTANT), completion_ids=(1,) * len(numbers), logprobs=numbers)
    assert bits(decode(Turn, encode(turn)).logprobs) == bits(numbers)


@pytest.mark.parametrize("count", [0, 1, MIN_PACKED - 1, MIN_PACKED, MIN_PACKED + 1, 5000])
def test_a_sample_of_any_length_comes_back_as_it_was(count: int):
    assert decode(Sample, encode(sample(count))) == sample(count)


@pytest.mark.parametrize("edge", [2**31 - 1, 2**31, 2**40])
def test_token_ids_beyond_32_bits_come_back_as_they_were(edge: int):
    ids = (edge,) * MIN_PACKED
    assert decode(Turn, encode(Turn(message=Message(role=Role.USER), prompt_ids=ids))).prompt_ids == ids


def test_logprobs_of_a_float32_softmax_travel_as_four_bytes_each():
    narrow = tuple(array("f", [-0.1] * 1000))
    turn = Turn(message=Message(role=Role.USER), completion_ids=(1,) * 1000, logprobs=narrow)
    assert len(encode(turn)) < 2 * 4 * 1000 + 300  # ids and logprobs, and the names of the other fields


def test_numbers_that_are_none_of_finite_come_back():
    numbers = (math.nan, math.inf, -math.inf, -0.0, 5e-324, 1e300, 0.0, 1.0)
    back = unpack(pack(numbers))
    assert isinstance(back, tuple)
    assert bits(back) == bits(numbers)


@pytest.mark.parametrize(("value", "found"), [(10**30, "int"), ("\ud800", "surrogates"), (object(), "object")])
def test_a_value_that_msgpack_cannot_carry_is_refused(value: object, found: str):
    with pytest.raises(WireError, match=found):
        pack({"x": value})


def test_a_value_that_nests_without_end_is_refused():
    deep: object = 1
    for _ in range(10_000):
        deep = [deep]
    with pytest.raises(WireError, match="cannot be put on the wire"):
        pack(deep)


@given(st.binary(max_size=200))
def test_any_bytes_are_a_message_or_refused(body: bytes):
    try:
        decode(ScoredGroup, body)
    except WireError:
        return


@given(GROUPS, st.data())
@settings(max_examples=40)  # a group is slow to draw
def test_a_message_with_flipped_bytes_is_a_message_or_refused(group: ScoredGroup, data: st.DataObject):
    body = bytearray(encode(group))
    for _ in range(data.draw(st.integers(1, 4))):
        body[data.draw(st.integers(0, len(body) - 1))] = data.draw(st.integers(0, 255))
    try:
        decode(ScoredGroup, bytes(body))
    except WireError:
        return


@given(GROUPS, st.data())
@settings(max_examples=40)  # a group is slow to draw
def test_a_message_that_was_cut_is_refused(group: ScoredGroup, data: st.DataObject):
    body = encode(group)
    with pytest.raises(WireError, match="not msgpack"):
        decode(ScoredGroup, body[: data.draw(st.integers(0, len(body) - 1))])


BOMBS = {
    "nested arrays": b"\x91" * 100_000 + b"\x01",
    "nested maps": b"\x81\xa1a" * 100_000 + b"\x01",
    "an array that promises four billion items": b"\xdd\xff\xff\xff\xff",
    "a map that promises four billion items": b"\xdf\xff\xff\xff\xff",
    "text that promises four gigabytes": b"\xdb\xff\xff\xff\xff",
    "nested arrays that promise a million items each": b"\xdd\x00\x0f\x00\x00" * 300 + b"\x00" * 1_000_000,
    "an extension that nobody knows": b"\xd4\x09a",
    "an array of integers that is cut": b"\xc7\x03\x01abc",
    "a date out of range": b"\xd7\xff" + b"\xff" * 8,
    "text that is not UTF-8": b"\xa1\xff",
    "a map with a number for a key": b"\x81\x01\x01",
    "bytes behind the end": b"\x80\x80",
    "nothing": b"",
}


@pytest.mark.parametrize("name", BOMBS)
def test_a_bomb_is_refused(name: str):
    with pytest.raises(WireError):
        decode(Task, BOMBS[name])


@pytest.mark.parametrize("depth", [300, 400, 500])
def test_data_nested_deeper_than_a_type_can_be_is_refused_in_few_words(depth: int):
    deep: object = 1
    for _ in range(depth):
        deep = [deep]
    body = msgpack.packb({"id": "t", "environment": "e", "messages": [], "data": {"x": deep}})
    with pytest.raises(WireError) as caught:
        decode(Task, body)
    assert len(str(caught.value)) < 500


def test_a_message_of_another_type_is_refused_with_its_first_wrong_field():
    with pytest.raises(WireError, match=r"^Task: environment: Field required$"):
        decode(Task, pack({"id": "t"}))


def test_a_message_that_breaks_a_rule_of_its_type_is_refused():
    with pytest.raises(WireError, match="exactly one of the two"):
        decode(Trajectory, pack({"id": "a", "task_id": "t", "turns": [], "stop": "finished"}))


def test_a_refusal_does_not_repeat_what_was_sent():
    with pytest.raises(WireError) as caught:
        decode(Task, pack({"id": ["s3cret"], "environment": "e", "messages": []}))
    assert "s3cret" not in str(caught.value)
