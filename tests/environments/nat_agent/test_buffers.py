"""What the fork server relays lies in memory of its own."""

import pytest

from environments.nat_agent.runtime.buffers import Buffer


def test_bytes_come_out_in_the_order_in_which_they_went_in():
    buffer, out = Buffer(8), b""
    for part in (b"abcde", b"fgh", b"ij"):
        buffer.put(part)
        out += bytes(buffer.head(3))
        buffer.drop(3)
    assert (out, bytes(buffer.head()), buffer.room) == (b"abcdefghi", b"j", 7)


def test_more_than_there_is_room_for_is_refused():
    buffer = Buffer(4)
    buffer.put(b"abc")
    with pytest.raises(ValueError, match="memoryview assignment"):
        buffer.put(b"de")
    assert bytes(buffer.head()) == b"abc"


def test_a_reader_fills_what_room_there_is():
    buffer = Buffer(4)
    buffer.put(b"abc")
    buffer.drop(2)
    rooms = []
    assert buffer.fill(lambda room: rooms.append(len(room)) or 0) == 0
    assert (rooms, bytes(buffer.head())) == ([3], b"c")


def test_it_can_be_closed_while_a_part_of_it_is_looked_at():
    buffer = Buffer(4)
    buffer.put(b"abc")
    part = buffer.head(2)
    buffer.close()
    assert bytes(part) == b"ab"
