"""The frames between host and agent, known to both ends.

A frame is two big-endian uint32 (bytes of header, bytes of body), a JSON object, and raw bytes. The host sends
{"id", "op", ...}; the agent answers {"id", ...} or {"id", "error", "message"}.
"""

from __future__ import annotations

import json
import struct

LENGTHS = struct.Struct(">II")
MAX_REQUEST_HEADER = 1 << 22
MAX_REQUEST_BODY = 1 << 28


class BrokenFrame(Exception):
    """Lengths that no honest host sends."""


def pack(header: dict[str, object], body_bytes: int) -> bytes:
    """A frame up to its body."""
    text = json.dumps(header).encode()
    return LENGTHS.pack(len(text), body_bytes) + text


def take_request(received: bytearray) -> tuple[dict, bytes] | None:
    """The first whole frame of the buffer, removed from it, or None. Raises BrokenFrame."""
    if len(received) < LENGTHS.size:
        return None
    header_bytes, body_bytes = LENGTHS.unpack_from(received)
    if header_bytes > MAX_REQUEST_HEADER or body_bytes > MAX_REQUEST_BODY:
        raise BrokenFrame(f"a request of {header_bytes} + {body_bytes} bytes")
    body_start = LENGTHS.size + header_bytes
    end = body_start + body_bytes
    if len(received) < end:
        return None
    header = json.loads(bytes(received[LENGTHS.size : body_start]))
    body = bytes(received[body_start:end])
    del received[:end]
    return header, body
