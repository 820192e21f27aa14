"""Formats of elements, sections and channels: their corpora, whole and in pieces, and texts that mean harm."""

import json
from pathlib import Path

import pytest
from pydantic import JsonValue

from core.types import JsonObject, ToolSpec
from tests.tool_call_parsers.corpora import steps
from tool_call_parsers.base import PARSERS, CallStatus, ParsedCompletion
from tool_call_parsers.streaming import joined
from tool_call_parsers.values import typed

CORPUS = Path(__file__).parents[2] / "tool_call_parsers" / "corpus"
MODULES = (
    "xml_formats",
    "dsml_formats",
    "key_value_formats",
    "nested_elements",
    "sections",
    "kimi_k3",
    "gemma",
    "pythonic",
    "channels",
)
FORMATS = sorted(name for name, target in PARSERS.table.items() if target.split(":")[0].rpartition(".")[2] in MODULES)
SEARCH = ToolSpec(
    name="search",
    description="",
    parameters={"type": "object", "properties": {"query": {"type": "string"}, "limit": {"type": "integer"}}},
)


def corpus(name: str) -> tuple[list[ToolSpec], list[JsonObject]]:
    header, *cases = [json.loads(line) for line in (CORPUS / f"{name}.jsonl").read_text("utf-8").splitlines()]
    return [ToolSpec.model_validate(tool) for tool in header["tools"]], cases


CASES = [(name, case) for name in FORMATS for case in corpus(name)[1]]
IDS = [f"{name}: {case['case']}" for name, case in CASES]


def begins_inside(case: JsonObject) -> bool | None:
    """Whether the prompt of a case opened the reasoning; None where it does not say."""
    inside = case.get("starts_in_reasoning")
    return inside if isinstance(inside, bool) else None


def seen(parsed: ParsedCompletion) -> tuple[object, ...]:
    return (
        parsed.content,
        parsed.reasoning,
        [[call.name, json.loads(call.arguments)] for call in parsed.calls],
        [bad.status.value for bad in parsed.malformed],
    )


@pytest.mark.parametrize(("name", "case"), CASES, ids=IDS)
def test_a_completion_is_read_as_its_corpus_says(name: str, case: JsonObject):
    tools, _ = corpus(name)
    parsed = PARSERS.load(name)().parse(str(case["text"]), tools, starts_in_reasoning=begins_inside(case))
    assert seen(parsed) == (
        case.get("content", ""),
        case.get("reasoning"),
        case["calls"],
        case.get("malformed", []),
    )


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("size", [1, 7])
def test_a_completion_in_pieces_is_the_same(name: str, size: int):
    tools, cases = corpus(name)
    parser = PARSERS.load(name)()
    for case in cases:
        text, starts = str(case["text"]), begins_inside(case)
        stream = parser.stream(tools, starts_in_reasoning=starts)
        events = [event for at in range(0, len(text), size) for event in stream.feed(text[at : at + size])]
        assert seen(joined([*events, *stream.close()])) == seen(parser.parse(text, tools, starts_in_reasoning=starts)), case


@pytest.mark.parametrize("name", FORMATS)
def test_every_corpus_has_a_dozen_cases(name: str):
    assert len(corpus(name)[1]) >= 12


@pytest.mark.parametrize("name", FORMATS)
def test_a_completion_cut_anywhere_is_data(name: str):
    tools, cases = corpus(name)
    parser = PARSERS.load(name)()
    text = max((str(case["text"]) for case in cases), key=len)
    for end in range(0, len(text), 3):
        for repair in (False, True):
            for call in parser.parse(text[:end], tools, repair=repair).calls:
                json.loads(call.arguments)


@pytest.mark.parametrize("name", FORMATS)
def test_work_grows_with_the_length_of_hostile_texts(name: str):
    """Quadratic work would show as a factor of 16; `benchmarks/tool_call_parsers.py` has the times."""
    parser = PARSERS.load(name)()
    opener = (getattr(parser, "openers", ()) or ("<|start|>",))[0]
    whole = str(corpus(name)[1][0]["text"])
    for unit in (opener, whole[: len(whole) // 2], " " * 40, "{[(<", f"{opener}{'{' * 9}", whole[:-1]):
        short, long = (steps(parser, unit * (size // len(unit)), [SEARCH]) for size in (10_000, 40_000))
        assert long < 5 * short + 1000, unit


@pytest.mark.parametrize(
    ("text", "schema", "value"),
    [
        ("42", {"type": "string"}, "42"),
        ("42", {"type": "integer"}, 42),
        ("2026-01-15", {"type": "integer"}, "2026-01-15"),
        ("3.0", {"type": "number"}, 3),
        ("1e999", {"type": "number"}, "1e999"),
        ("9223372036854775807", {"type": "number"}, 9223372036854775807),
        ("True", {"type": "boolean"}, True),
        ("null", {"type": ["string", "null"]}, None),
        ("null", {"type": "string"}, "null"),
        ("None", {"type": ["integer", "null"]}, None),
        ('{"a": 1}', {"anyOf": [{"type": "object"}, {"type": "string"}]}, {"a": 1}),
        ('[{\\"a\\": 1}]', {"type": "array"}, [{"a": 1}]),
        ("{'a': True}", {"type": "object"}, {"a": True}),
        ("5", {"$ref": "#/$defs/Count"}, 5),
        ("5", {"enum": [5, 6]}, 5),
        ("5", {}, "5"),
        ("[" * 5000, {"type": "array"}, "[" * 5000),
    ],
)
def test_the_schema_says_what_a_text_is(text: str, schema: JsonObject, value: JsonValue):
    root: JsonObject = {"$defs": {"Count": {"type": "integer"}}}
    assert typed(text, schema, root) == value


def test_repair_takes_a_call_that_is_cut_off_as_far_as_it_goes():
    parser = PARSERS.load("glm47")()
    cut = "<tool_call>search<arg_key>query</arg_key><arg_value>nat"
    assert parser.parse(cut, [SEARCH]).malformed[0].status is CallStatus.UNCLOSED
    assert json.loads(parser.parse(cut, [SEARCH], repair=True).calls[0].arguments) == {"query": "nat"}


def test_kimi_keeps_the_ids_of_the_model():
    _, cases = corpus("kimi_k2")
    two = next(str(case["text"]) for case in cases if case["case"] == "two calls")
    assert [call.id for call in PARSERS.load("kimi_k2")().parse(two).calls] == ["functions.search:0", "functions.write_file:1"]
