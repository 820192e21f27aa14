"""Text of an argument -> a JSON value, by the schema of its parameter.

Formats that write arguments as text (XML, key and value tags) say nothing of types: only the schema tells `"42"` from `42`.
Where a parameter may be several things the narrowest that fits is taken: null, integer, number, boolean, object, array, text.
A text that fits none stays text, for the check of the schema to report.
"""

import json
import math
import re
from collections.abc import Mapping, Sequence
from functools import lru_cache

import orjson
from pydantic import JsonValue

from core.types import JsonObject, ToolSpec
from tool_call_parsers.python_literals import NotPython, whole_literal
from tool_call_parsers.schemas import object_problem

COMBINING = frozenset({"enum", "const", "anyOf", "oneOf", "allOf", "$ref"})
"""Keywords beside `type` that say which types a schema admits."""
INTEGER = re.compile(r"\s*[+-]?\d{1,4000}\s*", re.ASCII)
TRUE, FALSE, NULL = ("true", "1"), ("false", "0"), ("null",)
ALIASES = {
    **dict.fromkeys(("str", "text", "varchar", "char", "enum"), "string"),
    **dict.fromkeys(("int", "int32", "int64", "uint", "uint32", "uint64", "long", "short", "unsigned"), "integer"),
    **dict.fromkeys(("float", "float32", "float64", "double", "num"), "number"),
    **dict.fromkeys(("bool", "binary"), "boolean"),
    **dict.fromkeys(("dict", "map"), "object"),
    **dict.fromkeys(("arr", "list", "sequence", "tuple"), "array"),
}
"""Spellings of types that tool authors use although JSON schema does not."""
MAX_SCHEMA_DEPTH = 12
REMEMBERED_TYPES = 256
UNREAD = object()
"""Stands for "this type does not fit", where None is a value."""


def properties_of(tools: Sequence[ToolSpec], name: str) -> Mapping[str, JsonValue] | None:
    """The parameters of the tool of that name and their schemas; None where no such tool is offered."""
    for tool in tools:
        if tool.name == name:
            properties = tool.parameters.get("properties")
            return properties if isinstance(properties, dict) else {}
    return None


def definitions_of(tools: Sequence[ToolSpec], name: str) -> JsonObject:
    """The schema of a tool's parameters as a whole, for `$ref`; empty where no such tool is offered."""
    return next((tool.parameters for tool in tools if tool.name == name), {})


def types_of(schema: JsonValue, root: JsonObject | None = None, depth: int = 0) -> frozenset[str]:
    """The JSON types that a schema admits, under their own names; empty where it does not say."""
    if not isinstance(schema, dict) or depth > MAX_SCHEMA_DEPTH:
        return frozenset()
    stated = schema.get("type")
    if isinstance(stated, str) and COMBINING.isdisjoint(schema):
        return _one_type(stated)
    found = {_type_name(one) for one in _listed(schema.get("type")) if isinstance(one, str)}
    if isinstance(schema.get("enum"), list):
        found.update(_type_of(value) for value in _listed(schema["enum"]))
    if "const" in schema:
        found.add(_type_of(schema["const"]))
    for choice in (one for key in ("anyOf", "oneOf", "allOf") for one in _listed(schema.get(key))):
        found.update(types_of(choice, root, depth + 1))
    reference = schema.get("$ref")
    if isinstance(reference, str) and root is not None:
        found.update(types_of(_referred(reference, root), root, depth + 1))
    return frozenset(found)


def typed(text: str, schema: JsonValue, root: JsonObject | None = None) -> JsonValue:
    """The value of an argument that was written as text; the text itself where no type of the schema fits."""
    types = types_of(schema, root)
    if not types or types == {"string"}:
        return text
    for kind, read in READERS.items():
        if kind in types and (value := read(text)) is not UNREAD:
            return value  # type: ignore[return-value]
    if "string" in types:
        return text
    if "null" in types and text.strip() == "None":
        return None
    value = plain_json(text)
    return text if value is UNREAD else value  # type: ignore[return-value]


def json_or_text(text: str) -> JsonValue:
    """The value of a text that is JSON, otherwise the text."""
    value = plain_json(text)
    return text if value is UNREAD else value  # type: ignore[return-value]


def json_text(arguments: JsonObject) -> str:
    """The JSON text of arguments, as json.dumps writes it without escapes of other scripts, but faster for long texts."""
    return "{" + ", ".join([f"{_written(key)}: {_written(value)}" for key, value in arguments.items()]) + "}"


def _written(value: JsonValue) -> str:
    if isinstance(value, str):
        try:
            return orjson.dumps(value).decode()
        except orjson.JSONEncodeError:  # half of a surrogate pair
            pass
    return json.dumps(value, ensure_ascii=False)


def retyped(value: JsonValue, schema: JsonValue, root: JsonObject | None = None) -> JsonValue:
    """A value whose scalars were read as text, after its schema; objects and arrays are followed."""
    if isinstance(value, str):
        return typed(value, schema, root)
    inside = schema if isinstance(schema, dict) else {}
    if isinstance(value, dict):
        properties = inside.get("properties")
        known = properties if isinstance(properties, dict) else {}
        return {key: retyped(one, known.get(key, inside.get("additionalProperties")), root) for key, one in value.items()}
    if isinstance(value, list):
        return [retyped(one, inside.get("items"), root) for one in value]
    return value


def plain_json(text: str) -> object:
    """A JSON value that can be passed on (finite, not too deep, real text), or UNREAD."""
    try:
        value = json.loads(text, parse_constant=_refuse)
    except (ValueError, RecursionError):
        return UNREAD
    if isinstance(value, float) and not math.isfinite(value):
        return UNREAD
    if isinstance(value, dict | list) and (object_problem({"": value}, text) or not _finite(value, text)):
        return UNREAD
    return value


def _null(text: str) -> object:
    return None if text.strip().lower() in NULL else UNREAD


def _integer(text: str) -> object:
    return int(text) if INTEGER.fullmatch(text) else UNREAD


def _number(text: str) -> object:
    if INTEGER.fullmatch(text):
        return int(text)
    try:
        value = float(text) if "_" not in text else math.nan
    except ValueError:
        return UNREAD
    if not math.isfinite(value):
        return UNREAD
    return int(value) if value.is_integer() else value


def _boolean(text: str) -> object:
    word = text.strip().lower()
    return True if word in TRUE else False if word in FALSE else UNREAD


def _container(text: str, kind: type) -> object:
    """JSON; JSON inside of a JSON string; JSON whose quotes were escaped once too often; a Python literal."""
    value = plain_json(text)
    if isinstance(value, str):
        value = plain_json(value)
    if value is UNREAD and '\\"' in text:
        inner = plain_json(f'"{text.strip()}"')
        value = plain_json(inner) if isinstance(inner, str) else UNREAD
    if value is UNREAD and text.lstrip()[:1] in ("[", "{", "("):
        try:
            value = whole_literal(text)
        except NotPython:
            return UNREAD
    return value if isinstance(value, kind) else UNREAD


READERS = {
    "null": _null,
    "integer": _integer,
    "number": _number,
    "boolean": _boolean,
    "object": lambda text: _container(text, dict),
    "array": lambda text: _container(text, list),
}
"""In the order in which they are tried."""


def _listed(value: JsonValue) -> list[JsonValue]:
    return value if isinstance(value, list) else [] if value is None else [value]


def _type_name(written: str) -> str:
    name = written.strip().lower()
    return ALIASES.get(name, name)


@lru_cache(maxsize=REMEMBERED_TYPES)
def _one_type(written: str) -> frozenset[str]:
    return frozenset({_type_name(written)})


def _type_of(value: JsonValue) -> str:
    if value is None:
        return "null"
    kinds = {bool: "boolean", int: "integer", float: "number", str: "string", list: "array", dict: "object"}
    return kinds[type(value)]


def _referred(reference: str, root: JsonObject) -> JsonValue:
    """What a reference of the form `#/$defs/Name` stands for; None where nothing stands there."""
    found: JsonValue = root
    for step in reference.removeprefix("#/").split("/"):
        found = found.get(step) if isinstance(found, dict) else None
    return found


def _finite(value: JsonValue, text: str) -> bool:
    if "e" not in text and "E" not in text:
        return True
    try:
        json.dumps(value, allow_nan=False)
    except ValueError:
        return False
    return True


def _refuse(name: str) -> float:
    raise ValueError(f"{name} is not JSON")
