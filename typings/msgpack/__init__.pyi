"""What core.wire uses of msgpack, which ships no types."""

from collections.abc import Callable
from typing import NamedTuple

class ExtType(NamedTuple):
    code: int
    data: bytes

class UnpackException(Exception): ...

def packb(
    o: object, *, default: Callable[[object], object] = ..., strict_types: bool = ..., use_bin_type: bool = ...
) -> bytes: ...
def unpackb(
    packed: bytes, *, ext_hook: Callable[[int, bytes], object] = ..., raw: bool = ..., strict_map_key: bool = ...
) -> object: ...
