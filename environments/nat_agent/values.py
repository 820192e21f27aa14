"""Compares what a tool returned with what it should have: by value and by JSON type, never by a guest's `==`."""

import ast
import json
from math import isclose

from pydantic import JsonValue

from core.types import JsonObject

TOLERANCE = 1e-9  # two correct orders of the same float operations differ by a few ulp
MAX_TEXT = 10_000


def same(expected: JsonValue, found: JsonValue, schema: JsonObject) -> bool:
    """Whether `found` is the expected value; `schema` is the JSON schema of the output.

    A bool is no number. A whole number may stand for a float only where the schema says `number`.
    """
    if isinstance(expected, bool) or isinstance(found, bool) or expected is None or found is None:
        return expected is found
    if isinstance(expected, int | float) and isinstance(found, int | float):
        return _same_number(expected, found, mixed=schema.get("type") == "number")
    if isinstance(expected, list):
        items = _part(schema, "items")
        return (
            isinstance(found, list)
            and len(found) == len(expected)
            and all(map(lambda a, b: same(a, b, items), expected, found))
        )
    if isinstance(expected, dict):
        parts = _part(schema, "properties")
        return (
            isinstance(found, dict)
            and found.keys() == expected.keys()
            and all(same(value, found[key], _part(parts, key)) for key, value in expected.items())
        )
    return type(found) is type(expected) and found == expected


def _same_number(expected: float, found: float, *, mixed: bool) -> bool:
    if isinstance(expected, int) and isinstance(found, int):
        return expected == found
    try:
        near = isclose(found, expected, rel_tol=TOLERANCE, abs_tol=TOLERANCE)
    except OverflowError:  # an integer that no float can hold
        return False
    return near and (mixed or type(found) is type(expected))


def said(expected: JsonValue, text: str, schema: JsonObject) -> bool:
    """Whether an observation, as an agent shows it to its LLM, is the expected value.

    Agents show values as JSON or as Python writes them, some wrap them in a list.
    """
    if isinstance(expected, str) and text.strip() in (expected.strip(), json.dumps(expected)):
        return True
    return any(same(expected, value, schema) or same([expected], value, {"items": schema}) for value in _readings(text))


def _readings(text: str) -> list[JsonValue]:
    readings: list[JsonValue] = []
    if len(text) <= MAX_TEXT:
        for read in (json.loads, ast.literal_eval):
            try:
                readings.append(read(text))
            except (ValueError, SyntaxError, RecursionError, MemoryError):
                continue
    return readings


def _part(schema: JsonObject, name: str) -> JsonObject:
    part = schema.get(name)
    return part if isinstance(part, dict) else {}
