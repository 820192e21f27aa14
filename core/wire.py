"""The one codec of what crosses a process border: msgpack, with token ids and floats as packed arrays.

A tuple of integers travels as an int32 array, a tuple of floats as float32 where that loses nothing (logprobs
come out of a float32 softmax) and as float64 otherwise, so decode(encode(x)) == x to the last bit. Everything
else is plain msgpack. A body that is not what its type says is refused with WireError.
"""

import sys
from array import array
from typing import TypeVar

import msgpack
from pydantic import BaseModel, ValidationError

from core.errors import UserError

CONTENT_TYPE = "application/msgpack"
INT32, FLOAT32, FLOAT64 = 1, 2, 3
TYPECODES = {INT32: "i", FLOAT32: "f", FLOAT64: "d"}
MIN_PACKED = 8  # shorter tuples are smaller as plain msgpack

M = TypeVar("M", bound=BaseModel)


class WireError(UserError):
    """Bytes that are not a message of the expected type."""


def encode(message: BaseModel) -> bytes:
    """One model as msgpack."""
    return pack(message.model_dump(mode="python"))


def decode(kind: type[M], body: bytes) -> M:
    """A model of that type, validated. Raises WireError naming the first field that is wrong."""
    try:
        return kind.model_validate(unpack(body))
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"]) or kind.__name__
        raise WireError(f"{kind.__name__}: {where}: {first['msg']}") from error


def pack(value: object) -> bytes:
    """Plain data as msgpack, tuples of numbers as packed arrays."""
    return msgpack.packb(value, default=_pack_tuple, strict_types=True, use_bin_type=True)


def unpack(body: bytes) -> object:
    """The inverse of `pack`; packed arrays come back as tuples. Raises WireError."""
    try:
        return msgpack.unpackb(body, ext_hook=_unpack_array, raw=False, strict_map_key=True)
    except (ValueError, msgpack.UnpackException) as error:
        raise WireError(f"not msgpack: {type(error).__name__}: {error}") from error


def _pack_tuple(value: object) -> object:
    if isinstance(value, str):  # enums: strict_types sends every subclass here
        return str(value)
    if not isinstance(value, tuple):
        raise TypeError(f"cannot put {type(value).__name__} on the wire")
    if len(value) < MIN_PACKED:
        return list(value)
    kinds = set(map(type, value))
    if kinds == {int} and min(value) >= -(2**31) and max(value) < 2**31:
        return msgpack.ExtType(INT32, _little_endian(array("i", value)))
    if kinds == {float}:
        narrow = array("f", value)
        if tuple(narrow) == value:
            return msgpack.ExtType(FLOAT32, _little_endian(narrow))
        return msgpack.ExtType(FLOAT64, _little_endian(array("d", value)))
    return list(value)


def _unpack_array(code: int, data: bytes) -> tuple[int, ...] | tuple[float, ...]:
    if code not in TYPECODES:
        raise ValueError(f"unknown extension type {code}")
    numbers = array(TYPECODES[code])
    numbers.frombytes(data)
    if sys.byteorder == "big":
        numbers.byteswap()
    return tuple(numbers)


def _little_endian(numbers: "array[int] | array[float]") -> bytes:
    if sys.byteorder == "big":
        numbers.byteswap()
    return numbers.tobytes()
