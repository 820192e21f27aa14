"""What a hostile agent may send, and that the host believes none of it."""

import asyncio
import json
import socket
from collections.abc import AsyncIterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backends.agent.frames import LENGTHS, MAX_REQUEST_BODY, BrokenFrame, pack, take_request
from backends.base import ProtocolViolation, SandboxLost
from backends.channel import Channel
from core.types import JsonObject

PING: JsonObject = {"op": "ping"}


class Liar:
    """The other end of a channel, in the hands of the test."""

    def __init__(self, end: socket.socket) -> None:
        self._end = end

    async def hear(self) -> None:
        await asyncio.get_running_loop().sock_recv(self._end, 1 << 16)

    async def say(self, data: bytes) -> None:
        await asyncio.get_running_loop().sock_sendall(self._end, data)

    def leave(self) -> None:
        self._end.close()


@pytest.fixture
async def ends() -> AsyncIterator[tuple[Channel, Liar]]:
    """A channel and who is at its other end."""
    ours, theirs = socket.socketpair()
    theirs.setblocking(False)
    channel = await Channel.open(ours)
    yield channel, Liar(theirs)
    await channel.close()
    theirs.close()


def frame(header: object, body: bytes = b"") -> bytes:
    text = json.dumps(header).encode()
    return LENGTHS.pack(len(text), len(body)) + text + body


LIES = {
    "a body that nobody asked for": frame({"id": 1}, b"x"),
    "a reply to nothing": frame({"id": 99}),
    "a reply without a number": frame({}),
    "a number of the wrong type": frame({"id": "1"}),
    "a truth value for a number": frame({"id": True}),
    "a list": frame([1]),
    "no JSON": LENGTHS.pack(3, 0) + b"{{{",
    "no text": LENGTHS.pack(4, 0) + b"\xff\xfe\x00\x01",
    "nesting without end": LENGTHS.pack(60_000, 0) + b"[" * 60_000,
    "a header without end": LENGTHS.pack(0xFFFFFFFF, 0),
    "a body without end": LENGTHS.pack(9, 0xFFFFFFFF) + b'{"id": 1}',
}


@pytest.mark.parametrize("lie", LIES)
async def test_a_reply_that_no_honest_agent_sends_ends_the_channel(ends: tuple[Channel, Liar], lie: str):
    channel, liar = ends
    asking = asyncio.create_task(channel.request(PING, seconds=20))
    await liar.hear()
    await liar.say(LIES[lie])
    with pytest.raises(ProtocolViolation):
        await asking
    with pytest.raises(ProtocolViolation):
        await channel.request(PING, seconds=20)


async def test_a_second_reply_to_one_request_ends_the_channel(ends: tuple[Channel, Liar]):
    channel, liar = ends
    asking = asyncio.create_task(channel.request(PING, seconds=20))
    await liar.hear()
    await liar.say(frame({"id": 1}))
    await asking
    asking = asyncio.create_task(channel.request(PING, seconds=20))
    await liar.hear()
    await liar.say(frame({"id": 1}))
    with pytest.raises(ProtocolViolation):
        await asking


async def test_replies_find_their_requests_in_any_order(ends: tuple[Channel, Liar]):
    channel, liar = ends
    asking = [asyncio.create_task(channel.request(PING, seconds=20, max_body=1)) for _ in range(3)]
    await liar.hear()
    await liar.say(frame({"id": 3}, b"c") + frame({"id": 1}, b"a") + frame({"id": 2}, b"b"))
    assert [reply.body for reply in await asyncio.gather(*asking)] == [b"a", b"b", b"c"]


async def test_an_agent_that_leaves_fails_everybody_who_waits(ends: tuple[Channel, Liar]):
    channel, liar = ends
    asking = [asyncio.create_task(channel.request(PING, seconds=20)) for _ in range(3)]
    await liar.hear()
    liar.leave()
    outcomes = await asyncio.gather(*asking, return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [SandboxLost] * 3


async def test_an_agent_that_says_nothing_is_lost(ends: tuple[Channel, Liar]):
    channel, _ = ends
    with pytest.raises(SandboxLost, match="no answer within") as lost:
        await channel.request(PING, seconds=0.05)
    assert lost.value.maybe_executed


async def test_the_late_reply_to_a_request_that_was_given_up_is_dropped(ends: tuple[Channel, Liar]):
    channel, liar = ends
    given_up = asyncio.create_task(channel.request(PING, seconds=20))
    await liar.hear()
    given_up.cancel()
    asking = asyncio.create_task(channel.request(PING, seconds=20))
    await liar.hear()
    await liar.say(frame({"id": 1}) + frame({"id": 2}))
    assert (await asking).header == {"id": 2}


@given(st.binary(max_size=64))
def test_any_bytes_are_a_request_or_none_or_broken(data: bytes):
    received = bytearray(pack({"id": 1}, 0) + data)
    assert take_request(received) == ({"id": 1}, b"")
    assert bytes(received) == data


@given(st.lists(st.binary(max_size=300), max_size=4), st.integers(1, 50))
def test_requests_are_found_however_they_are_cut(bodies: list[bytes], size: int):
    stream = b"".join(pack({"id": number}, len(body)) + body for number, body in enumerate(bodies))
    received, found = bytearray(), []
    for start in range(0, len(stream), size):
        received += stream[start : start + size]
        while (request := take_request(received)) is not None:
            found.append(request)
    assert found == [({"id": number}, body) for number, body in enumerate(bodies)]


def test_a_request_without_end_is_broken():
    with pytest.raises(BrokenFrame):
        take_request(bytearray(LENGTHS.pack(2, MAX_REQUEST_BODY + 1)))
