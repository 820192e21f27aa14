"""What a hermes-format model wrote, against the corpus, against cases of other projects, and against hostile texts."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.types import JsonObject, ToolSpec
from tests.tool_call_parsers.corpora import steps
from tool_call_parsers.base import PARSERS, CallStatus
from tool_call_parsers.hermes import HermesParser

ROOT = Path(__file__).parents[2]
HEADER, *CORPUS = [
    json.loads(line) for line in (ROOT / "tool_call_parsers/corpus/hermes.jsonl").read_text("utf-8").splitlines()
]
TOOLS = [ToolSpec.model_validate(tool) for tool in HEADER["tools"]]
PARSER = HermesParser()

SHARED = ROOT.parent / "shared/data"
STRICT = {
    923: "a brace is missing in the middle; which one is a guess",
    925: "the object is not closed; the completion was cut",
}


def shared_cases(name: str) -> list[JsonObject]:
    """Cases that other projects test with, where that folder lies beside the checkout."""
    path = SHARED / name
    rows = [json.loads(line) for line in path.read_text("utf-8").splitlines()] if path.is_file() else []
    return [row for row in rows if row["parser"] == "hermes" and row.get("id") not in STRICT]


def calls_of(text: str, **options: bool) -> list[list[object]]:
    return [[call.name, json.loads(call.arguments)] for call in PARSER.parse(text, **options).calls]


def test_the_registry_knows_the_format():
    assert PARSERS.load("hermes") is HermesParser


@pytest.mark.parametrize("case", CORPUS, ids=lambda case: case["case"])
def test_corpus(case: JsonObject):
    parsed = PARSER.parse(case["text"], TOOLS, starts_in_reasoning=case.get("starts_in_reasoning", False))
    assert [[call.name, json.loads(call.arguments)] for call in parsed.calls] == case["calls"]
    assert [bad.status.value for bad in parsed.malformed] == case.get("malformed", [])
    assert (parsed.reasoning, parsed.content) == (case.get("reasoning"), case.get("content", ""))


@pytest.mark.parametrize("case", shared_cases("parser_cases.jsonl"), ids=lambda case: str(case["id"]))
def test_cases_of_other_projects(case: JsonObject):
    parsed = PARSER.parse(case["text"], starts_in_reasoning=bool(case.get("starts_in_reasoning")))
    asserted = set(case["asserted"])
    expected = [[call["name"], call["arguments"]] for call in case["expect_calls"] or []]
    found = [[call.name, json.loads(call.arguments)] for call in parsed.calls]
    if asserted & {"count", "names", "args", "no_calls"}:
        assert found == expected
    if "content" in asserted:
        assert parsed.content == (case["expect_content"] or "")
    if "reasoning" in asserted:
        assert parsed.reasoning == case["expect_reasoning"]


@pytest.mark.parametrize("case", shared_cases("parser_issue_strings.jsonl"), ids=lambda case: case["ref"])
def test_strings_from_bug_reports(case: JsonObject):
    assert calls_of(case["text"]) == [[call["name"], call["arguments"]] for call in case["want_calls"]]


def test_arguments_stay_as_they_were_written():
    written = '{"b":1.0,  "a" : 1e3}'
    (call,) = PARSER.parse(f'<tool_call>{{"name": "f", "arguments": {written}}}</tool_call>').calls
    assert call.arguments == written


def test_ids_of_calls_are_unique():
    text = '<tool_call>{"name": "f", "arguments": {}}</tool_call>' * 50
    assert len({call.id for call in (*PARSER.parse(text).calls, *PARSER.parse(text).calls)}) == 100


def test_a_wrong_argument_says_which_and_why():
    text = '<tool_call>{"name": "write_file", "arguments": {"path": 1, "content": ""}}</tool_call>'
    (bad,) = PARSER.parse(text, TOOLS).malformed
    assert bad.problem == "write_file: path: 1 is not of type 'string'"
    assert bad.call is not None


def test_an_unknown_tool_says_which_ones_there_are():
    (bad,) = PARSER.parse('<tool_call>{"name": "finnish", "arguments": {}}</tool_call>', TOOLS).malformed
    assert bad.problem == "no tool 'finnish'; did you mean 'finish'?; known: write_file, finish"


def test_a_long_wrong_value_makes_a_short_problem():
    text = f'<tool_call>{{"name": "write_file", "arguments": {{"path": {[1] * 5000}, "content": ""}}}}</tool_call>'
    assert len(PARSER.parse(text, TOOLS).malformed[0].problem) == 400


@pytest.mark.parametrize(
    "text",
    [
        "<tool_call>" + " " * 100_000,
        "<tool_call>" + "{" * 10_000,
        "<tool_call>" + '{"a":' * 10_000,
        '<tool_call>{"name": "f", "arguments": ' + '{"a":' * 900 + "1" + "}" * 901,
        '<tool_call>{"name": ' + "1" * 10_000,
        "<think>" * 10_000,
        "<tool_call>\ud800",
        '<tool_call>{"name": "\\ud800", "arguments": {}}</tool_call>',
    ],
    ids=["blanks", "braces", "nesting", "deep arguments", "digits", "thinking", "surrogate", "surrogate name"],
)
def test_a_hostile_text_is_no_call(text: str):
    assert PARSER.parse(text, TOOLS).calls == ()


@pytest.mark.parametrize(
    "piece", ['<tool_call>{"a": ["', '"<tool_call>{", ": [", ", "', '<tool_call>{"name":"f","arguments":{}} x']
)
def test_work_grows_with_the_length_of_a_hostile_text(piece: str):
    assert steps(PARSER, piece * 4000, []) < 2.5 * steps(PARSER, piece * 2000, [])


def test_after_too_much_broken_json_blocks_are_refused_unread():
    parsed = PARSER.parse('<tool_call>{"a": [1 ' * 12_000 + '<tool_call>{"name": "f", "arguments": {}}')
    assert parsed.malformed[-1].problem == "too many broken blocks before this one"


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(st.lists(st.tuples(st.text(min_size=1), st.dictionaries(st.text(), JSON, max_size=3)), max_size=3), st.booleans())
def test_what_is_rendered_is_parsed_again(calls: list[tuple[str, dict[str, object]]], escaped: bool):
    blocks = [json.dumps({"name": name, "arguments": arguments}, ensure_ascii=escaped) for name, arguments in calls]
    text = "\n".join(f"<tool_call>\n{block}\n</tool_call>" for block in blocks)
    assert calls_of(text) == [list(call) for call in calls]


PIECES = [
    "<tool_call>",
    "</tool_call>",
    "<think>",
    "</think>",
    '{"name": "finish", "arguments": {}}',
    '"',
    "{",
    "}",
    ":",
    "\\",
    "\n",
]


@given(st.lists(st.sampled_from(PIECES) | st.text(max_size=3), max_size=20).map("".join), st.booleans())
def test_no_text_raises_and_nothing_but_json_comes_out(text: str, starts_in_reasoning: bool):
    parsed = PARSER.parse(text, TOOLS, starts_in_reasoning=starts_in_reasoning)
    assert all(json.loads(call.arguments) == {} for call in parsed.calls)
    assert all(bad.status is not CallStatus.OK for bad in parsed.malformed)


@given(st.integers(min_value=0, max_value=200))
def test_a_text_cut_anywhere_does_not_raise(length: int):
    text = "<think>why</think>" + CORPUS[1]["text"]
    assert len(PARSER.parse(text[:length], TOOLS).calls) <= 2
