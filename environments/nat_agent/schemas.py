"""The JSON schemas that a plan may use, and values against them.

A small part of JSON schema on purpose: schemas come from models and from users' files, so nothing in one may load
an address, run a pattern or refer to itself. Everything here answers with a problem in words, or None.
"""

from collections.abc import Iterable, Mapping

from pydantic import JsonValue

from core.errors import did_you_mean
from core.types import JsonObject

PYTHON_TYPES: dict[str, type | tuple[type, ...]] = {
    "string": str, "integer": int, "number": (int, float), "boolean": bool, "array": list, "object": dict, "null": type(None),
}  # fmt: skip
ANNOTATIONS = {"string": "str", "integer": "int", "number": "float", "boolean": "bool", "object": "dict", "null": "None"}
KEYWORDS = (
    "type", "properties", "required", "items", "enum", "additionalProperties", "description", "title", "default", "examples",
    "minimum", "maximum", "minItems", "maxItems", "minLength", "maxLength", "format",
)  # fmt: skip
MAX_DEPTH = 8


def schema_problem(schema: JsonValue, depth: int = 0) -> str | None:
    """Why this is no schema that a plan may use."""
    if not isinstance(schema, dict):
        return f"expected a JSON schema, found {type(schema).__name__}"
    if depth > MAX_DEPTH:
        return f"nested more than {MAX_DEPTH} deep"
    for keyword in schema:
        if keyword not in KEYWORDS:
            return f"unknown keyword {keyword[:40]!r}{did_you_mean(keyword[:40], KEYWORDS) or ';'} known: {', '.join(KEYWORDS)}"
    kind = schema.get("type")
    if not isinstance(kind, str) or kind not in PYTHON_TYPES:
        return f"type: expected one of {', '.join(PYTHON_TYPES)}, found {str(kind)[:40]!r}"
    return _properties_problem(schema, depth) if kind == "object" else _items_problem(schema, depth)


def parameters_problem(schema: JsonObject) -> str | None:
    """Why this is no schema of a tool's parameters: an object whose properties are all typed, named and required."""
    problem = schema_problem(schema)
    if problem or schema["type"] != "object":
        return problem or f"type: expected 'object', found {schema['type']!r}"
    properties = schema.get("properties")
    if not isinstance(properties, dict) or not properties:
        return "properties: expected at least one parameter"
    bad = next((name for name in properties if not name.isidentifier() or name.startswith("_")), None)
    if bad is not None:
        return f"properties: {bad[:40]!r} is no name of a parameter"
    left_out = sorted(set(properties) - set(_names(schema.get("required"))))
    return f"required: every parameter is required, {left_out[0]!r} is not listed" if left_out else None


def mismatch(value: JsonValue, schema: JsonObject) -> str | None:
    """Why a value does not fit a schema, with the place in the value. A bool is no number, 1.0 no integer."""
    kind = str(schema.get("type"))
    wanted = PYTHON_TYPES.get(kind, object)
    if not isinstance(value, wanted) or (isinstance(value, bool) and kind in ("integer", "number")):
        return f"expected {kind}, found {str(value)[:40]!r}"
    choices = schema.get("enum")
    if isinstance(choices, list) and value not in choices:
        return f"expected one of {str(choices)[:80]}, found {str(value)[:40]!r}"
    if isinstance(value, list):
        items = schema.get("items")
        return _first((str(place), item, items) for place, item in enumerate(value))
    if isinstance(value, dict):
        return _object_mismatch(value, schema)
    return None


def _object_mismatch(value: Mapping[str, JsonValue], schema: JsonObject) -> str | None:
    absent = [name for name in _names(schema.get("required")) if name not in value]
    if absent:
        return f"{absent[0]}: is missing"
    properties, more = schema.get("properties"), schema.get("additionalProperties")
    known = properties if isinstance(properties, dict) else {}
    if known and more in (None, False) and (strange := [name for name in value if name not in known]):
        return f"{strange[0][:40]}: is unknown{did_you_mean(strange[0][:40], list(known))}"
    return _first((name, item, known.get(name, more)) for name, item in value.items())


def python_type(schema: JsonValue) -> str:
    """A schema as a Python annotation: `list[float]`, `dict[str, int]`."""
    if not isinstance(schema, dict):
        return "object"
    kind = str(schema.get("type"))
    if kind == "array":
        return f"list[{python_type(schema.get('items', {'type': 'number'}))}]"
    if kind == "object" and isinstance(schema.get("additionalProperties"), dict):
        return f"dict[str, {python_type(schema['additionalProperties'])}]"
    return ANNOTATIONS.get(kind, "object")


def _first(parts: Iterable[tuple[str, JsonValue, JsonValue]]) -> str | None:
    for name, item, schema in parts:
        if isinstance(schema, dict) and (problem := mismatch(item, schema)):
            return f"{name}: {problem}"
    return None


def _properties_problem(schema: JsonObject, depth: int) -> str | None:
    properties = schema.get("properties", {})
    if not isinstance(properties, dict):
        return "properties: expected an object"
    for name, inner in properties.items():
        if problem := schema_problem(inner, depth + 1):
            return f"properties.{name[:40]}: {problem}"
    more = schema.get("additionalProperties", True)
    if not isinstance(more, bool) and (problem := schema_problem(more, depth + 1)):
        return f"additionalProperties: {problem}"
    unknown = [name for name in _names(schema.get("required")) if name not in properties]
    return f"required: {unknown[0]!r} is no property" if unknown else None


def _items_problem(schema: JsonObject, depth: int) -> str | None:
    if schema["type"] != "array" or "items" not in schema:
        return "items: an array needs the schema of its items" if schema["type"] == "array" else None
    problem = schema_problem(schema["items"], depth + 1)
    return f"items: {problem}" if problem else None


def _names(value: JsonValue) -> list[str]:
    return [name for name in value if isinstance(name, str)] if isinstance(value, list) else []
