"""Plain values as JSON and back: None, numbers, strings, bytes, lists, tuples, sets and dictionaries of such, and no others.

The type of a value is looked at, not what it says of itself: an object that claims to equal everything is not plain.
"""

from __future__ import annotations

TAGS = {list: "list", tuple: "tuple", set: "set", frozenset: "frozenset"}
KINDS = {tag: kind for kind, tag in TAGS.items()}


class NotPlain(Exception):
    """A value that cannot be handed over."""


def encode(value):
    """A value as JSON can hold it. Raises NotPlain."""
    kind = type(value)
    if value is None or kind is bool or kind is str:
        return value
    if kind is int or kind is float or kind is complex:
        return [kind.__name__, repr(value)]
    if kind is bytes:
        return ["bytes", value.hex()]
    if kind in TAGS:
        return [TAGS[kind], [encode(one) for one in list(value)]]
    if kind is dict:
        return ["dict", [[encode(key), encode(one)] for key, one in list(value.items())]]
    raise NotPlain(kind.__name__)


def decode(found):
    """The value that was encoded. Raises ValueError or TypeError for what `encode` never makes."""
    if found is None or isinstance(found, (bool, str)):
        return found
    if not isinstance(found, list) or len(found) != 2 or not isinstance(found[0], str):
        raise ValueError("not an encoded value")
    tag, inner = found
    if tag in ("int", "float", "complex") and isinstance(inner, str):
        return {"int": int, "float": float, "complex": complex}[tag](inner)
    if tag == "bytes" and isinstance(inner, str):
        return bytes.fromhex(inner)
    if tag in KINDS and isinstance(inner, list):
        return KINDS[tag](decode(one) for one in inner)
    if tag == "dict" and isinstance(inner, list):
        return {decode(key): decode(one) for key, one in inner}
    raise ValueError("not an encoded value")
