"""Python calls and literals as models write them."""

import pytest
from pydantic import JsonValue

from tool_call_parsers.python_literals import NotPython, read_calls, whole_literal


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("'a' 'b'", "ab"),
        (r"'it\'s \u00e9\n'", "it's é\n"),
        (r"r'a\b'", r"a\b"),
        ("f'plain'", "plain"),
        ("'''two\nlines'''", "two\nlines"),
        ("'raw\nbreak'", "raw\nbreak"),
        ("-1.5e3", -1500.0),
        ("007", 7),
        ("0x1F", 31),
        ("(1, 2)", [1, 2]),
        ("(1)", 1),
        ("{'a', 'b'}", ["a", "b"]),
        ("{'a': [None, True, false, null]}", {"a": [None, True, False, None]}),
        ("{}", {}),
        ("[1, 2,]  # two", [1, 2]),
    ],
)
def test_a_literal_is_a_json_value(text: str, value: JsonValue):
    assert whole_literal(text) == value


@pytest.mark.parametrize(
    "text",
    [
        "f'{x}'",
        "x",
        "1 + 1",
        "[1, 2",
        "'open",
        "{'a': 1, 'b'}",
        "[" * 100,
        r"'\ud800'",
        "1e999",
        "9" * 5000,
        "__import__('os')",
        "",
    ],
)
def test_what_is_no_literal_is_refused(text: str):
    with pytest.raises(NotPython):
        whole_literal(text)


def test_an_argument_may_be_named_like_a_keyword():
    calls, _ = read_calls("f(from=1, class='a')", 0, "")
    assert calls[0].arguments == {"from": 1, "class": "a"}


def test_arguments_without_a_name_are_counted_and_not_kept():
    calls, _ = read_calls("f('a', 2)", 0, "")
    assert (calls[0].arguments, calls[0].positional) == ({}, 2)


def test_a_string_that_holds_its_own_quote_is_read_where_one_reading_fits():
    calls, _ = read_calls("[sh(cmd='sed -n '1,9p' f.py')]", 1, "]")
    assert calls[0].arguments == {"cmd": "sed -n '1,9p' f.py"}


def test_a_string_that_holds_its_own_quote_is_refused_where_several_readings_fit():
    with pytest.raises(NotPython):
        read_calls("[f(a='x 'y', b='z')]", 1, "]")
