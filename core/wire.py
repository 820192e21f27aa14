"""The one codec of what crosses a process border: msgpack, with token ids and floats as packed arrays.

A tuple of integers travels as an int32 array, a tuple of floats as float32 where that loses nothing (logprobs
come out of a float32 softmax) and as float64 otherwise, so decode(encode(x)) == x to the last bit. Everything
else is plain msgpack. A body that is not what its type says is refused with WireError, and so is a value that
msgpack cannot carry (an integer over 64 bits, a lone surrogate).
"""

import sys
from array import array
from typing import TypeVar, cast

import msgpack
from pydantic import BaseModel, ValidationError

from core.errors import UserError

CONTENT_TYPE = "application/msgpack"
INT32, FLOAT32, FLOAT64 = 1, 2, 3
MIN_PACKED = 8  # shorter tuples are smaller as plain msgpack
MAX_WHERE = 200  # characters of a field's path in a message: a sender chooses how deep it nests

M = TypeVar("M", bound=BaseModel)
Numbers = TypeVar("Numbers", "array[int]", "array[float]")


class WireError(UserError):
    """Bytes that are not a message of the expected type, or a value that has no bytes."""


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
        raise WireError(f"{kind.__name__}: {where[:MAX_WHERE]}: {first['msg']}") from error


def pack(value: object) -> bytes:
    """Plain data as msgpack, tuples of numbers as packed arrays. Raises WireError for what msgpack cannot carry."""
    try:
        return msgpack.packb(value, default=_pack_tuple, strict_types=True, use_bin_type=True)
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise WireError(f"cannot be put on the wire: {error}") from error


def unpack(body: bytes) -> object:
    """The inverse of `pack`; packed arrays come back as tuples. Raises WireError."""
    try:
        return msgpack.unpackb(body, ext_hook=_unpack_array, raw=False, strict_map_key=True)
    except (ValueError, MemoryError, msgpack.UnpackException) as error:
        raise WireError(f"not msgpack: {type(error).__name__}: {error}") from error


def _pack_tuple(value: object) -> object:
    if isinstance(value, str):  # enums: strict_types sends every subclass here
        return str(value)
    if not isinstance(value, tuple):
        raise TypeError(f"no form for {type(value).__name__} {str(value)[:40]}")
    items = cast("tuple[object, ...]", value)
    packed = _packed(items) if len(items) >= MIN_PACKED else None
    return list(items) if packed is None else packed


def _packed(items: tuple[object, ...]) -> msgpack.ExtType | None:
    kinds = set(map(type, items))
    if kinds == {int}:
        whole = cast("tuple[int, ...]", items)
        fits = min(whole) >= -(2**31) and max(whole) < 2**31
        return msgpack.ExtType(INT32, _little_endian(array("i", whole))) if fits else None
    if kinds == {float}:
        real = cast("tuple[float, ...]", items)
        narrow = array("f", real)
        if tuple(narrow) == real:
            return msgpack.ExtType(FLOAT32, _little_endian(narrow))
        return msgpack.ExtType(FLOAT64, _little_endian(array("d", real)))
    return None


def _unpack_array(code: int, data: bytes) -> tuple[int, ...] | tuple[float, ...]:
    if code == INT32:
        return tuple(_filled(array("i"), data))
    if code == FLOAT32:
        return tuple(_filled(array("f"), data))
    if code == FLOAT64:
        return tuple(_filled(array("d"), data))
    raise ValueError(f"unknown extension type {code}")


def _filled(numbers: Numbers, data: bytes) -> Numbers:
    numbers.frombytes(data)
    if sys.byteorder == "big":
        numbers.byteswap()
    return numbers


def _little_endian(numbers: "array[int] | array[float]") -> bytes:
    if sys.byteorder == "big":
        numbers.byteswap()
    return numbers.tobytes()
