"""The frames between host and agent, known to both ends.

A frame is two big-endian uint32 (bytes of header, bytes of body), a JSON object, and raw bytes. The host sends
{"id", "op", ...}; the agent answers {"id", ...} or {"id", "error", "message"}.

Starting a sandbox is mostly starting Python, so the agent imports next to nothing: the scanner of the standard library's
json is used without that module, which would bring in regular expressions.
"""

from __future__ import annotations

from _json import encode_basestring_ascii, make_encoder, make_scanner
from _struct import Struct

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

LENGTHS = Struct(">II")
MAX_REQUEST_HEADER = 1 << 22
MAX_REQUEST_BODY = 1 << 28
MAX_NAMES_BYTES = 1 << 24
"""Of a list of files."""


class BrokenFrame(Exception):
    """Lengths that no honest host sends."""


class _Plain:
    """What the scanner wants to know of its json.JSONDecoder."""

    strict = True
    object_hook = object_pairs_hook = None
    parse_float = float
    parse_int = int
    memo: dict[str, str] = {}  # noqa: RUF012 the scanner empties it after every text

    @staticmethod
    def parse_constant(name: str) -> float:
        return float(name)


def _refuse(value: object) -> NoReturn:
    raise TypeError(f"cannot write {type(value).__name__} as JSON")


# neither looks for circles, nor indents, sorts, skips keys, or writes what is no finite number
_encoded = make_encoder(None, _refuse, encode_basestring_ascii, None, ": ", ", ", False, False, False)
_scan = make_scanner(_Plain)  # pyright: ignore[reportArgumentType] the stubs know no plain context


def pack(header: dict[str, object], body_bytes: int) -> bytes:
    """A frame up to its body."""
    text = encode(header).encode()
    return LENGTHS.pack(len(text), body_bytes) + text


def encode(value: object) -> str:
    """JSON of dictionaries, lists, strings, finite numbers, truth values and None. Raises TypeError, ValueError."""
    return "".join(_encoded(value, 0))


def decode(text: str) -> dict:
    """The object in a JSON text. Raises ValueError."""
    try:
        value, end = _scan(text, 0)
    except StopIteration as error:
        raise ValueError("no JSON") from error
    if end != len(text) or not isinstance(value, dict):
        raise ValueError("no JSON object")
    return value


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
    header = decode(bytes(received[LENGTHS.size : body_start]).decode())
    body = bytes(received[body_start:end])
    del received[:end]
    return header, body
