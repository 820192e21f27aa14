"""Comparing what came back with what should have."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.types import JsonObject
from environments.nat_agent.values import said, same

NUMBER: JsonObject = {"type": "number"}
INTEGER: JsonObject = {"type": "integer"}
STRING: JsonObject = {"type": "string"}
NUMBERS: JsonObject = {"type": "array", "items": NUMBER}
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
)


@given(JSON)
def test_every_value_is_itself(value):
    assert same(value, value, {})


@pytest.mark.parametrize(
    ("expected", "found", "schema"),
    [
        (5.0, 5, NUMBER),
        (0.1 + 0.2, 0.3, NUMBER),
        ([1.0, 2.0], [1, 2.0], NUMBERS),
        ({"a": 1.0}, {"a": 1}, {"properties": {"a": NUMBER}}),
    ],
)
def test_a_value_that_means_the_same_is_accepted(expected, found, schema: JsonObject):
    assert same(expected, found, schema)


@pytest.mark.parametrize(
    ("expected", "found", "schema"),
    [
        (1, True, INTEGER),
        (1.0, True, NUMBER),
        (True, 1, {"type": "boolean"}),
        (5, 5.0, INTEGER),
        (5.0, 5, {}),
        (5.0, "5.0", NUMBER),
        ("5", 5, STRING),
        (None, 0, {}),
        (0.3, 0.3001, NUMBER),
        (1.0, float("nan"), NUMBER),
        (1.0, 10**400, NUMBER),
        (10**12, 10**12 + 1, INTEGER),
        ([1.0], [1.0, 2.0], NUMBERS),
        ([1.0], 1.0, NUMBERS),
        ({"a": 1}, {"a": 1, "b": 2}, {}),
        ({}, [], {}),
    ],
)
def test_a_value_of_another_type_or_size_is_refused(expected, found, schema: JsonObject):
    assert not same(expected, found, schema)


@pytest.mark.parametrize(
    ("expected", "text", "schema"),
    [
        (16.09, "16.09", NUMBER),
        ("hi there", "hi there", STRING),
        ("hi", '"hi"', STRING),
        ("12", "12", STRING),
        ([1.0, 2.0], "[1.0, 2.0]", NUMBERS),
        ({"a": None}, "[{'a': None}]", {}),
        (True, "True", {}),
    ],
)
def test_an_observation_is_read_as_json_and_as_python(expected, text: str, schema: JsonObject):
    assert said(expected, text, schema)


@pytest.mark.parametrize("text", ["", "16.08", "Error: 16.09", "[" * 5000, "__import__('os')"])
def test_another_observation_is_not_the_value(text: str):
    assert not said(16.09, text, NUMBER)
