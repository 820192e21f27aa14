"""A quick look whether arguments fit a schema, for the plain schemas that most tools have.

It says yes or "look closer", never no: what it does not know (any keyword but the ones below) and what seems not to fit is for
jsonschema to judge, which takes some fifty times as long and also says what is wrong.
"""

from collections.abc import Mapping
from typing import NamedTuple

from pydantic import JsonValue

from core.types import JsonObject

NOTES = frozenset({"description", "title", "default", "examples", "$schema", "deprecated"})
"""Keywords that say nothing of what fits."""
TYPES: dict[str, tuple[type, ...]] = {
    "string": (str,),
    "integer": (int,),
    "number": (int, float),
    "boolean": (bool,),
    "null": (type(None),),
    "array": (list,),
    "object": (dict,),
}
REMEMBERED = 512


class Plain(NamedTuple):
    """A schema of nothing but types, properties, items and text choices."""

    types: tuple[type, ...] | None = None
    properties: "Mapping[str, Plain] | None" = None
    required: frozenset[str] = frozenset()
    closed: bool = False
    items: "Plain | None" = None
    choices: frozenset[str] | None = None


_compiled: dict[int, tuple[JsonObject, Plain | None]] = {}
"""By identity of the schema, which is kept so that the identity stays its own."""


def fits(value: JsonValue, schema: JsonObject) -> bool:
    """Whether a value fits a schema beyond doubt."""
    known = _compiled.get(id(schema))
    if known is None:
        if len(_compiled) >= REMEMBERED:
            _compiled.clear()
        known = _compiled[id(schema)] = (schema, _compile(schema))
    return known[1] is not None and _fits(value, known[1])


def _compile(schema: JsonValue) -> Plain | None:
    """The schema in plain terms; None where it says anything else."""
    if not isinstance(schema, dict):
        return None
    properties: dict[str, Plain] | None = None
    items: Plain | None = None
    known: dict[str, JsonValue] = {key: value for key, value in schema.items() if key not in NOTES}
    types = _types(known.pop("type", None))
    if types == ():
        return None
    if isinstance(written := known.pop("properties", None), dict):
        compiled = {key: _compile(one) for key, one in written.items()}
        if any(one is None for one in compiled.values()):
            return None
        properties = {key: one for key, one in compiled.items() if one is not None}
    elif written is not None:
        return None
    required, choices = _texts(known.pop("required", [])), _texts(known.pop("enum", None))
    if (inner := known.pop("items", None)) is not None and (items := _compile(inner)) is None:
        return None
    closed = known.pop("additionalProperties", True)
    if known or not isinstance(closed, bool) or required is None or ("enum" in schema and choices is None):
        return None
    return Plain(types, properties, required, not closed, items, choices)


def _types(written: JsonValue) -> tuple[type, ...] | None:
    """The Python types of a `type`; None where there is none, nothing where it is not understood."""
    if written is None:
        return None
    names = written if isinstance(written, list) else [written]
    if not all(isinstance(name, str) and name in TYPES for name in names):
        return ()
    return tuple({one for name in names for one in TYPES[str(name)]})


def _texts(value: JsonValue) -> frozenset[str] | None:
    """A list of texts; None where it is anything else."""
    if not isinstance(value, list):
        return None
    texts = frozenset(one for one in value if isinstance(one, str))
    return texts if all(isinstance(one, str) for one in value) else None


def _fits(value: JsonValue, plain: Plain) -> bool:
    if plain.types is not None and type(value) not in plain.types:
        return False
    if plain.choices is not None and not (isinstance(value, str) and value in plain.choices):
        return False
    if isinstance(value, dict):
        return _object_fits(value, plain)
    if plain.items is not None and isinstance(value, list):
        return all(_fits(one, plain.items) for one in value)
    return True


def _object_fits(value: JsonObject, plain: Plain) -> bool:
    if not plain.required <= value.keys():
        return False
    properties = plain.properties or {}
    for key, one in value.items():
        known = properties.get(key)
        if known is None:
            if plain.closed:
                return False
        elif not _fits(one, known):
            return False
    return True
