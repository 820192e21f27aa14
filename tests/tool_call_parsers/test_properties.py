"""What holds for every format and every text: nothing raises, nothing hangs, nothing but JSON comes out, streams agree."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.types import JsonObject, ToolSpec
from tests.tool_call_parsers.corpora import Case, corpora, found, parser_of, steps
from tool_call_parsers.base import CallStatus
from tool_call_parsers.registry import FORMATS
from tool_call_parsers.streaming import joined
from tool_call_parsers.tokens import SampledTokens, Vocabulary

NAMES = sorted(set(FORMATS) - {"response_template"})
TOOLS = [ToolSpec(name="f", description="", parameters={"type": "object", "properties": {"k": {"type": "string"}}})]
CASES = corpora()
JSON_PIECES = [*'{}[]()",:=\\\n \t', '"name": "f"', '"arguments": {}', "null", "<think>", "</think>", "f(k='v')", "é"]


def pieces_of(name: str) -> list[str]:
    parser = parser_of(name)
    return [*JSON_PIECES, *getattr(parser, "openers", ()), *getattr(parser, "closers", ())]


TEXTS = st.sampled_from(NAMES).flatmap(
    lambda name: st.tuples(
        st.just(name), st.lists(st.sampled_from(pieces_of(name)) | st.text(max_size=3), max_size=16).map("".join)
    )
)


@given(TEXTS, st.sampled_from([None, True, False]), st.booleans())
def test_no_text_raises_and_nothing_but_json_objects_comes_out(named: tuple[str, str], inside: bool | None, repair: bool):
    name, text = named
    parsed = parser_of(name).parse(text, TOOLS, starts_in_reasoning=inside, repair=repair)
    assert all(isinstance(json.loads(call.arguments), dict) for call in parsed.calls)
    assert all(bad.status is not CallStatus.OK for bad in parsed.malformed)


@given(TEXTS, st.sampled_from([None, True, False]), st.integers(1, 7))
def test_a_stream_of_any_text_says_what_the_whole_says(named: tuple[str, str], inside: bool | None, size: int):
    name, text = named
    stream = parser_of(name).stream(TOOLS, starts_in_reasoning=inside)
    events = [event for start in range(0, len(text), size) for event in stream.feed(text[start : start + size])]
    streamed = found(joined([*events, *stream.close()]))
    assert streamed == found(parser_of(name).parse(text, TOOLS, starts_in_reasoning=inside))


@given(st.sampled_from(CASES), st.data())
def test_a_completion_cut_anywhere_does_not_raise(case: Case, data: st.DataObject):
    length = data.draw(st.integers(0, len(case.text)))
    parser_of(case.format).parse(case.text[:length], case.tools)


@given(st.sampled_from(NAMES), st.binary(max_size=64))
def test_no_bytes_raise(name: str, raw: bytes):
    parser_of(name).parse(raw.decode("utf-8", "surrogateescape"), TOOLS)


@pytest.mark.parametrize("name", ["mistral", "xlam", "jamba", "granite"])
def test_what_repair_makes_no_call_of_stays_malformed(name: str):
    text = opened(name).removesuffix("```") + '[{"name": "f", "arguments": {}}, {"x": "'
    parsed = parser_of(name).parse(text, repair=True)
    assert [len(parsed.calls), [bad.status for bad in parsed.malformed]] == [1, [CallStatus.UNCLOSED]]


def opened(name: str) -> str:
    return str(next(iter(getattr(parser_of(name), "openers", ())), ""))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    "piece", ["{", "[", '{"a": ', " ", "("], ids=["braces", "brackets", "members", "blanks", "parentheses"]
)
def test_work_grows_with_the_length_of_a_hostile_text(name: str, piece: str):
    short, long = (steps(parser_of(name), opened(name) + piece * count, TOOLS) for count in (1_000, 4_000))
    assert long < 5 * short + 1000


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("text", [" " * 100_000, "{" * 10_000, "[" * 10_000], ids=["blanks", "braces", "brackets"])
def test_a_long_hostile_text_is_no_call(name: str, text: str):
    assert parser_of(name).parse(opened(name) + text, TOOLS).calls == ()


def spelled(ids: list[int]) -> SampledTokens:
    """Ids of a vocabulary whose first tokens are markers and whose others are single characters."""
    return SampledTokens(ids, VOCABULARY)


MARKERS = {0: "<tool_call>", 1: "</tool_call>", 2: "<think>", 3: "</think>"}
VOCABULARY = Vocabulary(MARKERS, lambda ids: "".join(MARKERS.get(one, chr(one)) for one in ids))


def characters(text: str) -> list[int]:
    return [ord(one) for one in text]


CALL = '{"name": "f", "arguments": {"k": "v"}}'


def test_a_marker_that_is_a_token_begins_a_call():
    assert len(parser_of("hermes").parse(spelled([0, *characters(CALL), 1])).calls) == 1


def test_a_marker_that_was_spelled_is_text():
    text = f"<tool_call>{CALL}</tool_call>"
    parsed = parser_of("hermes").parse(spelled(characters(text)))
    assert (parsed.calls, parsed.content) == ((), text)


def test_a_marker_that_was_spelled_inside_of_arguments_stays_as_it_was():
    written: JsonObject = {"k": "</tool_call><tool_call>"}
    call = json.dumps({"name": "f", "arguments": written})
    (found_call,) = parser_of("hermes").parse(spelled([0, *characters(call), 1])).calls
    assert json.loads(found_call.arguments) == written
